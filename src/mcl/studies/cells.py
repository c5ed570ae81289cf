"""From a study to its cells: data x start x parts x budget x labels x steps x seeds."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from mcl.studies.study import Start, Study


@dataclass(frozen=True)
class Variant:
    """A start with one combination of its grid and one choice of parts.

    Attributes:
        name: what tables call it.
        recipe: its name without the parts: what is pre-trained.
        entry: the start's name in the study.
        parts: handed on; None: all that was trained.
        pretrain: settings of ``mcl pretrain`` by dotted names, over the study's; the method's name among them.
    """

    name: str
    recipe: str
    entry: str
    start: Start
    parts: str | None
    pretrain: dict[str, Any]

    def __hash__(self) -> int:
        return hash(self.name)


@dataclass(frozen=True)
class Cell:
    """One fine-tuning that counts: trained on ``labels`` scenes for ``steps`` and measured on the test scenes.

    Attributes:
        data: name of the data set.
        amount: place among the budget's amounts; none for what is not pre-trained.
        labels: None: all.
        steps: None: as the study's ``finetune`` says.
        pretrain_seed: none for what is not pre-trained.
        seed: of fine-tuning.
    """

    data: str
    variant: Variant
    amount: int | None
    labels: int | None
    steps: int | None
    pretrain_seed: int | None
    seed: int

    @property
    def group(self) -> tuple[Any, ...]:
        """What cells have in common that differ in seeds alone."""
        return self.data, self.variant.name, self.amount, self.labels, self.steps


def variants_of(study: Study) -> list[Variant]:
    """Every start of the study, one for each combination of its grid and each of its parts."""
    found = []
    for entry, start in study.starts.items():
        for values in itertools.product(*start.grid.values()):
            chosen = dict(zip(start.grid, values, strict=True))
            pretrain = {**flat(start.pretrain), **chosen}
            if start.method:
                pretrain["method.name"] = start.method
            tail = "".join(f" {key.rpartition('.')[2]}={_short(value)}" for key, value in chosen.items())
            choices = start.parts or [None]
            for parts in choices:
                name = entry + tail + (f" ({parts})" if len(choices) > 1 else "")
                found.append(Variant(name, entry + tail, entry, start, parts, pretrain))
    return found


def cells_of(study: Study) -> list[Cell]:
    """Every cell, those of the first seeds first, so that a study that is broken off shows all starts."""
    cells = [cell for variant in variants_of(study) for cell in _cells_of(study, variant)]
    return sorted(cells, key=lambda cell: (_place(study.seeds, cell.seed), _place(study.pretrain_seeds, cell.pretrain_seed)))


def _cells_of(study: Study, variant: Variant) -> Iterator[Cell]:
    start, pretrained = variant.start, variant.start.method is not None
    amounts = range(len(study.budget.amounts)) if pretrained else [None]
    own = list(start.pretrain_seeds or study.pretrain_seeds) if pretrained else [None]
    for data in start.data or study.data:
        if isinstance(start.trunk, dict) and data not in start.trunk:
            continue
        for values in itertools.product(amounts, start.labels or study.labels, study.steps, own, start.seeds or study.seeds):
            yield Cell(data, variant, *values)


def other_seed(cell: Cell, seed: int) -> Cell:
    """The same cell with another seed of fine-tuning."""
    return replace(cell, seed=seed)


def flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings under dotted names."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        nested = isinstance(value, dict) and value and all(isinstance(name, str) for name in value)
        found |= flat(value, f"{prefix}{key}.") if nested else {f"{prefix}{key}": value}
    return found


def _place(seeds: list[int], seed: int | None) -> int:
    return seeds.index(seed) if seed in seeds else len(seeds) * (seed is not None)


def _short(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value).replace(" ", "")
