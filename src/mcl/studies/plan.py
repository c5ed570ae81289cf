"""The trainings of a study: which there are depends on the study, and on what its trials have found so far."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mcl.config.base import Command, from_values
from mcl.config.finetune import FinetuneSettings
from mcl.config.pretrain import PretrainSettings
from mcl.engine.machine.precision import format_of, with_format
from mcl.errors import UserError
from mcl.studies.budgets import Budgets
from mcl.studies.cells import Cell, Variant, cells_of, flat, variants_of
from mcl.studies.draws import draw
from mcl.studies.identity import (
    digest,
    file_identity,
    images_identity,
    trunk_identity,
    what_matters,
)
from mcl.studies.jobs import Job, write_list, write_scenes
from mcl.studies.study import DataSet, Study

Lines = Mapping[str, dict[str, Any]]
WINDOW = 32  # pixels of a trunk's image behind one cell of its windows


class Plan:
    """All trainings that can be told from what is known.

    Args:
        path: of the study, for errors.
        runs: folder of the run folders.
        threads: of each training.
    """

    def __init__(self, study: Study, path: Path, runs: Path, threads: int = 1) -> None:
        self.study, self.path, self.runs, self.threads = study, path, runs, threads
        self.variants = variants_of(study)
        self.cells = [] if study.search else cells_of(study)
        self.budgets = Budgets(study.budget, self._settings_by_name) if study.budget else None
        self._made: dict[Any, Job] = {}

    def jobs(self, lines: Lines) -> list[Job]:
        """Every training that is known by now, in the order to start them; those before what they are needed for.

        Args:
            lines: id -> what is in the book.
        """
        jobs: dict[str, Job] = {}
        for job in self._searched(lines) if self.study.search else self._compared(lines):
            jobs.setdefault(job.id, job)
        return list(jobs.values())

    def require_data(self) -> None:
        """Raises ``UserError`` with every file that is not there."""
        if missing := self.missing():
            raise UserError(f"{self.path}: not there: {', '.join(map(str, missing))}")

    def missing(self) -> list[Path]:
        """Files and folders that the study names and that are not there."""
        wanted = []
        for name, data in self.study.data.items():
            entries = ["images", "train", "test", *(["val"] if self.study.tune or self.study.search else [])]
            if any(v.start.method and name in (v.start.data or self.study.data) for v in self.variants):
                entries.append("unlabeled")
            wanted += [data.path(entry) for entry in entries]
        for start in self.study.starts.values():
            given = [start.trunk, *([start.teacher.train, start.teacher.images] if start.teacher else [])]
            for value in given:
                wanted += [Path(v) for v in (value.values() if isinstance(value, dict) else [value]) if _is_path(v)]
        return [path for path in dict.fromkeys(wanted) if not path.exists()]

    # The jobs of a comparison.

    def _compared(self, lines: Lines) -> Iterator[Job]:
        for cell in self.cells:
            before = self._before(cell.variant, cell.data, cell.amount, cell.pretrain_seed)
            yield from before
            chosen: dict[str, Any] | None = {}
            if self.study.tune:
                trials = self._trials(cell.variant, cell.data)
                for needed, trial in trials:
                    yield from needed
                    yield trial
                chosen = best_draw([trial.id for _, trial in trials], lines, self._tuned)
            if chosen is not None:
                yield self.cell_job(cell, before, chosen)

    def cell_jobs(self, lines: Lines) -> dict[Cell, str]:
        """cell -> id of its job, of the cells that are known by now (cells that do the same have the same job)."""
        found = {}
        for cell in self.cells:
            chosen: dict[str, Any] | None = {}
            if self.study.tune:
                ids = [trial.id for _, trial in self._trials(cell.variant, cell.data)]
                chosen = best_draw(ids, lines, self._tuned)
            if chosen is not None:
                before = self._before(cell.variant, cell.data, cell.amount, cell.pretrain_seed)
                found[cell] = self.cell_job(cell, before, chosen).id
        return found

    def cell_job(self, cell: Cell, before: list[Job], chosen: Mapping[str, Any]) -> Job:
        """The training of a cell, with the settings that its tuning has chosen."""
        length = before[0].facts["length"] if before and before[0].kind == "pretrain" else None
        facts = {
            "data": cell.data, "start": cell.variant.name, "entry": cell.variant.entry, "parts": cell.variant.parts,
            "freeze": cell.variant.start.freeze, "amount": cell.amount, "labels": cell.labels, "steps": cell.steps,
            "pretrain_seed": cell.pretrain_seed, "seed": cell.seed, "pretraining": length, "chosen": dict(chosen),
            "needs": [job.id for job in before],
        }  # fmt: skip
        return self._finetuning(
            "cell", cell.variant, cell.data, before, "test", cell.labels, cell.steps, cell.seed, facts=facts,
            chosen=chosen, eval_every=self.study.eval_every, freeze=cell.variant.start.freeze,
        )  # fmt: skip

    def _trials(self, variant: Variant, data: str) -> list[tuple[list[Job], Job]]:
        """Fine-tunings of a start that are judged on the validation scenes, with what each needs."""
        tune = self.study.tune
        labels, steps = tune.labels or self.study.labels[0], tune.steps or self.study.steps[0]
        amount = len(self.study.budget.amounts) - 1 if variant.start.method else None
        pretrain_seed = (variant.start.pretrain_seeds or self.study.pretrain_seeds)[0] if variant.start.method else None
        before = self._before(variant, data, amount, pretrain_seed)
        found = []
        for number in range(tune.trials):
            chosen = self._tuned(number)
            facts = {"data": data, "start": variant.name, "number": number, "chosen": chosen}
            trial = self._finetuning(
                "trial", variant, data, before, "val", labels, steps, tune.seed, facts=facts, chosen=chosen,
                freeze=variant.start.freeze,
            )  # fmt: skip
            found.append((before, trial))
        return found

    def _tuned(self, number: int) -> dict[str, Any]:
        return draw(self.study.tune.settings, number, self.study.tune.seed)

    # The jobs of a search.

    def _searched(self, lines: Lines) -> Iterator[Job]:
        for data in self.study.data:
            for variant in self.variants:
                if data not in (variant.start.data or self.study.data):
                    continue
                if variant.start.method:
                    yield from self._halving(variant, data, lines)
                else:
                    before = self._before(variant, data, None, None)
                    yield from before
                    yield self._judging(variant, data, before, {"number": 0, "rung": None, "chosen": {}})

    def _halving(self, variant: Variant, data: str, lines: Lines) -> Iterator[Job]:
        search = self.study.search
        numbers = list(range(search.draws))
        for rung, share in enumerate(search.rungs):
            ids = {}
            for number in numbers:
                chosen = self.recipe(variant, number)
                job = self._pretraining(variant, data, len(self.study.budget.amounts) - 1, search.seed, chosen, share)
                yield job
                facts = {"number": number, "rung": rung, "chosen": chosen, "length": job.facts["length"]}
                trial = self._judging(variant, data, [job], facts)
                ids[number] = trial.id
                if lines.get(job.id, {}).get("failed"):
                    ids[number] = job.id  # it has no trunk to judge
                else:
                    yield trial
            if not all(one in lines for one in ids.values()):
                return
            ranked = sorted(numbers, key=lambda number: -score_of(lines[ids[number]]))  # noqa: B023 (used at once)
            numbers = ranked[: math.ceil(search.keep * len(ranked))]

    def recipe(self, variant: Variant, number: int) -> dict[str, Any]:
        """Pre-training settings of a search's draw."""
        return draw({**self.study.search.settings, **variant.start.search}, number, self.study.search.seed)

    def _judging(self, variant: Variant, data: str, before: list[Job], facts: dict[str, Any]) -> Job:
        search = self.study.search
        labels, steps = search.labels or self.study.labels[0], search.steps or self.study.steps[0]
        facts = {"data": data, "start": variant.name, **facts, "needs": [job.id for job in before]}
        return self._finetuning(
            "trial", variant, data, before, "val", labels, steps, search.seed, facts=facts, freeze=search.freeze
        )

    # One job each.

    def _before(self, variant: Variant, data: str, amount: int | None, seed: int | None) -> list[Job]:
        if variant.start.method:
            return [self._pretraining(variant, data, amount, seed)]
        return [self._teaching(variant, data)] if variant.start.teacher else []

    def _pretraining(
        self, variant: Variant, data: str, amount: int, seed: int, chosen: Mapping[str, Any] | None = None, share: float = 1.0
    ) -> Job:  # fmt: skip
        key = ("pretrain", variant.entry, digest(variant.pretrain), data, amount, seed, digest(dict(chosen or {})), share)
        if key not in self._made:
            self._made[key] = self._new_pretraining(variant, data, amount, seed, dict(chosen or {}), share)
        return self._made[key]

    def _new_pretraining(
        self, variant: Variant, data: str, amount: int, seed: int, chosen: dict[str, Any], share: float
    ) -> Job:
        source, prepare, identity = self._unlabeled(self.study.data[data])
        given = {**variant.pretrain, **chosen, "data": str(source), "seed": seed}
        settings = self._pretrain_settings(variant.entry, given)
        length = self.budgets.length(settings, amount, share)
        warmup = min(settings.schedule.warmup_steps, length.steps // 4)
        timed = {"schedule.steps": length.steps, "schedule.warmup_steps": warmup, "schedule.epochs": None}
        settings = self._pretrain_settings(variant.entry, {**given, **timed})
        job = "pretrain-" + digest(what_matters(settings, {"data": identity, "data_root": None}))
        return Job(
            job, "pretrain", f"{data}: pre-train {variant.recipe}{_numbers(chosen)}, seed {seed}", "pretrain",
            self._placed(settings, job), prepare=prepare, may_fail=self.study.search is not None,
            facts={"data": data, "start": variant.recipe, "length": asdict(length), "seed": seed,
                   "source": str(self.study.data[data].path("unlabeled"))},
        )  # fmt: skip

    def _teaching(self, variant: Variant, data: str) -> Job:
        key = ("teacher", variant.entry, data)
        if key not in self._made:
            teacher = variant.start.teacher
            train, images = Path(_of(teacher.train, data, variant)), _of(teacher.images, data, variant)
            settings = self._finetune_settings(
                variant.entry, data, {**flat(teacher.finetune), "trunk": "none", "train": train, "images": images, "seed": 0}
            )
            job = "teacher-" + digest(self._finetune_identity(settings, "none", file_identity(train)))
            self._made[key] = Job(
                job, "teacher", f"{data}: teach {variant.entry}", "finetune", self._placed(settings, job),
                facts={"data": data, "start": variant.entry},
            )  # fmt: skip
        return self._made[key]

    def _finetuning(
        self, kind, variant: Variant, data: str, before: list[Job], split: str, labels: int | None, steps: int | None,
        seed: int, facts: dict[str, Any], freeze: str, chosen: Mapping[str, Any] | None = None, eval_every: int | None = None,
    ) -> Job:  # fmt: skip
        ids = [job.id for job in before]
        key = (kind, variant.name, data, *ids, split, labels, steps, seed, freeze, eval_every, digest([facts, chosen]))
        if key not in self._made:
            self._made[key] = self._new_finetuning(
                kind, variant, data, before, split, labels, steps, seed, facts, freeze, dict(chosen or {}), eval_every
            )
        return self._made[key]

    def _new_finetuning(
        self, kind, variant: Variant, data: str, before: list[Job], split: str, labels: int | None, steps: int | None,
        seed: int, facts: dict[str, Any], freeze: str, chosen: dict[str, Any], eval_every: int | None,
    ) -> Job:  # fmt: skip
        files, given = self.study.data[data], flat(chosen)
        trunk = str(before[0].folder) if before else _of(variant.start.trunk, data, variant)
        source, prepare, scenes = self._labelled(files, labels, seed)
        given |= {"trunk": trunk, "train": source, "val": files.path(split), "seed": seed, "freeze": freeze}
        given |= {"eval_every": eval_every, "parts": None if trunk == "none" else variant.parts}
        given |= {"schedule.steps": steps, "schedule.epochs": None} if steps is not None else {}
        settings = self._finetune_settings(variant.entry, data, given)
        start = before[0].id if before else trunk_identity(trunk)
        identity = self._finetune_identity(settings, start, scenes) | {"eval_every": eval_every}
        job = f"{kind}-{digest(identity)}"
        length = before[0].facts.get("length") if before else None
        after = f" after {length['steps']:,} steps" if length else ""
        title = f"{data}: {variant.name}{after}, {labels or 'all'} labels{_numbers(chosen)}, seed {seed}"
        return Job(
            job, kind, title, "finetune", self._placed(settings, job), tuple(one.id for one in before), prepare,
            may_fail=kind == "trial", facts={**facts, "source": str(files.path("train"))},
        )  # fmt: skip

    # Settings.

    def _settings_by_name(self, entry: str) -> PretrainSettings:
        variant = next(variant for variant in self.variants if variant.entry == entry)
        return self._pretrain_settings(entry, {**variant.pretrain, "data": "."})

    @functools.cached_property
    def _shared(self) -> PretrainSettings:
        """The study's own pre-training settings: shapes and image size come from them, with or without a trunk."""
        return self._pretrain_settings("", {"data": "."})

    def _pretrain_settings(self, entry: str, given: Mapping[str, Any]) -> PretrainSettings:
        values = {"schedule.steps": 1, **flat(self.study.pretrain), **given}
        return self._checked(PretrainSettings, "pretrain", entry, values)

    def _finetune_settings(self, entry: str, data: str, given: Mapping[str, Any]) -> FinetuneSettings:
        files, model = self.study.data[data], self._shared.model
        values = {
            "image_size": self._shared.image_size, "model.backbone": model.backbone,
            "model.pyramid_channels": model.pyramid_channels, "model.head_convs": model.head_convs,
            "val": files.path("test"), "images": files.path("images"), "val_images": files.path("images"),
            **flat(self.study.finetune), **given,
        }  # fmt: skip
        settings = self._checked(FinetuneSettings, "finetune", entry, values)
        if getattr(settings.detector, "roi_size", 0) is None:  # else it would follow from the trunk, and differ
            values["detector.roi_size"] = max(1, self._shared.image_size // WINDOW)
            settings = self._checked(FinetuneSettings, "finetune", entry, values)
        return settings

    def _checked(self, command: type[Command], section: str, entry: str, values: dict[str, Any]):
        try:
            settings = from_values(command, {"out": "out", "loop.threads": self.threads, **values})
            return with_format(settings, format_of(settings.loop))  # all in one format, wherever they run
        except UserError as error:
            where = f"starts.{entry}" if entry else section
            raise UserError(f"{self.path}: {where}: {error}") from None

    def _placed(self, settings: Command, job: str) -> Command:
        return settings.model_copy(update={"out": self.runs / job})

    @staticmethod
    def _finetune_identity(settings: FinetuneSettings, trunk: str, train: Any) -> dict[str, Any]:
        replaced = {"trunk": trunk, "train": train, "val": file_identity(settings.val), "images": None, "val_images": None}
        return what_matters(settings, replaced)

    # Data.

    def _unlabeled(self, files: DataSet):
        """(source, what writes it, its identity)."""
        folder = files.path("unlabeled")
        if files.take is None:
            return folder, lambda: None, images_identity(folder)
        target = self.runs / "lists" / f"{digest([str(folder), files.take])}.txt"
        return target, functools.partial(write_list, folder, target, files.take), [images_identity(folder), files.take]

    def _labelled(self, files: DataSet, count: int | None, seed: int):
        source = files.path("train")
        if count is None:
            return source, lambda: None, file_identity(source)
        drawn = seed if self.study.label_draw == "seed" else None
        target = self.runs / "lists" / f"{digest([str(source), count, drawn])}.json"
        return target, functools.partial(write_scenes, source, target, count, drawn), [file_identity(source), count, drawn]


def score_of(line: Mapping[str, Any]) -> float:
    """Box AP of a trial; of one that went wrong: below all others."""
    value = line.get("result", {}).get("box_AP")
    return -1.0 if value is None else value


def best_draw(ids: list[str], lines: Lines, draw_of) -> dict[str, Any] | None:
    """Settings of the best trial (the first of equals); None while one is not done."""
    if not all(one in lines for one in ids):
        return None
    return draw_of(max(range(len(ids)), key=lambda number: (score_of(lines[ids[number]]), -number)))


def _of(value: Any, data: str, variant: Variant) -> str:
    if isinstance(value, dict):
        if data not in value:
            raise UserError(f"starts.{variant.entry}: has nothing for data {data!r}")
        return value[data]
    return value


def _is_path(value: Any) -> bool:
    return isinstance(value, str) and value != "none" and ("/" in value or value.endswith((".safetensors", ".json")))


def _numbers(chosen: Mapping[str, Any]) -> str:
    return "".join(f", {name.rpartition('.')[2]} {value}" for name, value in chosen.items())

