"""Read settings from recipe, file and command line into one checked object.

Order of precedence: command line (or Python keyword arguments) over ``--config FILE`` over ``--recipe NAME``
over the defaults; a resumed run's own ``config.yaml`` lies below them all but the defaults. pydantic checks types and ranges; what it finds is turned into one line a mistake.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, ClassVar, TypeVar, get_args

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError, model_validator
from pydantic_core import PydanticUndefined
from pydantic_settings import BaseSettings, CliPositionalArg, CliSettingsSource, SettingsConfigDict
from pydantic_settings.exceptions import SettingsError

from mcl.config.choice import Choice, choose, others_with, specialised, without_other_kinds
from mcl.config.explain import explain_parse_error, explain_validation, nearest_setting
from mcl.config.saved import saved_file
from mcl.config.unused import OnlyWith, refuse_unused
from mcl.errors import UserError, did_you_mean

C = TypeVar("C", bound="Command")
#: what a switch understands (pydantic's words)
YES, NO = ("true", "yes", "on", "1", "t", "y"), ("false", "no", "off", "0", "f", "n")
BY_PLACE = get_args(CliPositionalArg[str])[1:]  # what marks a setting that is given without its name


class Section(BaseModel):
    """A group of settings inside a command (``--section.setting``)."""

    # No number may be infinite or NaN: it would only come out in the loss, or nowhere.
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    #: texts that may be a place on this machine
    locations: ClassVar[tuple[str, ...]] = ()
    #: settings of which one is given: a layer that sets one takes away what layers below said of the others
    one_of: ClassVar[tuple[str, ...]] = ()


class Command(BaseSettings):
    """All settings of one command; subclasses with ``recipe`` and ``config`` fields read those files too."""

    model_config = SettingsConfigDict(
        extra="forbid",
        allow_inf_nan=False,
        cli_kebab_case=False,
        cli_avoid_json=True,
        cli_hide_none_type=True,
    )

    #: sections whose settings depend on a name that is given, such as ``method.name``
    choices: ClassVar[tuple[Choice, ...]] = ()
    #: texts that may be a place on this machine
    locations: ClassVar[tuple[str, ...]] = ()
    #: settings that do nothing without certain others
    only_with: ClassVar[tuple[OnlyWith, ...]] = ()
    #: settings that most people use, shown by ``--help`` where there are many
    common: ClassVar[tuple[str, ...]] = ()
    #: command whose recipes it takes
    recipes_of: ClassVar[str] = "pretrain"

    @classmethod
    def recipes(cls) -> list[str]:
        """Names of the recipes that it takes."""
        return recipe_names(cls.recipes_of)

    @model_validator(mode="after")
    def _continue_or_replace(self) -> Command:
        if getattr(self, "resume", False) and getattr(self, "overwrite", False):
            raise ValueError("give --resume to continue the run in --out or --overwrite to replace it, not both")
        return self

    @classmethod
    def settings_customise_sources(cls, settings_cls, init_settings, **_):
        # Environment variables would be a hidden fourth source.
        return (init_settings,)


def from_arguments(command: type[C], argv: Sequence[str], prog: str) -> C:
    """Build ``command`` from command-line arguments.

    Args:
        command: the settings class.
        argv: arguments after the command's name; ``-`` and ``_`` in flags are the same.
        prog: what help and errors call the command, e.g. ``"mcl pretrain"``.

    Raises:
        UserError: unknown flag (with the nearest known one) or a value out of its type or range.
        SystemExit: after ``--help``.
    """
    command = _chosen(command, _layers(command, _words_given(argv)))
    flags = {flag for flag, _ in flat_fields(command)}
    try:
        source = CliSettingsSource(
            command, cli_parse_args=_canonical(argv, command), cli_prog_name=prog, cli_exit_on_error=False
        )
        given = source()
    except SettingsError as error:
        raise UserError(
            explain_parse_error(str(error), flags, prog, lambda name: others_with(command, name))
        ) from None
    return from_keywords(command, _with_nulls(command, given))


def from_keywords(command: type[C], given: Mapping[str, Any]) -> C:
    """``from_values`` of what a person has given: a setting that is not used is refused.

    Raises:
        UserError: as ``from_values``; or a setting that does nothing with these others.
    """
    settings = from_values(command, given)
    refuse_unused(settings, _nest(given))
    return settings


def from_values(command: type[C], given: Mapping[str, Any]) -> C:
    """Build ``command`` from nested or dotted keys, e.g. ``{"optim.lr": 0.1}`` or ``{"optim": {"lr": 0.1}}``.

    Raises:
        UserError: unknown key or recipe, unreadable file, value out of its type or range.
    """
    layers = _layers(command, _nest(given))
    command = _chosen(command, layers)
    merged = _section_defaults(command)
    for origin, layer in layers:
        layer = without_other_kinds(command, layer, origin)
        _check_keys(command, layer, origin, lambda name: others_with(command, name))
        merged = _merge(_without_rivals(command, merged, layer), layer)
    try:
        return command(**merged)
    except ValidationError as error:
        raise UserError(explain_validation(error, layers)) from None


def used_values(command: type[C], argv: Sequence[str]) -> tuple[type[C], dict[str, tuple[Any, str]]]:
    """What would be used if only a recipe, a file and names of methods were given of a command line.

    Returns:
        The command with the settings of those names, and dotted name -> (value, the file it is from; "" for the
        command's own); the value of a setting that must be given is pydantic's ``PydanticUndefined``.

    Raises:
        UserError: an unknown recipe or name, an unreadable file.
    """
    layers = _layers(command, _words_given(argv))
    command = _chosen(command, layers)
    merged, origins = _section_defaults(command), {}
    for origin, layer in layers:
        layer = without_other_kinds(command, layer, origin)
        merged = _merge(_without_rivals(command, merged, layer), layer)
        origins |= dict.fromkeys(_leaves(layer), origin)
    used = {}
    for name, field in flat_fields(command):
        value: Any = merged
        for part in name.split("."):
            value = value.get(part, PydanticUndefined) if isinstance(value, Mapping) else PydanticUndefined
        given = value is not PydanticUndefined
        used[name] = (value if given else field.get_default(call_default_factory=True), origins.get(name, "") if given else "")
    return command, used


def from_dump(command: type[C], dumped: Mapping[str, Any]) -> C:
    """Build ``command`` again from what ``model_dump(by_alias=True)`` gave, reading no file."""
    return _chosen(command, [("", dict(dumped))])(**dumped)


def kinds_of(command: type[C]) -> Iterator[tuple[Choice, str, type[C]]]:
    """Every name of every choice of a command, with the command as it is with that name."""
    for choice in command.choices:
        for name in choice.names():
            yield choice, name, _chosen(command, [("", {choice.section: {"name": name}})])


def recipe_names(command: str | None = None) -> list[str]:
    """Names of the recipes shipped in the package; of those for one command, if that is asked for."""
    files = sorted(p.name for p in resources.files("mcl.recipes").iterdir() if p.name.endswith(".yaml"))
    names = [name.removesuffix(".yaml") for name in files]
    return [name for name in names if command in (None, recipe_command(name))]


def recipe_command(name: str) -> str:
    """The command that a shipped recipe is for (its ``command``; ``pretrain`` where it says nothing)."""
    return _recipe_file(name).get("command", "pretrain")


def read_recipe(name: str, command: str | None = None) -> dict[str, Any]:
    """Settings that a shipped recipe states itself; what it builds on (``base``) is in ``recipe_layers``.

    Args:
        command: that it must be for, if any.

    Raises:
        UserError: there is none, with the nearest name; or it is another command's.
    """
    if name not in recipe_names():
        known = recipe_names(command)
        raise UserError(f"--recipe: no recipe {name!r}{did_you_mean(name, known)}; there are: {', '.join(known)}")
    values = _recipe_file(name)
    values.pop("base", None)
    owner = values.pop("command", "pretrain")
    if command not in (None, owner):
        raise UserError(f"--recipe {name}: is a recipe of mcl {owner}; there are: {', '.join(recipe_names(command))}")
    return values


def recipe_layers(name: str, command: str | None = None) -> list[tuple[str, dict[str, Any]]]:
    """(where they stand, settings) of a recipe and of the recipes that it builds on, the lowest first.

    Layers and not one merged table: a recipe for RetinaNet may build on one for Mask R-CNN, whose own settings then
    fall away as they do under ``--detector.name``.

    Raises:
        UserError: as ``read_recipe``.
    """
    own = (f"recipe {name}", read_recipe(name, command))
    base = _recipe_file(name).get("base")
    return [*(recipe_layers(base, command) if base else []), own]


def _recipe_file(name: str) -> dict[str, Any]:
    return yaml.safe_load((resources.files("mcl.recipes") / f"{name}.yaml").read_text("utf-8")) or {}


def dump(command: BaseModel) -> str:
    """The resolved settings as YAML that ``--config`` takes back."""
    return yaml.safe_dump(
        command.model_dump(mode="json", exclude={"config", "resume", "overwrite", "allow_changed", "dry_run"}),
        sort_keys=False,
        allow_unicode=True,
    )


def flat_fields(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every leaf setting as ``(dotted name, pydantic FieldInfo)``, in the order of definition."""
    for name, field in _fields(model).items():
        section = _section_of(field.annotation)
        if section is not None:
            yield from flat_fields(section, f"{prefix}{name}.")
        else:
            yield prefix + name, field


def _layers(command: type[Command], values: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """(where they stand, settings) of the run to resume, recipe, file and what was given (""), lowest first."""
    layers: list[tuple[str, dict[str, Any]]] = []
    if saved := saved_file(command, values):
        layers.append((str(saved), _read_yaml(saved, "--resume")))
    if "recipe" in command.model_fields:
        file = _read_yaml(Path(values["config"]), "--config") if values.get("config") else {}
        default = None if saved else command.model_fields["recipe"].default
        recipe = values.get("recipe") or file.get("recipe") or default
        if recipe:
            layers += recipe_layers(recipe, command.recipes_of)
        if file:
            layers.append((str(values["config"]), file))
        if recipe:
            values["recipe"] = recipe
    return [*layers, ("", values)]


def _chosen(command: type[C], layers: Sequence[tuple[str, Mapping[str, Any]]]) -> type[C]:
    """The command with the settings of the names that the highest layer gives."""
    return specialised(command, choose(command.choices, layers))


def _words_given(argv: Sequence[str]) -> dict[str, Any]:
    """What decides which settings there are, read off the command line before it is parsed: names, recipe, file."""
    given: dict[str, Any] = {}
    for position, word in enumerate(argv):
        name, equals, value = word.removeprefix("--").partition("=")
        name = name.replace("-", "_")
        following = argv[position + 1] if position + 1 < len(argv) else ""
        if word.startswith("--") and (name in ("recipe", "config", "out") or name.endswith(".name")):
            given[name] = value if equals else following
        elif word.startswith("--") and name == "resume":
            given[name] = str((value if equals else following).lower() not in NO)
    return _nest({key: None if value == "none" else value for key, value in given.items()})


def _fields(model: type[BaseModel]) -> dict[str, Any]:
    """Fields by the name that users give (``alias``: for names that Python keeps to itself, like ``with``)."""
    return {field.alias or name: field for name, field in model.model_fields.items()}


def _section_of(annotation: Any) -> type[Section] | None:
    for option in (annotation, *get_args(annotation)):
        if isinstance(option, type) and issubclass(option, Section):
            return option
    return None


def _canonical(argv: Sequence[str], command: type[Command]) -> list[str]:
    """Flags under their one name and with a value: ``--image-size``, ``--resume`` and ``--no-resume`` are understood."""
    flags = {name: _words_of_switch(field.annotation) for name, field in flat_fields(command)}
    by_place = any(is_by_place(field) for field in command.model_fields.values())
    words: list[str] = []
    for position, argument in enumerate(argv):
        name, equals, value = argument[2:].partition("=")
        name = name.replace("-", "_") if argument.startswith("--") else ""
        if name in flags:
            words.append(f"--{name}{equals}{value}")
            following = argv[position + 1] if position + 1 < len(argv) else "--"
            if flags[name] and not equals and not _is_value(following, flags[name], by_place):
                words.append("true")
        elif flags.get(name.removeprefix("no_")) and not equals:
            words += [f"--{name.removeprefix('no_')}", "false"]
        else:
            words.append(argument)
    return words


def _words_of_switch(annotation: Any) -> set[str]:
    """What a setting takes that may be given as a bare ``--flag``: a bool, or one that knows other words too (``auto``)."""
    if annotation is not bool and bool not in get_args(annotation):
        return set()
    return {*YES, *NO, *(word for option in get_args(annotation) for word in get_args(option))}


def _is_value(word: str, known: set[str], by_place: bool) -> bool:
    """Whether the word after a bare ``--flag`` is its value; where words have places of their own, only a known one is."""
    return word.lower() in known or not (by_place or word.startswith("-"))


def is_by_place(field: Any) -> bool:
    """Whether a setting is given by its place, without its name."""
    return any(mark in BY_PLACE for mark in field.metadata)


def _with_nulls(command: type[BaseModel], given: Mapping[str, Any]) -> dict[str, Any]:
    """The word ``none`` as null, for settings that may be null."""
    read = {}
    for key, value in given.items():
        annotation = _fields(command)[key].annotation
        section = _section_of(annotation)
        if section is not None and isinstance(value, Mapping):
            value = _with_nulls(section, value)
        elif value == "none" and type(None) in get_args(annotation):
            value = None
        read[key] = value
    return read


def _nest(given: Mapping[str, Any]) -> dict[str, Any]:
    nested: dict[str, Any] = {}
    for key, value in given.items():
        target = nested
        *parents, leaf = str(key).split(".")
        for parent in parents:
            target = target.setdefault(parent, {})
        if isinstance(value, Mapping) and isinstance(target.get(leaf), dict):
            target[leaf] = _merge(target[leaf], _nest(value))
        else:
            target[leaf] = _nest(value) if isinstance(value, Mapping) else value
    return nested


def _merge(below: dict[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for key, value in above.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = _merge(dict(merged[key]), value) if both else value
    return merged


def _leaves(values: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """Dotted names of all that a layer sets."""
    for key, value in values.items():
        yield f"{prefix}{key}"
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{key}.")


def _section_defaults(command: type[Command]) -> dict[str, Any]:
    """A command's own defaults of its sections, which may differ from the section class's."""
    defaults = {n: f.get_default(call_default_factory=True) for n, f in command.model_fields.items()}
    return {name: default.model_dump() for name, default in defaults.items() if isinstance(default, Section)}


def _without_rivals(
    command: type[Command], below: dict[str, Any], layer: Mapping[str, Any]
) -> dict[str, Any]:
    kept = dict(below)
    for name, values in layer.items():
        section = _section_of(_fields(command)[name].annotation)
        if (
            section
            and isinstance(values, Mapping)
            and any(values.get(key) is not None for key in section.one_of)
        ):
            kept[name] = {
                key: value for key, value in kept.get(name, {}).items() if key not in section.one_of
            }
    return kept


def _read_yaml(path: Path, flag: str) -> dict[str, Any]:
    try:
        values = yaml.safe_load(path.read_text("utf-8"))
    except OSError as error:
        raise UserError(f"{flag} {path}: {error.strerror or error}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{flag} {path}: not valid YAML: {' '.join(str(error).split())}") from None
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise UserError(f"{flag} {path}: expected 'setting: value' lines, found a {type(values).__name__}")
    return _nest(values)


def _check_keys(
    model: type[BaseModel], values: Mapping[str, Any], origin: str, elsewhere: Callable[[str], str], prefix: str = ""
) -> None:
    for key, value in values.items():
        field = _fields(model).get(key)
        if field is None:
            known = [prefix + name for name in _fields(model)] + [
                name for name, _ in flat_fields(model, prefix)
            ]
            where = f"{origin}: " if origin else ""
            name = f"{prefix}{key}"
            raise UserError(
                f"{where}unknown setting {name!r}{elsewhere(name) or nearest_setting(name, known)}"
            )
        section = _section_of(field.annotation)
        if section is not None and isinstance(value, Mapping):
            _check_keys(section, value, origin, elsewhere, f"{prefix}{key}.")
