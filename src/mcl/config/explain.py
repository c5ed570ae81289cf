"""What settings libraries say about a mistake, in one line that a user can act on."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from typing import Any

from pydantic import ValidationError

from mcl.errors import did_you_mean


def nearest_setting(name: str, known: list[str]) -> str:
    """Nearest setting; a user who forgot the section ("lr" for "optim.lr") is told the full name."""
    leaf = name.rpartition(".")[2]
    same_leaf = [candidate for candidate in known if candidate.rpartition(".")[2] == leaf]
    return f" (did you mean {same_leaf[0]!r}?)" if same_leaf else did_you_mean(name, known)


def explain_parse_error(
    message: str, flags: set[str], prog: str, elsewhere: Callable[[str], str] = lambda name: ""
) -> str:
    """argparse's complaint about the command line, with the nearest flag.

    Args:
        message: as pydantic-settings passes it on.
        flags: all dotted setting names of the command.
        prog: what the command is called.
        elsewhere: says of an unknown setting where it would be known, or "".
    """
    text = message.removeprefix("error parsing CLI: ")
    if "unrecognized arguments:" in text:
        unknown = text.partition("unrecognized arguments:")[2].split()
        flag = next((word for word in unknown if word.startswith("--")), None)
        if flag is None:
            return f"unexpected argument {unknown[0]!r}; settings are given as --name VALUE ({prog} --help all lists them)"
        name = flag[2:].partition("=")[0].replace("-", "_")
        if name in flags:
            return f"{name} is given by its place, without '--{name}': {prog} {name.upper()} ..."
        near = elsewhere(name) or nearest_setting(name, sorted(flags))
        return f"unknown setting '--{name}'{near}; {prog} --help all lists them"
    if "ambiguous option" in text:
        name = text.partition("ambiguous option: --")[2].split()[0]
        near = difflib.get_close_matches(name, flags, n=3, cutoff=0.3)
        return (
            f"--{name} is not a full setting name; did you mean one of: {', '.join('--' + n for n in near)}?"
        )
    return " ".join(text.split())


def explain_validation(error: ValidationError, layers: list[tuple[str, dict[str, Any]]]) -> str:
    """pydantic's complaints about values: setting, what is wanted, what was given, and the file it stands in.

    Args:
        layers: (file or "" for the command line, its values), lowest first.
    """
    lines = []
    for problem in error.errors():
        # Locations of union members and list items are kept; pydantic's own tags (in brackets) are not.
        path = [str(part) for part in problem["loc"] if not str(part).startswith(("function-", "tagged-"))]
        if path[-1:] == ["bool"]:
            continue  # of a switch that knows other words too: the complaint about those comes next and names all
        is_switch = path and path[-1].startswith("literal[")
        path = path[:-1] if is_switch else path
        name = ".".join(path)
        if problem["type"] == "missing":
            lines.append(f"--{name} is required")
            continue
        if problem["type"] in ("bool_parsing", "bool_type"):
            problem = {**problem, "msg": "Input should be true or false"}
        message = problem["msg"].removeprefix("Value error, ").removeprefix("Input should be ").strip()
        is_rule = problem["type"] == "value_error"
        wanted = message if is_rule else f"must be {'true, false or ' * is_switch}{message}"
        origin = next((origin for origin, layer in reversed(layers) if _has(layer, path)), "")
        where = f"{origin}: " if origin else ""
        value = "" if is_rule or isinstance(problem["input"], Mapping) else f", got {problem['input']!r}"
        hint = _choice_hint(problem)
        lines.append(
            f"{where}{'--' if not origin else ''}{name}: {wanted}{value}{hint}"
            if name
            else f"{where}{wanted}"
        )
    return "; ".join(dict.fromkeys(lines))


def _choice_hint(problem: Mapping[str, Any]) -> str:
    if problem["type"] not in ("literal_error", "enum"):
        return ""
    choices = problem["ctx"]["expected"].replace(" or ", ", ").replace("'", "").split(", ")
    return did_you_mean(str(problem["input"]), choices)


def _has(layer: Mapping[str, Any], path: list[str]) -> bool:
    for part in path:
        if not isinstance(layer, Mapping) or part not in layer:
            return False
        layer = layer[part]
        if not isinstance(layer, Mapping):
            return True
    return True
