"""AP while a detector trains: ``mcl finetune --eval_every``."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
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
from mcl.engine.logging import console
from mcl.engine.processes.distributed import is_main
from mcl.engine.run_folder import RunFolder
from mcl.run.evaluate import percent
from mcl.run.masks import measures_masks
from mcl.run.passes import precise_norms, training_scenes

FILE_NAME = "curve.jsonl"


@dataclass(frozen=True)
class ApCurve:
    """Measures AP after every ``settings.eval_every`` steps, as at the end, and leaves the training as it was.

    A line of ``curve.jsonl`` has ``step, box_AP, mask_AP, class_agnostic_AP``; the end is in ``summary.json``.
    """

    training: DetectorTraining
    plan: DetectorPlan
    train: CocoScenes
    val: CocoScenes
    settings: FinetuneSettings
    folder: RunFolder
    total: int

    def __call__(self, done: int) -> None:
        """After a step; ``done`` counts them from 1."""
        every = self.settings.eval_every
        if every and done % every == 0 and done < self.total:
            self._measure(done)

    def _measure(self, done: int) -> None:
        settings, detector = self.settings, self.training.detector
        still = CocoDetection(
            self.val, self.plan.names, self.plan.framing, masks=False, max_pixels=settings.max_pixels
        )
        with _buffers_kept(detector):
            if settings.precise_bn_images:
                precise_norms(self.training, settings, training_scenes(settings, self.plan, self.train))
            workers = settings.loop.workers
            results = predict(detector, still, list(self.plan.names), settings.test_batch, workers, self.training.device)
        if results is None or not is_main():
            return
        if not measures_masks(self.val):
            results.pop("segm", None)
        self._write(done, coco_numbers(self.val, results))

    def _write(self, done: int, numbers: Mapping[str, Any]) -> None:
        box, mask = numbers["bbox"]["AP"], numbers.get("segm", {}).get("AP")
        line = {"step": done, "box_AP": box, "mask_AP": mask, "class_agnostic_AP": numbers["class_agnostic_AP"]}
        # A resumed run measures again what came after its checkpoint.
        kept = [known for known in read_curve(self.folder) if known["step"] < done]
        self.folder.write_text(FILE_NAME, "".join(json.dumps(known) + "\n" for known in [*kept, line]))
        masks = f", mask AP {percent(mask)}" if mask is not None else ""
        console.print(f"step {done}: box AP {percent(box)}{masks}", markup=False)


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
