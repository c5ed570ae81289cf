"""What a study's YAML may say; a mistake in it is one line."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from mcl.config.parts import Parts
from mcl.errors import UserError, did_you_mean
from mcl.studies.draws import Space


def _listed(value: Any) -> Any:
    return value if isinstance(value, list) or value is None else [value]


Many = BeforeValidator(_listed)  # an axis: one value, or a list of them
Count = Annotated[int, Field(ge=1)]
Seed = Annotated[int, Field(ge=0)]
PerData = str | dict[str, str]


class Part(BaseModel):
    """A group of entries of a study."""

    model_config = ConfigDict(extra="forbid")


class DataSet(Part):
    """Unlabeled images, labelled scenes, validation and test scenes. Relative paths start at ``folder``."""

    folder: Path
    unlabeled: str = "unlabeled"
    images: str = "."
    train: str = "train.json"
    val: str = "val.json"
    test: str = "test.json"
    take: Count | None = None

    def path(self, name: Literal["unlabeled", "images", "train", "val", "test"]) -> Path:
        """Where one of the entries is."""
        return self.folder / getattr(self, name)


class Budget(Part):
    """How long every method pre-trains.

    Attributes:
        equal: what is the same for all methods; FLOPs are those counted of forward and backward.
        amounts: of that; each is a budget of its own.
        like: name of a start; then ``amounts`` are its steps, and the others get what they cost in ``equal``.
    """

    equal: Literal["flops", "images", "steps"] = "flops"
    amounts: Annotated[list[Annotated[float, Field(gt=0)]], Many]
    like: str | None = None


class Teacher(Part):
    """A positive control: the trunk of the same detector after a training on many labelled scenes."""

    train: PerData
    images: PerData
    finetune: dict[str, Any] = {}


class Start(Part):
    """What a detector starts from: a method that the study pre-trains, a trunk, or a teacher's.

    Attributes:
        pretrain: settings of ``mcl pretrain`` over the study's.
        grid: pre-training setting -> values; a start of its own for each combination.
        trunk: ``none``, or run folder or file; maybe one for each data set.
        parts: handed on to the detector, a start of its own for each; default: all that was trained.
        search: more pre-training settings to search, of this start alone.
        data, labels, pretrain_seeds, seeds: fewer (or others) than the study's.
    """

    method: str | None = None
    pretrain: dict[str, Any] = {}
    grid: dict[str, list[Any]] = {}
    trunk: PerData | None = None
    teacher: Teacher | None = None
    parts: Annotated[list[Parts] | None, Many] = None
    freeze: Literal["none", "backbone", "trunk"] = "none"
    search: dict[str, Space] = {}
    data: Annotated[list[str] | None, Many] = None
    labels: Annotated[list[Count] | None, Many] = None
    pretrain_seeds: Annotated[list[Seed] | None, Many] = None
    seeds: Annotated[list[Seed] | None, Many] = None

    @model_validator(mode="after")
    def _one_source(self) -> Start:
        if sum(source is not None for source in (self.method, self.trunk, self.teacher)) != 1:
            raise ValueError("needs one of method, trunk (maybe 'none') and teacher")
        if self.method is None and (self.pretrain or self.grid or self.search):
            raise ValueError("pretrain, grid and search only go with method: nothing else is pre-trained")
        return self


class Tune(Part):
    """Fine-tuning settings that are searched for every start, with as many trials, on the validation scenes.

    Attributes:
        settings: of ``mcl finetune``. The first trial is the study's own settings.
        labels, steps: of the trials; default: the study's first.
    """

    settings: dict[str, Space]
    trials: Annotated[int, Field(ge=2)] = 8
    labels: Count | None = None
    steps: Count | None = None
    seed: Seed = 0


class Search(Part):
    """Pre-training settings by successive halving on the validation scenes, with as many draws for every start.

    Attributes:
        settings: of ``mcl pretrain``. The first draw is the study's own settings.
        rungs: shares of the budget; every draw gets the first, the best of them the next, and so on.
        keep: share that goes on.
        labels, steps: of the fine-tuning that judges; default: the study's first.
        freeze: in that fine-tuning.
    """

    settings: dict[str, Space]
    draws: Annotated[int, Field(ge=2)] = 9
    rungs: list[Annotated[float, Field(gt=0)]] = [1 / 9, 1 / 3, 1.0]
    keep: Annotated[float, Field(gt=0, lt=1)] = 1 / 3
    labels: Count | None = None
    steps: Count | None = None
    freeze: Literal["none", "backbone", "trunk"] = "none"
    seed: Seed = 0


class Study(Part):
    """A comparison: data x starts x labels x steps x seeds.

    Attributes:
        about: what it asks, for the reader of its tables.
        pretrain, finetune: settings of ``mcl pretrain`` and ``mcl finetune`` that all share.
        labels: numbers of labelled scenes; ``null``: all.
        label_draw: ``seed``: every seed draws scenes of its own (nested, the same for all starts); ``first``: the
            file's first.
        steps: lengths of fine-tuning; none: as ``finetune`` says.
        seeds, pretrain_seeds: of fine-tuning and of pre-training, crossed.
        reference: the start that differences are taken to.
        control: the start that is the other end of the way from the reference.
        eval_every: measure AP on the way, too, every so many steps.
        resamples: of the bootstrap.
    """

    about: str = ""
    data: dict[str, DataSet]
    pretrain: dict[str, Any] = {}
    finetune: dict[str, Any] = {}
    budget: Budget | None = None
    starts: dict[str, Start]
    labels: Annotated[list[Count | None], Many] = [None]
    label_draw: Literal["seed", "first"] = "seed"
    steps: Annotated[list[Count | None], Many] = [None]
    seeds: Annotated[list[Seed], Many] = [0]
    pretrain_seeds: Annotated[list[Seed], Many] = [0]
    reference: str | None = None
    control: str | None = None
    eval_every: Count | None = None
    tune: Tune | None = None
    search: Search | None = None
    resamples: Annotated[int, Field(ge=100)] = 1000

    @model_validator(mode="after")
    def _names_are_known(self) -> Study:
        for name in ("data", "starts", "labels", "steps", "seeds", "pretrain_seeds"):
            if not getattr(self, name):
                raise ValueError(f"{name} is empty: there is nothing to compare")
        wanted = {"reference": self.reference, "control": self.control, "budget.like": self.budget and self.budget.like}
        for entry, start in wanted.items():
            if start is not None and start not in self.starts:
                raise ValueError(f"{entry}: no start {start!r}{did_you_mean(start, self.starts)}")
        if self.budget and self.budget.like and self.starts[self.budget.like].method is None:
            raise ValueError(f"budget.like: {self.budget.like!r} is not pre-trained, so it has no steps")
        if self.budget is None and any(start.method for start in self.starts.values()):
            raise ValueError("budget is missing: it says how long the methods pre-train")
        if self.tune and self.search:
            raise ValueError("give tune or search, not both: first the recipe, then the comparison")
        for name, start in self.starts.items():
            for data in (start.data or []) + [d for d in _per_data(start) if start.data is None or d in start.data]:
                if data not in self.data:
                    raise ValueError(f"starts.{name}: no data {data!r}{did_you_mean(data, self.data)}")
        return self


def _per_data(start: Start) -> list[str]:
    given = [start.trunk, *([start.teacher.train, start.teacher.images] if start.teacher else [])]
    return [name for value in given if isinstance(value, dict) for name in value]


def read_study(path: Path) -> Study:
    """Read and check a study.

    Raises:
        UserError: unreadable, or with every mistake in one line.
    """
    try:
        values = yaml.safe_load(path.read_text("utf-8"))
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(values, dict):
        raise UserError(f"{path}: expected 'entry: value' lines of a study (docs/compare.md)")
    try:
        return Study(**values)
    except (ValidationError, TypeError) as error:
        problems = error.errors() if isinstance(error, ValidationError) else []
        lines = dict.fromkeys(_in_words(problem) for problem in problems) or {str(error): None}
        raise UserError(f"{path}: {'; '.join(lines)}") from None


def _in_words(problem: Any) -> str:
    path = [str(part) for part in problem["loc"] if not str(part).startswith(("function-", "list[", "dict[", "constrained"))]
    name = ".".join(path)
    if problem["type"] == "extra_forbidden":
        return f"unknown entry {name!r}{did_you_mean(path[-1], _known_beside(path))}"
    if problem["type"] == "missing":
        return f"{name} is required"
    message = problem["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
    if problem["type"] == "value_error":
        return f"{name}: {message}" if name else message
    return f"{name}: must be {message}, got {problem['input']!r}"


def _known_beside(path: list[str]) -> list[str]:
    groups = {"data": DataSet, "starts": Start, "budget": Budget, "tune": Tune, "search": Search}
    if len(path) == 1:
        return list(Study.model_fields)
    if "teacher" in path[:-1]:
        return list(Teacher.model_fields)
    return list(groups[path[0]].model_fields) if path[0] in groups else []
