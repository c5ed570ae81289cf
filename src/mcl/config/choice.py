"""Sections of which there are several kinds: ``--method.name`` decides which settings ``--method.*`` has.

The kinds are rooms of their own (a folder a method) above this one, so a choice names their registry by a string,
which is looked up when a command's settings are read.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeVar

from pydantic import BaseModel, create_model

from mcl.errors import UserError, did_you_mean

M = TypeVar("M", bound=BaseModel)


@dataclass(frozen=True)
class Choice:
    """A section whose class follows from its setting ``name``.

    Attributes:
        section: of the command, for example ``method``.
        default: name that is taken where none is given.
        registry: module that holds ``names()`` and ``settings_of(name)``, the section's class for a name.
    """

    section: str
    default: str
    registry: str

    def names(self) -> tuple[str, ...]:
        """All kinds there are."""
        return tuple(self._registry("names")())

    def settings_of(self, name: str, origin: str = "") -> type[BaseModel]:
        """The section's class for a name.

        Raises:
            UserError: there is no such kind; with the nearest.
        """
        if name not in self.names():
            where = f"{origin}: {self.section}.name" if origin else f"--{self.section}.name"
            raise UserError(
                f"{where}: no {self.section} {name!r}{did_you_mean(str(name), self.names())}; "
                f"there are: {', '.join(self.names())}"
            )
        return self._registry("settings_of")(name)

    def _registry(self, function: str) -> Callable[..., Any]:
        return getattr(importlib.import_module(self.registry), function)


def choose(
    choices: Iterable[Choice], layers: Sequence[tuple[str, Mapping[str, Any]]]
) -> dict[str, type[BaseModel]]:
    """section -> its class, by the name that the highest layer gives.

    Args:
        layers: (file or "" for what the user gave, its values), lowest first.
    """
    found = {}
    for choice in choices:
        given = [(name, origin) for origin, layer in layers if (name := _name_in(layer, choice.section))]
        name, origin = given[-1] if given else (choice.default, "")
        found[choice.section] = choice.settings_of(name, origin)
    return found


def specialised(command: type[M], classes: Mapping[str, type[BaseModel]]) -> type[M]:
    """The command with these classes as its sections (the same class for the same choice)."""
    return _specialised(command, tuple(sorted(classes.items(), key=lambda item: item[0]))) if classes else command


@cache
def _specialised(command: type[M], classes: tuple[tuple[str, type[BaseModel]], ...]) -> type[M]:
    return create_model(
        command.__name__, __base__=command, __module__=command.__module__, __doc__=command.__doc__,
        **{section: (kind, kind()) for section, kind in classes},
    )  # fmt: skip


def without_other_kinds(
    command: type[BaseModel], layer: Mapping[str, Any], origin: str = ""
) -> dict[str, Any]:
    """A layer without what it gives for another kind than the chosen one (a recipe's own method).

    Kinds of one ``family`` share settings: of a section for another of them those stay that the chosen one has too.

    Args:
        origin: file that the layer stands in.
    """
    kept = dict(layer)
    for choice in command.choices:
        section, chosen = choice.section, command.model_fields[choice.section].default
        name = _name_in(layer, section)
        if name in (None, chosen.name):
            continue
        family = getattr(chosen, "family", None)
        if family and getattr(choice.settings_of(name, origin), "family", None) == family:
            known = type(chosen).model_fields
            kept[section] = {key: value for key, value in dict(layer[section]).items() if key in known}
        else:
            del kept[section]
    return kept


def others_with(command: type[BaseModel], setting: str) -> str:
    """``"; it is a setting of mcl, not of byol"`` for a dotted setting that only other kinds have, or ``""``."""
    section, _, leaf = setting.partition(".")
    for choice in command.choices:
        if choice.section == section:
            chosen = command.model_fields[section].default.name
            others = [name for name in choice.names() if leaf in choice.settings_of(name).model_fields]
            return f"; it is a setting of {', '.join(others)}, not of {chosen}" if others else ""
    return ""


def _name_in(layer: Mapping[str, Any], section: str) -> str | None:
    values = layer.get(section)
    return values.get("name") if isinstance(values, Mapping) else getattr(values, "name", None)
