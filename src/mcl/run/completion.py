"""``mcl completion``: a script for the shell, written from the settings themselves; at a key press nothing of mcl runs."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Sequence
from typing import Any, Literal, get_args, get_origin

from mcl.config.base import Command, flat_fields, kinds_of, recipe_names
from mcl.errors import UserError
from mcl.run.commands import COMMANDS

Commands = dict[str, tuple[str, str, str, str, str]]
#: shell -> where its script goes
HOW = {
    "bash": "mcl completion bash > ~/.local/share/bash-completion/completions/mcl",
    "zsh": "mcl completion zsh > ~/.mcl-completion, and source it in ~/.zshrc",
    "fish": "mcl completion fish > ~/.config/fish/completions/mcl.fish",
}
BASH = """# completion of mcl for {name}; written by: mcl completion {name}
{before}_mcl() {{
  local cur="${{COMP_WORDS[COMP_CWORD]}}" prev="${{COMP_WORDS[COMP_CWORD-1]}}" command="${{COMP_WORDS[1]}}" words=""
  COMPREPLY=()
  if [ "$COMP_CWORD" -eq 1 ]; then COMPREPLY=($(compgen -W "{first}" -- "$cur")); return; fi
  case "$command" in
{groups}
  esac
  case "$command $prev" in
{values}
  esac
  if [ -z "$words" ]; then
    case "$prev" in --*) COMPREPLY=($(compgen -f -- "$cur")); [[ "$cur" == --* ]] || return;; esac
    case "$command" in
{flags}
    esac
  fi
  if [[ "$cur" == --* || -n "$words" ]]; then COMPREPLY=($(compgen -W "$words" -- "$cur")); else COMPREPLY=($(compgen -f -- "$cur")); fi
}}
complete -o filenames -o bashdefault -F _mcl mcl
"""
ZSH = "autoload -U +X compinit && compinit\nautoload -U +X bashcompinit && bashcompinit\n"


def script(words: Sequence[str]) -> str:
    """The script for the shell that is named.

    Raises:
        UserError: none is, or another.
    """
    if len(words) != 1 or words[0] not in HOW:
        raise UserError("mcl completion: give bash, zsh or fish; " + "; ".join(HOW.values()))
    return fish_script(COMMANDS) if words[0] == "fish" else bash_script(COMMANDS, words[0])


def settings_of(command: type[Command]) -> dict[str, tuple[list[str], str]]:
    """flag without dashes -> (its values, if they are few and known; what it does), over all kinds of a command."""
    found: dict[str, tuple[list[str], str]] = {}
    for kind in [command, *(kind for _, _, kind in kinds_of(command))]:
        for name, field in flat_fields(kind):
            found.setdefault(name, (list(_values(field.annotation)), field.description or ""))
    for choice in command.choices:
        found[f"{choice.section}.name"] = (list(choice.names()), found[f"{choice.section}.name"][1])
    if "recipe" in found:
        found["recipe"] = (recipe_names(command.recipes_of), found["recipe"][1])
    return found


def bash_script(commands: Commands, shell: str) -> str:
    """For bash; for zsh with its own translation in front."""
    second: dict[str, list[str]] = {}
    for name in commands:
        first, _, rest = name.partition(" ")
        second.setdefault(first, []).extend([rest] if rest else [])
    groups, values, flags = [], [], []
    for first, rest in second.items():
        if rest:
            reply = f'COMPREPLY=($(compgen -W "{" ".join(rest)}" -- "$cur"))'
            groups.append(f'    {first}) if [ "$COMP_CWORD" -eq 2 ]; then {reply}; return; fi; command="$command ${{COMP_WORDS[2]}}";;')
    for name, (module, settings, *_) in commands.items():
        known = settings_of(getattr(importlib.import_module(module), settings))
        flags.append(f'      "{name}") words="{" ".join(f"--{flag}" for flag in [*known, "help"])}";;')
        values += [f'    "{name} --{flag}") words="{" ".join(words)}";;' for flag, (words, _) in known.items() if words]
    lines = {"groups": groups, "values": values, "flags": flags}
    return BASH.format(
        name=shell, before=ZSH if shell == "zsh" else "", first=" ".join(second), **{key: "\n".join(text) for key, text in lines.items()}
    ).rstrip("\n")


def fish_script(commands: Commands) -> str:
    """For fish, which also shows what a setting does."""
    lines = ["# completion of mcl for fish; written by: mcl completion fish", "complete -c mcl -n __fish_use_subcommand -f"]
    for name, (module, settings, _, _, about) in commands.items():
        first, _, rest = name.partition(" ")
        seen = f"__fish_seen_subcommand_from {first}"
        if rest:
            lines.append(f"complete -c mcl -n __fish_use_subcommand -fa {first}")
            lines.append(f"complete -c mcl -n {_quoted(f'{seen}; and not __fish_seen_subcommand_from {rest}')} -fa {rest} -d {_quoted(about)}")
            seen += f"; and __fish_seen_subcommand_from {rest}"
        else:
            lines.append(f"complete -c mcl -n __fish_use_subcommand -fa {first} -d {_quoted(about)}")
        for flag, (words, text) in settings_of(getattr(importlib.import_module(module), settings)).items():
            takes = f"-xa {_quoted(' '.join(words))}" if words else "-r"
            lines.append(f"complete -c mcl -n {_quoted(seen)} -l {flag} {takes} -d {_quoted(text.partition('.')[0])}")
    return "\n".join(lines)


def _values(annotation: Any) -> Iterator[str]:
    """The words that a setting takes, where they can be counted."""
    if annotation is bool:
        yield from ("true", "false")
    elif annotation is type(None):
        yield "none"
    elif get_origin(annotation) is Literal:
        yield from map(str, get_args(annotation))
    elif get_origin(annotation) is not None and type(None) not in get_args(annotation):
        options = [list(_values(option)) for option in get_args(annotation) if option is not ...]
        if get_origin(annotation) not in (list, tuple, dict) and all(options):
            yield from dict.fromkeys(word for words in options for word in words)


def _quoted(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
