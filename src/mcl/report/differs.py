"""Which of a run's settings are not its recipe's."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from mcl.config.base import Command, from_values
from mcl.config.finetune import FinetuneSettings
from mcl.config.help import shown_value
from mcl.config.pretrain import PretrainSettings
from mcl.errors import UserError
from mcl.report.runs import FINETUNE, PRETRAIN, Run

COMMANDS: dict[str, type[Command]] = {PRETRAIN: PretrainSettings, FINETUNE: FinetuneSettings}
# What every run must give: it stands apart, and a recipe says nothing of it.
GIVEN = {
    PRETRAIN: ("data", "out"),
    FINETUNE: ("trunk", "train", "val", "images", "val_images", "out"),
}


def inputs(run: Run) -> dict[str, str]:
    """What a run was given that no recipe holds, as text."""
    names = GIVEN.get(run.kind, tuple(run.settings))
    return {name: shown_value(run.settings[name]) for name in names if run.settings.get(name) is not None}


def changed_settings(run: Run) -> list[tuple[str, str, str]]:
    """(setting, as the recipe has it, as the run had it), in the order of the settings.

    Settings that the recipe of today does not know, or that a run of an older version did not, are left out.
    """
    usual = _of_recipe(run)
    if usual is None:
        return []
    before, own = dict(_flat(usual)), dict(_flat(run.settings))
    skipped = {*GIVEN[run.kind], "recipe"}
    return [
        (name, shown_value(before[name]), shown_value(own[name]))
        for name in before
        if name in own and name not in skipped and before[name] != own[name]
    ]


def rebuilt(run: Run) -> Command | None:
    """A run's settings as its command had them; none if today's command cannot be given them."""
    command = COMMANDS.get(run.kind)
    try:
        return from_values(command, dict(run.settings)) if command else None
    except UserError:
        return None


def _of_recipe(run: Run) -> dict[str, Any] | None:
    """All settings as the recipe (or, without one, the defaults) gives them to this kind of method and detector."""
    command = COMMANDS.get(run.kind)
    if command is None:
        return None
    values: dict[str, Any] = {name: run.settings.get(name) or "none" for name in GIVEN[run.kind]}
    for choice in command.choices:
        name = (run.settings.get(choice.section) or {}).get("name")
        values |= {choice.section: {"name": name}} if name else {}
    if run.kind == FINETUNE:  # some settings only go with others: the trunk's
        values |= {key: run.settings[key] for key in ("like", "freeze") if run.settings.get(key)}
    try:
        resolved = from_values(command, {**values, "recipe": run.settings.get("recipe")})
    except UserError:
        return None
    return resolved.model_dump(mode="json", by_alias=True)


def _flat(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in settings.items():
        if isinstance(value, Mapping) and all(isinstance(key, str) for key in value) and value and not prefix:
            yield from _flat(value, f"{name}.")
        else:
            yield prefix + name, value
