"""``mcl COMMAND --help``: the settings that people use, with the values that would be used; the others by group."""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from mcl.config.base import Command, flat_fields, is_by_place, used_values
from mcl.errors import UserError, did_you_mean

ALL, GENERAL = "all", "general"  # topics beside the sections: every setting, and those of no section
FEW = 16  # settings of a command that are shown at once
LEFT, NARROW, WIDE = 30, 60, 110  # columns: of names, and of a line at least and at most
# What stands for a value of a type; of a list that is empty, an example.
WORDS: dict[Any, str] = {int: "N", float: "X", str: "TEXT", Path: "PATH"}
EXAMPLES: dict[Any, str] = {int: "1,2", float: "0.1,0.5", str: "a,b", Path: "a,b"}


def help_topic(argv: Sequence[str]) -> str | None:
    """What the help is asked for about: the word after ``--help``, ``""`` without one, none if it is not asked for."""
    for position, word in enumerate(argv):
        flag, equals, value = word.partition("=")
        if flag in ("-h", "--help"):
            following = argv[position + 1] if position + 1 < len(argv) else ""
            return value if equals else "" if following.startswith("-") else following
    return None


def help_text(command: type[Command], argv: Sequence[str], topic: str, prog: str, width: int | None = None) -> str:
    """The help as text.

    Args:
        argv: the command line: a recipe, a file or a name of a method in it decides what would be used.
        topic: of ``help_topic``: ``all``, ``general``, a section, a setting, or nothing.
        width: columns; none: the terminal's.

    Raises:
        UserError: an unknown topic or recipe, or a file that cannot be read.
    """
    command, used = used_values(command, argv)
    width = min(WIDE, max(NARROW, width or shutil.get_terminal_size().columns))
    fields = dict(flat_fields(command))
    chosen = _chosen(command, fields, topic, prog)
    lines = [*_head(command, fields, prog, width), ""]
    group = None
    for name in chosen:
        section = name.rpartition(".")[0]
        if section != group and group is not None and len(chosen) > FEW:
            lines.append("")
        group = section
        lines += _entry(name, fields[name], *used[name], width)
    return "\n".join([*lines, "", *_foot(command, fields, chosen, used, topic, prog, width)])


def shown_value(value: Any) -> str:
    """A value as one gives it on the command line: ``none``, ``true``, ``0.2,1``, ``8=2``."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, Mapping):
        return ",".join(f"{shown_value(key)}={shown_value(item)}" for key, item in value.items())
    if isinstance(value, list | tuple):
        return ",".join(map(shown_value, value)) or "[]"
    return str(value)


def form_of(field: Any, value: Any = None) -> str:
    """What to put behind a setting's name: ``N``, ``true|false``, ``a|b``; of a list an example that it takes.

    Args:
        field: pydantic's.
        value: that would be used; where it is empty, the field's own example stands for it.
    """
    return _form(field.annotation, value or next(iter(field.examples or ()), None))


def _form(annotation: Any, value: Any) -> str:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _form(arguments[0], value)
    if origin in (Union, UnionType):
        return "|".join(_form(option, value) for option in arguments if option is not type(None))
    if origin is Literal:
        return "|".join(map(str, arguments))
    if origin is dict:
        return shown_value(value) if value else "8=2"
    if origin in (list, tuple):
        return shown_value(value) if value else EXAMPLES.get(_plain_type(arguments[0]), "a,b")
    return "true|false" if annotation is bool else WORDS.get(annotation, "TEXT")


def _plain_type(annotation: Any) -> Any:
    return get_args(annotation)[0] if get_origin(annotation) is Annotated else annotation


def _chosen(command: type[Command], fields: Mapping[str, Any], topic: str, prog: str) -> list[str]:
    """Names of the settings to show, in the order of the command."""
    if topic == ALL or not topic and len(fields) <= FEW:
        return list(fields)
    if not topic:
        known = [name for name in command.common if name in fields]
        return [name for name in fields if fields[name].is_required() and name not in known] + known
    wanted = topic.removeprefix("--").replace("-", "_")
    own = [name for name in fields if name.rpartition(".")[0] == ("" if wanted == GENERAL else wanted)]
    if wanted in fields or own:
        return [wanted] if wanted in fields else own
    topics = [ALL, *_groups(fields)]
    near = did_you_mean(wanted, [*topics, *fields])
    raise UserError(f"--help {topic}: no such setting or group of settings{near}; groups of {prog}: {', '.join(topics)}")


def _groups(fields: Mapping[str, Any]) -> list[str]:
    """Sections in their order, the settings of none first."""
    return list(dict.fromkeys(name.rpartition(".")[0] or GENERAL for name in fields))


def _head(command: type[Command], fields: Mapping[str, Any], prog: str, width: int) -> Iterator[str]:
    needed = [
        name.upper() if is_by_place(field) else f"--{name} {form_of(field)}" for name, field in fields.items() if field.is_required()
    ]
    optional = ["[--setting VALUE ...]"] * (len(needed) < len(fields))
    usage = " ".join(["usage:", prog, *needed, *optional])
    yield from textwrap.wrap(usage, width, subsequent_indent=" " * 8, break_long_words=False, break_on_hyphens=False)
    yield ""
    yield from textwrap.wrap(_about(command), width)


def _about(model: type[BaseModel]) -> str:
    """The first paragraph of its docstring."""
    return " ".join((model.__doc__ or "").strip().split("\n\n")[0].split())


def _entry(name: str, field: Any, value: Any, origin: str, width: int) -> Iterator[str]:
    place = is_by_place(field)
    left = f"  {name.upper()}" if place else f"  --{name} {form_of(field, None if value is PydanticUndefined else value)}"
    now = "required" if value is PydanticUndefined else shown_value(value) + ("*" if origin else "")
    text = textwrap.wrap(f"{field.description} [{now}]", width - LEFT, break_on_hyphens=False)
    if len(left) + 2 > LEFT:
        yield left
        left = ""
    for line in text:
        yield f"{left:<{LEFT}}{line}"
        left = ""


def _foot(
    command: type[Command], fields: Mapping[str, Any], chosen: Sequence[str], used: Mapping[str, tuple[Any, str]], topic: str,
    prog: str, width: int,
) -> Iterator[str]:  # fmt: skip
    notes = ["In brackets: what is used unless you say otherwise."]
    origins = [origin for origin in dict.fromkeys(used[name][1] for name in chosen) if origin]
    if origins:
        notes[0] += f" *: from {' and '.join(origins)}."
    if "recipe" in fields:
        notes.append(f"Another recipe's: {prog} --recipe NAME --help; there are {', '.join(command.recipes())}.")
    for choice in command.choices:
        if choice.section in _groups({name: fields[name] for name in chosen}):
            notes.append(f"Settings of another {choice.section}: {prog} --{choice.section}.name NAME --help {choice.section}.")
    if any(bool in (fields[name].annotation, *get_args(fields[name].annotation)) for name in chosen):
        notes.append("true|false: yes, no, on, off, 1 and 0 are understood, too; --name alone is true.")
    if left := len(fields) - len(chosen):
        groups = _groups(fields)
        some = f", or some: --help {'|'.join(groups)}" if len(groups) > 1 else ""
        notes.append(f"{left} more settings: {prog} --help {ALL}{some}.")
    for note in notes:
        yield from textwrap.wrap(note, width, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)

