"""The rooms of the house: who may import whom, whose privates are whose, whose settings a room may name."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import mcl

ROOT = Path(mcl.__file__).parent
# From the top to the bottom: a room imports from lower lines only, never from its own line or above.
FLOORS = (
    {"__main__"},
    {"cli", "__init__"},
    {"run"},
    {"checkup"},
    {"bench"},
    {"report"},
    {"studies"},
    {"methods", "detect", "sets"},
    {"engine", "data", "interop"},
    {"nn"},
    {"config"},
    {"signals", "randomness", "run_files", "streams", "files", "recipes"},
    {"errors"},
)
# A choice (mcl.config.choice) names the registry of its kinds by a string, which is looked up when a command's settings
# are read: config knows that there are methods, and none of them. The table of formats is named so, too.
REGISTRIES = {"mcl.methods.registry", "mcl.detect.registry", "mcl.interop.formats"}
# Rooms that know no command, and the settings that they may name in a message because they take them: sections of
# mcl.config, and what a run folder is opened with.
NAMED = {
    "engine": (r"(optim|schedule|loop|watch)\.\w+", "out", "resume", "overwrite"),
    "data": (r"views\.\w+", r"max_(missing|pixels|unreadable)", r"data_(root|cache|column)"),
}


def modules() -> dict[str, ast.Module]:
    """Dotted name -> its tree."""
    names = {path: ".".join(("mcl", *path.relative_to(ROOT).with_suffix("").parts)) for path in ROOT.rglob("*.py")}
    return {name.removesuffix(".__init__"): ast.parse(path.read_text("utf-8")) for path, name in names.items()}


MODULES = modules()


def room(module: str) -> str:
    """``mcl.engine.loop -> engine``, ``mcl -> __init__``."""
    return (module.split(".") + ["__init__"])[1]


def imports(tree: ast.Module) -> list[tuple[str, str]]:
    """(module of ours, name taken from it) of every import, also of those inside functions."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "mcl":
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                found.append((whole, "") if whole in MODULES else (node.module, alias.name))
        elif isinstance(node, ast.Import):
            found += [(alias.name, "") for alias in node.names if alias.name.split(".")[0] == "mcl"]
    return found


def needs(module: str, tree: ast.Module) -> set[str]:
    """Modules of ours that a module imports, or names by a string to import them later (as cli.py does)."""
    strings = {n.value for n in ast.walk(tree) if isinstance(n, ast.Constant) and n.value in MODULES}
    return {other for other, _ in imports(tree)} | strings - {"mcl", module, *REGISTRIES}


def test_every_room_has_its_floor():
    assert {room(module) for module in MODULES} <= set().union(*FLOORS)


def test_nothing_points_up_or_sideways():
    floor = {name: number for number, names in enumerate(FLOORS) for name in names}
    wrong = [
        f"{module} imports {other}"
        for module, tree in MODULES.items()
        for other in sorted(needs(module, tree))
        if room(module) != room(other) and floor[room(other)] <= floor[room(module)]
    ]
    assert wrong == []


def without_types(tree: ast.Module) -> ast.Module:
    """A module without what is imported for type hints alone."""
    body = [n for n in tree.body if not (isinstance(n, ast.If) and ast.unparse(n.test) == "TYPE_CHECKING")]
    return ast.Module(body, tree.type_ignores)


def test_there_is_no_circle_of_modules():
    graph = {module: needs(module, without_types(tree)) for module, tree in MODULES.items()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def private(name: str) -> bool:
    return len(name) > 1 and name.startswith("_") and not name.startswith("__")


def defined_privates(tree: ast.Module) -> set[str]:
    """Private functions, classes, methods and attributes that a module makes."""
    made = {n.name for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.ClassDef)}
    made |= {n.id for n in ast.walk(tree) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
    made |= {n.attr for n in ast.walk(tree) if isinstance(n, ast.Attribute) and isinstance(n.ctx, ast.Store)}
    return set(filter(private, made))


def reached_privates(tree: ast.Module) -> set[str]:
    """Private names that a module imports, reaches as attributes of something, or names in a string of their own."""
    reached = {name for _, name in imports(tree)}
    reached |= {n.attr for n in ast.walk(tree) if isinstance(n, ast.Attribute)}
    reached |= {n.value for n in ast.walk(tree) if isinstance(n, ast.Constant) and isinstance(n.value, str)}
    return set(filter(private, reached))


def test_no_private_of_another_room_is_touched():
    made = defaultdict(set)
    for module, tree in MODULES.items():
        made[room(module)] |= defined_privates(tree)
    wrong = []
    for module, tree in MODULES.items():
        for name in sorted(reached_privates(tree) - made[room(module)]):
            wrong += [f"{module} touches {other}'s {name}" for other, names in made.items() if name in names]
    assert wrong == []


@pytest.mark.parametrize("low", NAMED)
def test_low_rooms_name_no_flag_that_they_do_not_own(low):
    wrong = []
    for module, tree in MODULES.items():
        if room(module) != low:
            continue
        docs = {id(n.value) for n in ast.walk(tree) if isinstance(n, ast.Expr)}
        texts = [n.value for n in ast.walk(tree) if isinstance(n, ast.Constant) and isinstance(n.value, str) and id(n) not in docs]
        flags = {flag for text in texts for flag in re.findall(r"(?<![\w-])--([a-z][\w.]*\w)", text)}
        wrong += [f"{module} names --{flag}" for flag in sorted(flags) if not any(re.fullmatch(p, flag) for p in NAMED[low])]
    assert wrong == []
