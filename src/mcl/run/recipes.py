"""``mcl recipes``: the shipped settings, listed, shown, and side by side."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import resources
from typing import Any

import yaml
from rich.table import Table

from mcl.config.base import Command, dump, from_values, read_recipe, recipe_command, recipe_names
from mcl.config.finetune import FinetuneSettings
from mcl.config.pretrain import PretrainSettings
from mcl.config.recipes import RecipesSettings
from mcl.engine.logging import console
from mcl.errors import UserError

# What a recipe does not say and a command must be told.
REQUIRED: Mapping[str, tuple[type[Command], dict[str, str]]] = {
    "pretrain": (PretrainSettings, {"data": "DATA", "out": "OUT"}),
    "finetune": (FinetuneSettings, {"trunk": "none", "train": "TRAIN", "val": "VAL", "images": "IMAGES", "out": "OUT"}),
}


def recipes(settings: RecipesSettings) -> dict[str, Any]:
    """Print the recipes, or one, or how several differ in all settings (defaults too).

    Returns:
        ``{"recipes": {name: about}}``, ``{"settings": ...}`` or ``{"differences": {setting: {name: value}}}``.

    Raises:
        UserError: no such recipe; or recipes of several commands to compare.
    """
    for name in settings.names:
        read_recipe(name)
    if not settings.names:
        return _list()
    if len(settings.names) == 1:
        (name,) = settings.names
        console.print(text_of(name).rstrip())
        return {"settings": read_recipe(name)}
    return _compare(settings.names)


def about_recipe(name: str) -> str:
    """The sentences at the head of a recipe."""
    comment = [line.lstrip("# ") for line in text_of(name).splitlines() if line.startswith("#")]
    return " ".join(comment)


def text_of(name: str) -> str:
    """A recipe's file as it is shipped."""
    return (resources.files("mcl.recipes") / f"{name}.yaml").read_text("utf-8")


def differing(names: list[str]) -> dict[str, dict[str, Any]]:
    """setting -> recipe -> value, of the settings in which recipes of one command differ.

    Raises:
        UserError: they are recipes of several commands.
    """
    owners = {name: recipe_command(name) for name in names}
    if len(set(owners.values())) > 1:
        told = ", ".join(f"{name} is for mcl {owner}" for name, owner in owners.items())
        raise UserError(f"recipes of one command can be compared: {told}")
    command, given = REQUIRED[owners[names[0]]]
    resolved = {name: _flat(yaml.safe_load(dump(from_values(command, {**given, "recipe": name})))) for name in names}
    keys = dict.fromkeys(key for values in resolved.values() for key in values)
    rows = {key: {name: values.get(key) for name, values in resolved.items()} for key in keys if key != "recipe"}
    return {key: row for key, row in rows.items() if any(value != row[names[0]] for value in row.values())}


def _list() -> dict[str, Any]:
    table = Table(title="recipes", title_justify="left")
    for heading in ("recipe", "of mcl", "what it is for"):
        table.add_column(heading, no_wrap=heading == "recipe")
    found = {name: about_recipe(name) for name in recipe_names()}
    for name, about in found.items():
        table.add_row(name, recipe_command(name), about)
    console.print(table, soft_wrap=False)
    console.print("mcl recipes NAME shows one, mcl recipes NAME NAME compares; --recipe NAME takes it")
    return {"recipes": found}


def _compare(names: list[str]) -> dict[str, Any]:
    rows = differing(names)
    table = Table(title=f"what differs, of all settings of mcl {recipe_command(names[0])}", title_justify="left")
    for heading in ("", *names):
        table.add_column(heading, overflow="fold")
    for key, row in rows.items():
        table.add_row(key, *("none" if value is None else str(value) for value in row.values()))
    console.print(table, soft_wrap=False)
    return {"differences": rows}


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return flat
