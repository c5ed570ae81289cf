"""``mcl pretrain``: unlabeled images -> trunk.safetensors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch

from mcl.config.pretrain import PretrainSettings
from mcl.data.computed import Survey
from mcl.data.loading.dataset import UnlabeledImages
from mcl.data.loading.loader import step_batches, steps_per_epoch
from mcl.data.loading.views import ViewMaker
from mcl.data.sources.find import check_readable, find_images, fingerprint
from mcl.data.sources.pictures import Picture
from mcl.data.sources.store import cache_folder
from mcl.engine.logging import Display, console, duration, warnings_of
from mcl.engine.loop import run_loop
from mcl.engine.machine.allocator import freed_memory_kept
from mcl.engine.machine.device import device_type, prepare_device
from mcl.engine.machine.memory import usable_cores
from mcl.engine.machine.precision import format_of
from mcl.engine.observer import Observer
from mcl.engine.optim import (
    Schedule,
    build_optimizer,
    load_optimizer,
    resolve_length,
    set_lr,
)
from mcl.engine.processes.distributed import (
    broadcast_module,
    broadcast_object,
    is_main,
    main_first,
    per_process,
    process_count,
    rank,
    require_same,
)
from mcl.engine.processes.gradients import GradientAverage
from mcl.engine.processes.job import joined
from mcl.engine.trackers import require_trackers
from mcl.errors import UserError, about, printable
from mcl.interop.reading.initial import apply_initial_weights
from mcl.methods.base import Method
from mcl.methods.build import build_method, compute_in, settle_method, wanted_of
from mcl.methods.neighbours import ClassFolders, neighbour_accuracies
from mcl.methods.step import pretraining_step, update, what_takes_time
from mcl.methods.turned import StartingWeights
from mcl.nn.compiled import compile_trunks
from mcl.nn.sync_norm import synchronise_norms
from mcl.nn.trunk import FILE_NAME, Trunk, save_trunk
from mcl.run.claim import claim_folder
from mcl.run.forecast import forecast
from mcl.run.guard import guarded
from mcl.run.precision import precision_of_run, settle_precision
from mcl.run.resume import start_or_resume, summary_of_ended
from mcl.run.see import tell_report
from mcl.run.skipped import Skipped

TITLE = "pretrain"
# What may change between the parts of a resumed run: it moves or paces things, and trains the same.
MAY_DIFFER = ("out", "data", "data_root", "data_cache", "recipe", "loop", "watch")
ADVICE = {"gpu_memory": "try a smaller --batch or --loop.precision bf16"}  # what to try when a watchdog warns


@guarded
def pretrain(settings: PretrainSettings, observe: Observer | None = None) -> dict[str, Any]:
    """Pre-train a trunk and export it; returns what ``summary.json`` holds.

    Started by torchrun or srun, the processes share the work (docs/scale.md); rank 0 writes and prints.

    Args:
        observe: told when the parts of the loop begin and end.

    Raises:
        UserError: bad settings or data; nothing has been written then.
        RunFailed, Interrupted: see ``run_loop``.
    """
    with joined(device_type(settings.loop)), freed_memory_kept(settings.loop.keep_memory):
        return _pretrain(settings, observe)


def _pretrain(settings: PretrainSettings, observe: Observer | None) -> dict[str, Any]:
    share = _share_of_batch(settings)
    paths = _find(settings)
    with about(f"--data {settings.data}:"):
        unreadable = broadcast_object(
            lambda: check_readable(paths, settings.max_unreadable, settings.seed, max_pixels=settings.max_pixels)
        )
        settings = settle_method(settings, paths)
    device = prepare_device(settings.loop)
    require_trackers(settings.loop)
    if settings.dry_run:
        return _dry_run(settings, share, len(paths), device)
    method, knows_start = main_first(lambda: _build(settings))
    folders = _class_folders(settings, paths)
    folder = claim_folder(settings, "pretrain")
    settings = precision_of_run(settings, folder)
    at_step = start_or_resume(folder, settings, MAY_DIFFER, TITLE, len(paths))
    one = settings.model_copy(update={"batch": share})
    per_epoch = steps_per_epoch(len(paths), settings.batch)
    total, warmup = resolve_length(settings.schedule, per_epoch)
    step = pretraining_step(one, device)
    settings = settle_precision(settings, folder, device, step, what_takes_time(one), total)
    method = _made_ready(method, settings, device)

    schedule = Schedule(settings.schedule, settings.optim.peak_lr(settings.batch), total, warmup)
    skipped = Skipped(folder, settings.max_unreadable, {printable(str(path)): why for path, why in unreadable.items()})
    start = StartingWeights(method.trunk) if is_main() and knows_start else None
    training = Pretraining(method, settings, schedule, skipped, len(paths), start, folders)
    dataset = _dataset(settings, paths, device)
    notes = [*method.notes(share // settings.accumulate), *dataset.notes()]
    _say_start(settings, notes, len(paths), total, per_epoch)

    def batches(start_step: int, steps: int = total, workers: int = settings.loop.workers) -> Iterator[Any]:
        stream = step_batches(
            dataset, settings.batch, settings.seed, start_step, steps, workers, method.collate,
            pin_memory=device.type == "cuda", rank=rank(), processes=process_count(),
        )  # fmt: skip
        return dataset.finished(stream, device)

    if is_main():
        method.draw_first_batch(folder.path, next(batches(0, 1, workers=0)))

    cost = run_loop(
        training, batches, total_steps=total, images_per_step=settings.batch, folder=folder,
        settings=settings.loop, watch=settings.watch, resume=settings.resume, title=TITLE,
        images=len(paths), seed=settings.seed, advice={**ADVICE, **method.advice}, observe=observe,
    )  # fmt: skip
    if ended := summary_of_ended(folder, at_step, total, FILE_NAME):
        return ended
    summary = {
        "images": len(paths),
        "skipped": len(skipped.reasons),
        "cost": cost.as_dict(),
        "last": training.last,
        "precision": {"precision": settings.loop.precision, "channels_last": settings.loop.channels_last},
        "warnings": warnings_of(folder),
    }
    if is_main():
        metadata = {
            "method": settings.method.name, "paper": settings.method.about.paper, "trained": method.trained_parts,
            "recipe": settings.recipe, "steps": total, "data_fingerprint": fingerprint(paths), "data_images": len(paths), "cost": cost.as_dict(),
        }  # fmt: skip
        save_trunk(folder.path / FILE_NAME, method.trunk, metadata)
    folder.write_json("summary.json", summary)
    if skipped.reasons:
        listed = folder.path / "skipped.txt"
        console.print(f"{len(skipped.reasons):,} of {len(paths):,} images could not be read and were skipped: {listed}", style="yellow")
    console.print(
        f"pre-trained in {duration(cost.seconds)} ({cost.images:,} images, {cost.images_per_second:.1f} images/s, "
        f"data wait {cost.data_wait:.0%}): {folder.path / FILE_NAME}"
    )
    tell_report(folder.path)
    return summary


def _dry_run(settings: PretrainSettings, share: int, images: int, device: torch.device) -> dict[str, Any]:
    one = settings.model_copy(update={"batch": share})
    total, _ = resolve_length(settings.schedule, steps_per_epoch(images, settings.batch))
    console.print(f"{settings.method.name}: {images:,} images")
    return forecast(settings, pretraining_step(one, device)(format_of(settings.loop)), total, share, device)


class Pretraining:
    """A method, its optimizer and its schedule, as the loop wants them."""

    def __init__(
        self,
        method: Method,
        settings: PretrainSettings,
        schedule: Schedule,
        skipped: Skipped,
        images: int,
        start: StartingWeights | None = None,
        folders: ClassFolders | None = None,
    ) -> None:
        self.method, self.settings, self.schedule = method.train(), settings, schedule
        self.skipped, self.images, self.start, self.folders = skipped, images, start, folders
        self.optimizer = build_optimizer(method.trained, settings.optim, settings.batch)
        self.average = GradientAverage(method.trained.parameters())
        self.last: dict[str, float] = {}

    def train_step(self, batch: Mapping[str, Any], step: int) -> dict[str, Any]:
        """Set lr, forward, backward, clip, update, move the target (method: Optimisation)."""
        self.skipped.add(batch["unreadable"], images_seen=min(self.images, (step + 1) * self.settings.batch))
        lr = self.schedule.lr_at(step)
        set_lr(self.optimizer, lr)
        numbers = update(
            self.method, batch, step, self.optimizer, self.settings.optim.clip_norm, self.average,
            self.settings.accumulate,
        )  # fmt: skip
        self.method.after_update(step, self.schedule.total_steps)
        return {**numbers, "lr": lr}

    def measured(self, done: int) -> dict[str, float]:
        """How far the weights have turned; every ``watch.knn_every`` steps what neighbours say of the features."""
        found = self.start.turned(self.method.trunk) if self.start else {}
        every = self.settings.watch.knn_every
        if self.folders and (done % every < self.settings.loop.log_every or done == self.schedule.total_steps):
            found |= neighbour_accuracies(self.method, self.folders)
        return found

    def logged(self, values: Mapping[str, float]) -> None:
        """Keep the newest numbers, for summary.json; tell the other processes what was skipped."""
        self.skipped.share()
        self.last = dict(values)

    def state_dict(self) -> dict[str, Any]:
        """Online, target (with buffers), predictors, optimizer, and the files skipped so far."""
        self.skipped.share()
        return {
            "method": self.method.state_dict(), "optimizer": self.optimizer.state_dict(),
            "skipped": self.skipped.reasons, "last": self.last,
        }  # fmt: skip

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue exactly where ``state_dict`` was taken."""
        self.method.load_state_dict(state["method"])
        load_optimizer(self.optimizer, state["optimizer"])
        self.skipped.reasons.update(state["skipped"])
        self.last = state["last"]


