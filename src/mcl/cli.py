"""The command line: picks the command, reads its settings, prints errors as one line. Nothing else."""

from __future__ import annotations

import importlib
import os
import sys
import time
from collections.abc import Mapping, Sequence

# Must be set before torch is imported: torch's own lines about connections that break, beside our one that says why.
# (OMP_WAIT_POLICY is left alone: with PASSIVE a step of small maps took 1.4 times as long, loader process and all.)
os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")

from mcl.run.commands import COMMANDS, LABELLED  # noqa: E402
from mcl.streams import lead_to_nowhere, open_closed_streams, tell  # noqa: E402

HELP = ("-h", "--help", "help")


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of ``mcl``; returns the exit code (2 for a mistake in the input)."""
    argv = list(sys.argv[1:] if argv is None else argv)
    from mcl.errors import UserError, printable

    open_closed_streams()
    try:
        if not argv or argv[0] in HELP:
            print(_usage(COMMANDS))
            return 0
        if argv[0] in ("-V", "--version"):
            from importlib.metadata import version

            print(f"mcl {version('mcl')}")
            return 0
        if argv[1:2] and argv[1] in HELP and argv[0] not in COMMANDS and (group := _group(argv[0])):
            print(_usage(group))
            return 0
        if argv[0] == "completion":
            print(importlib.import_module("mcl.run.completion").script(argv[1:]))
            return 0
        name, rest = _command(argv)
        settings_module, settings_class, module, function, _ = COMMANDS[name]
        from mcl.config.base import from_arguments
        from mcl.config.help import help_text, help_topic

        command = getattr(importlib.import_module(settings_module), settings_class)
        if (topic := help_topic(rest)) is not None:
            print(help_text(command, rest, topic, f"mcl {name}"))
            return 0
        settings = from_arguments(command, rest, f"mcl {name}")
        if name in LABELLED:  # a mistake in labels need not wait for torch
            importlib.import_module("mcl.run.annotations").read_ahead(settings)
        result = getattr(importlib.import_module(module), function)(settings)
        if isinstance(result, dict) and "message" in result:
            print("\n".join(map(printable, result["message"].split("\n"))))
        return 0
    except UserError as error:
        _tell(error)
        return _leave(error.exit_code)
    except KeyboardInterrupt:
        tell("mcl: stopped")
        return _leave(130)
    except PermissionError as error:  # of an input, wherever it is read (outputs are looked at before)
        _tell(UserError(f"{error.filename or 'a file'}: {error.strerror or error}"))
        return _leave(UserError.exit_code)
    except BrokenPipeError:  # as of any tool: mcl models | head
        return 141
    finally:
        try:
            sys.stdout.flush()
        except OSError:  # a full disk under a log: Python would end with an error of its own
            lead_to_nowhere(sys.stdout)


def _tell(error: Exception) -> None:
    """Print an error; of settings that every process of a run finds wrong, rank 0 alone does."""
    from mcl.engine.processes.launch import rank_by_environment
    from mcl.errors import printable

    if rank_by_environment() == 0 or "mcl.engine.processes.job" in sys.modules:
        tell("\n".join(map(printable, f"mcl: error: {error}".splitlines())))
    else:
        time.sleep(15)  # a launcher ends all processes with the first: rank 0, maybe slower, must have told it by then


def _leave(exit_code: int) -> int:
    job = sys.modules.get("mcl.engine.processes.job")
    return job.leave(exit_code) if job else exit_code


def _command(argv: list[str]) -> tuple[str, list[str]]:
    from mcl.errors import UserError, did_you_mean

    for words in (2, 1):
        name = " ".join(argv[:words])
        if name in COMMANDS:
            return name, argv[words:]
    if known := [name.split()[1] for name in _group(argv[0])]:
        given = argv[1] if len(argv) > 1 else ""
        raise UserError(f"mcl {argv[0]}: give one of {', '.join(known)}{did_you_mean(given, known)}")
    raise UserError(f"unknown command {argv[0]!r}{did_you_mean(argv[0], COMMANDS)}; mcl --help lists them")


def _group(word: str) -> dict[str, tuple[str, ...]]:
    """The commands of two words that begin with this one."""
    return {name: entry for name, entry in COMMANDS.items() if name.startswith(f"{word} ")}


def _usage(commands: Mapping[str, tuple[str, ...]]) -> str:
    width = max(map(len, commands))
    lines = [f"  {name:<{width}}  {entry[4]}" for name, entry in commands.items()]
    if commands is not COMMANDS:
        group = next(iter(commands)).split()[0]
        return "\n".join([f"usage: mcl {group} COMMAND [--setting VALUE ...]", "", *lines, "", "mcl " + group + " COMMAND --help lists its settings."])
    return "\n".join(
        ["usage: mcl COMMAND [--setting VALUE ...]", "", "Pre-train a detector's trunk on unlabeled images, fine-tune it, measure it.", "",
         *lines, "", "mcl COMMAND --help lists a command's settings; mcl completion bash|zsh|fish prints a script for the shell."]
    )  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
