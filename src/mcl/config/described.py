"""A command's settings as Python shows them: ``help(mcl.pretrain)``, and the signature that editors complete."""

from __future__ import annotations

import inspect
import keyword
import textwrap
from typing import Any

from pydantic_core import PydanticUndefined

from mcl.config.base import Command, flat_fields
from mcl.config.choice import specialised

WIDTH = 100


def as_text(command: type[Command]) -> str:
    """Every setting of a command with its default and what it does, a paragraph each."""
    lines = [(inspect.getdoc(command) or "").strip(), "", "Settings:"]
    defaults = _own_defaults(command)
    for name, field in flat_fields(_whole(command)):
        default = defaults.get(name, field.get_default(call_default_factory=True))
        shown = "required" if default is PydanticUndefined else f"default {default!r}"
        text = f"{name} ({shown}): {field.description or ''}"
        lines.append(textwrap.fill(text, WIDTH, initial_indent="  ", subsequent_indent="      "))
    for choice in command.choices:
        lines.append(f"  {choice.section}.name decides which other settings {choice.section} has: {', '.join(choice.names())}")
    return "\n".join(lines)


def signature(command: type[Command]) -> inspect.Signature:
    """Keywords of the Python twin; dotted names go in as ``**{"optim.lr": 0.1}`` or as dictionaries."""
    parameters = []
    for name, field in command.model_fields.items():
        if keyword.iskeyword(field.alias or name):  # export's ``with``: goes in as ``**{"with": ...}``
            continue
        default = field.get_default(call_default_factory=True)
        missing = inspect.Parameter.empty if default is PydanticUndefined else default
        parameters.append(inspect.Parameter(field.alias or name, inspect.Parameter.KEYWORD_ONLY, default=missing, annotation=field.annotation))
    return inspect.Signature([*parameters, inspect.Parameter("settings", inspect.Parameter.VAR_KEYWORD)])


def _whole(command: type[Command]) -> type[Command]:
    return specialised(command, {choice.section: choice.settings_of(choice.default) for choice in command.choices})


def _own_defaults(command: type[Command]) -> dict[str, Any]:
    """Defaults of sections that a command has made its own."""
    found = {}
    for name, field in command.model_fields.items():
        section = field.get_default(call_default_factory=True)
        if hasattr(section, "model_dump") and name not in {choice.section for choice in command.choices}:
            found |= {f"{name}.{leaf}": value for leaf, value in section.model_dump().items()}
    return found