def _find(settings: PretrainSettings) -> Sequence[Picture]:
    with about("--data"):
        paths = main_first(
            lambda: find_images(
                settings.data, settings.data_root, settings.data_cache, settings.data_column,
                say=lambda line: console.print(line, markup=False),
            )
        )  # fmt: skip
    require_same(len(paths), f"the number of images in {settings.data}")
    return paths


def _survey(settings: PretrainSettings, paths: Sequence[Picture]) -> Survey:
    return Survey(
        paths, cache_folder(settings.data_cache), usable_cores(), settings.max_pixels,
        lambda line: console.print(line, markup=False), Display,
    )  # fmt: skip


def _build(settings: PretrainSettings) -> tuple[Method, bool]:
    """The method with the weights that it starts from, and whether they are those.

    A resumed run takes its weights from the checkpoint: its start is only built to see how far they have turned, and
    weights that it once started from may be gone.
    """
    knows_start = True

    def fill(trunk: Trunk) -> None:
        nonlocal knows_start
        if not settings.init_from:
            return
        try:
            report = apply_initial_weights(trunk, settings.init_from, settings.init_parts, settings.allow_partial)
        except UserError:
            if not settings.resume:
                raise
            knows_start = False
            console.print(f"{settings.init_from} cannot be read any more, so turned/* is not logged", markup=False)
            return
        if not settings.resume:
            console.print("\n".join(report.lines()), markup=False)

    return build_method(settings, pretrained=settings.model.pretrained, fill=fill), knows_start


