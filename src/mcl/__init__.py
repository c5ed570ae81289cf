"""mcl: pre-train a detector's whole trunk on unlabeled images.

Every command of the command line has a twin here that takes the same settings as keywords (nested as
dictionaries, or dotted: ``**{"optim.lr": 0.1}``) and returns the same summary:

>>> mcl.pretrain(data="photos", out="runs/pretrain", recipe="mcl-r18-64")      # doctest: +SKIP
"""

from __future__ import annotations

import importlib
import os
import sys
import types
from typing import Any

# Before torch: see cli.py.
os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")

__all__ = [
    "bench_data", "bench_loop", "bench_scale", "bench_step", "compare",
    "data_compose", "data_demo", "data_trees", "demo", "doctor", "evaluate", "export", "finetune", "load_detector", "load_trunk",
    "methods", "models", "predict", "pretrain", "push", "recipes", "report", "schema",
]  # fmt: skip

# Functions that are no command: name -> module.
LOADERS = {"load_detector": "mcl.detect.loaded", "load_trunk": "mcl.nn.trunk"}


def __getattr__(name: str) -> Any:
    # Imported when asked for: ``import mcl`` must not take torch's seconds.
    if name in LOADERS:
        return getattr(importlib.import_module(LOADERS[name]), name)
    from mcl.run.commands import COMMANDS

    entry = COMMANDS.get(name.replace("_", " "))
    if entry is None or name not in __all__:
        raise AttributeError(f"module 'mcl' has no attribute {name!r}")
    return _twin(name, *entry)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def _twin(name: str, settings_module: str, settings_class: str, module: str, function: str, summary: str):
    def call(**settings: Any) -> dict[str, Any]:
        from mcl.config.base import from_keywords

        command = getattr(importlib.import_module(settings_module), settings_class)
        checked = from_keywords(command, settings)  # first: mistakes need not wait for torch
        return getattr(importlib.import_module(module), function)(checked)

    call.__name__ = call.__qualname__ = name
    described = importlib.import_module("mcl.config.described")
    command = getattr(importlib.import_module(settings_module), settings_class)
    call.__doc__ = f"``mcl {name.replace('_', ' ')}``: {summary}.\n\n{described.as_text(command)}"
    call.__signature__ = described.signature(command)
    return call


class _Room(types.ModuleType):
    """A room that has a command's name (``mcl.methods``, ``mcl.report``): called, it is the command's twin."""

    def __call__(self, **settings: Any) -> dict[str, Any]:
        from mcl.run.commands import COMMANDS

        name = self.__name__.removeprefix("mcl.")
        return _twin(name, *COMMANDS[name])(**settings)


class _Package(types.ModuleType):
    def __setattr__(self, name: str, value: Any) -> None:
        # Importing a room puts it here in the place of the twin.
        if name in __all__ and type(value) is types.ModuleType:
            value.__class__ = _Room
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
