"""AP while a detector trains: ``mcl finetune --eval_every``."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from mcl.config.finetune import FinetuneSettings
from mcl.data.labels.coco_json import CocoScenes
from mcl.data.labels.scenes import CocoDetection
from mcl.detect.base import DetectorPlan
from mcl.detect.evaluate import coco_numbers, predict
from mcl.detect.finetune import DetectorTraining
from mcl.detect.saved import save_detector
from mcl.engine.logging import console
from mcl.engine.processes.distributed import broadcast_object, is_main
from mcl.engine.run_folder import RunFolder
from mcl.run.evaluate import percent
from mcl.run.masks import measures_masks
from mcl.run.passes import precise_norms, training_scenes

FILE_NAME, BEST_NAME = "curve.jsonl", "detector.best.safetensors"


@dataclass(frozen=True)
class ApCurve:
    """Measures AP after every ``settings.eval_every`` steps, as at the end, and leaves the training as it was.

    A line of ``curve.jsonl`` has ``step, box_AP, mask_AP, class_agnostic_AP``; the end is in ``summary.json``. The best
    detector so far, by ``settings.best_by``, is kept in ``detector.best.safetensors``. All that is known of earlier
    measurements is in the file, so that a resumed run decides as an uninterrupted one.

    Args:
        told: what the file of the best is to tell besides its plan.
        total: steps of the run.
    """

    training: DetectorTraining
    plan: DetectorPlan
    train: CocoScenes
    val: CocoScenes
    settings: FinetuneSettings
    folder: RunFolder
    total: int
    told: Mapping[str, Any]

    def __call__(self, done: int) -> dict[str, float]:
        """After a step; ``done`` counts them from 1. What was measured, for the metrics."""
        every = self.settings.eval_every
        return self._measure(done) if every and done % every == 0 and done < self.total else {}

    def ended(self, done: int) -> bool:
        """Whether the best has not risen for ``settings.patience`` measurements (the same on all processes)."""
        patience, every = self.settings.patience, self.settings.eval_every
        if not patience or not done or done % every:
            return False
        return broadcast_object(lambda: self._stalled(done, patience))

    def conclude(self, numbers: Mapping[str, Any], done: int) -> dict[str, Any] | None:
        """The best of the run, its end included; none without ``eval_every``.

        Args:
            numbers: ``coco_numbers`` of the end.
            done: steps of the run.
        """
        if not self.settings.eval_every:
            return None
        before = self._before(done)
        line = _line(done, numbers)
        self._keep_if_best(line, before)
        best = max([*before, line], key=self._number)
        return {"step": best["step"], self.settings.best_by: best[self.settings.best_by]}

    def _measure(self, done: int) -> dict[str, float]:
        settings, detector = self.settings, self.training.detector
        still = CocoDetection(
            self.val, self.plan.names, self.plan.framing, masks=False, max_pixels=settings.max_pixels
        )
        with self.training.averaged(), _buffers_kept(detector):
            if settings.precise_bn_images:
                precise_norms(self.training, settings, training_scenes(settings, self.plan, self.train))
            workers = settings.loop.workers
            results = predict(detector, still, list(self.plan.names), settings.test_batch, workers, self.training.device)
            if results is None or not is_main():
                return {}
            if not measures_masks(self.val):
                results.pop("segm", None)
            line, before = _line(done, coco_numbers(self.val, results)), self._before(done)
            self._keep_if_best(line, before)
        # A resumed run measures again what came after its checkpoint.
        self.folder.write_text(FILE_NAME, "".join(json.dumps(known) + "\n" for known in [*before, line]))
        masks = f", mask AP {percent(line['mask_AP'])}" if line["mask_AP"] is not None else ""
        console.print(f"step {done}: box AP {percent(line['box_AP'])}{masks}", markup=False)
        named = {"AP/box": "box_AP", "AP/mask": "mask_AP", "AP/class_agnostic": "class_agnostic_AP"}
        return {name: line[key] for name, key in named.items() if line[key] is not None}

    def _keep_if_best(self, line: Mapping[str, Any], before: Sequence[Mapping[str, Any]]) -> None:
        if all(self._number(line) > self._number(known) for known in before):
            told = {**self.told, "step": line["step"], self.settings.best_by: line[self.settings.best_by]}
            save_detector(self.folder.path / BEST_NAME, self.training.detector, self.plan, told)

    def _before(self, done: int) -> list[dict[str, Any]]:
        return [known for known in read_curve(self.folder) if known["step"] < done]

    def _stalled(self, done: int, patience: int) -> bool:
        numbers = [self._number(known) for known in self._before(done + 1)]
        since = len(numbers) - 1 - numbers.index(max(numbers)) if numbers else 0
        if since >= patience:
            console.print(f"step {done}: {self.settings.best_by} has not risen for {since} measurements: the run ends early", markup=False)
        return since >= patience

    def _number(self, line: Mapping[str, Any]) -> float:
        value = line[self.settings.best_by]
        return -1.0 if value is None else value


def _line(done: int, numbers: Mapping[str, Any]) -> dict[str, Any]:
    box, mask = numbers["bbox"]["AP"], numbers.get("segm", {}).get("AP")
    return {"step": done, "box_AP": box, "mask_AP": mask, "class_agnostic_AP": numbers["class_agnostic_AP"]}


def read_curve(folder: RunFolder) -> list[dict[str, Any]]:
    """The lines of a run's ``curve.jsonl``, in the order of steps."""
    file = folder.path / FILE_NAME
    return [json.loads(line) for line in file.read_text("utf-8").splitlines()] if file.is_file() else []


@contextmanager
def _buffers_kept(detector: torch.nn.Module) -> Iterator[None]:
    """Give BatchNorm statistics back that were measured anew inside the block."""
    kept = {name: buffer.clone() for name, buffer in detector.named_buffers()}
    try:
        yield
    finally:
        for name, buffer in detector.named_buffers():
            buffer.copy_(kept[name])
