"""``mcl methods``: the pre-training methods side by side."""

from __future__ import annotations

from typing import Any

from mcl.bench.tables import Table, publish
from mcl.config.choice import Choice
from mcl.config.method import MethodSettings
from mcl.config.methods import MethodsSettings
from mcl.errors import UserError
from mcl.methods.build import wanted_of
from mcl.methods.flops import step_flops
from mcl.methods.registry import method_of

WHOLE = "backbone+pyramid+head"
COLUMNS = {
    "method": ("method", "{}"), "views": ("views, px", "{}"), "backbone": ("backbone", "{:.2f}x"),
    "whole": ("+pyramid+head", "{:.2f}x"),
}  # fmt: skip


def methods(settings: MethodsSettings) -> dict[str, Any]:
    """Print every method with its paper, views and cost; returns what ``--json`` holds."""
    choice = settings.choices[0]
    reference = sum(step_flops(_with(settings, choice.settings_of(choice.default)())).values())
    rows, told = [], []
    for name in choice.names():
        try:
            method_of(name)
        except UserError as error:  # a library is missing: the others are listed all the same
            told.append(str(error))
            continue
        rows.append(_row(settings, choice, name, reference))
    title = (
        f"Methods: cost of a training step by what it trains, against {choice.default}'s, in counted FLOPs "
        f"({settings.model.backbone}, {settings.image_size} px, {settings.batch} images)"
    )
    texts = [f"{row['method']}: {row['about']} {row['paper']}. Checked: {row['checked']}." for row in rows]
    return publish("methods", [Table(title, COLUMNS, rows, [*texts, *told])], settings)


def _row(settings: MethodsSettings, choice: Choice, name: str, reference: int) -> dict[str, Any]:
    kind = choice.settings_of(name)
    about = kind.about
    costs = {}
    # A method without the setting trains what it trains: all of the trunk.
    for column, parts in (("backbone", "backbone"), ("whole", WHOLE)):
        if "parts" in kind.model_fields or column == "whole":
            given = kind(parts=parts) if "parts" in kind.model_fields else kind()
            costs[column] = sum(step_flops(_with(settings, given)).values()) / reference
    sides = [spec.size for spec in wanted_of(_with(settings, kind())).views]
    views = ", ".join(f"{sides.count(side)}x{side}" for side in dict.fromkeys(sides))
    return {
        "method": name, "views": views, **costs, "about": about.sentence, "paper": about.paper, "checked": about.checked,
    }  # fmt: skip


def _with(settings: MethodsSettings, method: MethodSettings) -> MethodsSettings:
    return settings.model_copy(update={"method": method})