def _class_folders(settings: PretrainSettings, paths: Sequence[Picture]) -> ClassFolders | None:
    watch = settings.watch
    if not watch.knn_every or not is_main():
        return None
    given, source = paths, f"--data {settings.data}"
    if watch.knn_data:
        source = f"--watch.knn_data {watch.knn_data}"
        with about("--watch.knn_data"):
            given = find_images(watch.knn_data, cache=settings.data_cache)
    folders = ClassFolders(given, settings.image_size, watch.knn_images, settings.seed, source)
    console.print(f"neighbours every {watch.knn_every} steps: {folders}", markup=False)
    return folders


def _share_of_batch(settings: PretrainSettings) -> int:
    share = per_process(settings.batch)
    if share % settings.accumulate:
        raise UserError(
            f"--accumulate {settings.accumulate}: does not divide the {share} images of a step"
            + (f" on each of {process_count()} processes" if process_count() > 1 else "")
        )
    return share


def _made_ready(method: Method, settings: PretrainSettings, device: torch.device) -> Method:
    """On its device, in its number format, alike on all processes, with joint norms and compiled if that is asked for."""
    method = compute_in(method, settings.loop).to(device)
    broadcast_module(method)
    if settings.loop.sync_bn and process_count() > 1:
        synchronise_norms(method, device.type)
    if settings.loop.compile:
        _compile(method, settings, device)
    return method


def _dataset(settings: PretrainSettings, paths: Sequence[Picture], device: torch.device) -> UnlabeledImages:
    wanted = main_first(lambda: wanted_of(settings, _survey(settings, paths)))
    maker = ViewMaker(settings.views, wanted, settings.seed)
    on_device = settings.views.device == "auto" and device.type == "cuda"
    return UnlabeledImages(paths, maker, settings.max_pixels, unfinished=on_device)


def _compile(method: Method, settings: PretrainSettings, device: torch.device) -> None:
    layout = torch.channels_last if settings.loop.channels_last else torch.contiguous_format
    images = torch.zeros(2, 3, settings.image_size, settings.image_size, device=device)
    with torch.autocast(device.type, torch.bfloat16, enabled=settings.loop.precision == "bf16"):
        reason = compile_trunks(method.trunks, images.to(memory_format=layout))
    told = f"did not work, going on without: {reason}" if reason else "backbone and head"
    console.print(f"torch.compile: {told}", markup=False)


def _say_start(settings: PretrainSettings, notes: list[str], images: int, total: int, per_epoch: int) -> None:
    each = ""
    if process_count() > 1:
        each += f", each of {process_count()} processes {settings.batch // process_count()}"
    if settings.accumulate > 1:
        each += f" in micro-batches of {settings.batch // process_count() // settings.accumulate}"
    console.print(
        f"{settings.method.name}: {images:,} images, {total:,} steps of {settings.batch}{each} ({total / per_epoch:.1f} epochs)"
    )
    for note in notes:
        console.print(note, markup=False)
    if images < settings.batch:
        console.print(
            f"fewer images than a batch: every batch repeats some of the {images} (a repeated image counts as a negative of itself)"
        )
