"""``mcl pretrain``: unlabeled images -> trunk.safetensors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from mcl.config.pretrain import PretrainSettings
from mcl.data.loader import step_batches, steps_per_epoch
from mcl.data.sources import check_readable, find_images, fingerprint
from mcl.data.views import TileMaker, UnlabeledImages, collate_tiles
from mcl.engine.device import prepare_device
from mcl.engine.logging import console, duration, warnings_of
from mcl.engine.loop import run_loop
from mcl.engine.optim import (
    Schedule,
    apply_gradients,
    build_optimizer,
    load_optimizer,
    resolve_length,
    set_lr,
)
from mcl.engine.run_folder import RunFolder
from mcl.errors import RunFailed, printable
from mcl.interop.initial import apply_initial_weights
from mcl.methods.base import Method
from mcl.methods.build import build_method, compute_in
from mcl.methods.mcl import Mcl
from mcl.methods.step import pretraining_step
from mcl.nn.pyramid import LEVELS
from mcl.nn.trunk import FILE_NAME, Trunk, save_trunk
from mcl.report.montage import draw_montages
from mcl.run.guard import guarded
from mcl.run.precision import precision_of_run, settle_precision
from mcl.run.resume import start_or_resume

TITLE = "pretrain"
# What may change between the parts of a resumed run: it moves or paces things, and trains the same.
MAY_DIFFER = ("out", "data", "data_root", "data_cache", "recipe", "loop", "watch")


@guarded
def pretrain(settings: PretrainSettings) -> dict[str, Any]:
    """Pre-train a trunk and export it; returns what ``summary.json`` holds.

    Raises:
        UserError: bad settings or data; nothing has been written then.
        RunFailed, Interrupted: see ``run_loop``.
    """
    paths = find_images(
        settings.data, settings.data_root, settings.data_cache, settings.data_column,
        say=lambda line: console.print(line, markup=False),
    )  # fmt: skip
    unreadable = check_readable(paths, settings.max_unreadable, settings.seed, max_pixels=settings.max_pixels)
    device = prepare_device(settings.loop)
    method = _build(settings)
    folder = RunFolder.open(settings.out, settings.resume, settings.overwrite)
    settings = precision_of_run(settings, folder)
    start_or_resume(folder, settings, MAY_DIFFER, TITLE)
    settings = settle_precision(settings, folder, device, pretraining_step(settings, device))
    method = compute_in(method, settings.loop).to(device)

    per_epoch = steps_per_epoch(len(paths), settings.batch)
    total, warmup = resolve_length(settings.schedule, per_epoch)
    schedule = Schedule(settings.schedule, settings.optim.peak_lr(settings.batch), total, warmup)
    skipped = Skipped(folder, settings.max_unreadable, {printable(str(path)): why for path, why in unreadable.items()})
    training = Pretraining(method, settings, schedule, skipped, len(paths))
    dataset = UnlabeledImages(
        paths,
        TileMaker(settings.views, settings.method.scales, settings.image_size, settings.seed),
        settings.max_pixels,
    )
    _say_start(settings, method.montages(settings.batch), len(paths), total, per_epoch)
    draw_montages(folder.path / "montage.png", *_first_canvases(method, dataset, settings))

    def batches(start_step: int) -> Iterator[Any]:
        return step_batches(
            dataset, settings.batch, settings.seed, start_step, total, settings.loop.workers, collate_tiles,
            pin_memory=device.type == "cuda",
        )  # fmt: skip

    cost = run_loop(
        training, batches, total_steps=total, images_per_step=settings.batch, folder=folder,
        settings=settings.loop, watch=settings.watch, resume=settings.resume, title=TITLE, seed=settings.seed,
    )  # fmt: skip
    summary = {
        "images": len(paths),
        "skipped": len(skipped.reasons),
        "cost": cost.as_dict(),
        "last": training.last,
        "precision": {"precision": settings.loop.precision, "channels_last": settings.loop.channels_last},
        "warnings": warnings_of(folder),
    }
    metadata = {
        "method": "mcl", "parts": method.trained_parts, "recipe": settings.recipe, "steps": total,
        "data_fingerprint": fingerprint(paths), "data_images": len(paths), "cost": cost.as_dict(),
    }  # fmt: skip
    save_trunk(folder.path / FILE_NAME, method.trunk, metadata)
    folder.write_json("summary.json", summary)
    console.print(
        f"pre-trained in {duration(cost.seconds)} ({cost.images:,} images, {cost.images_per_second:.1f} images/s, "
        f"data wait {cost.data_wait:.0%}): {folder.path / FILE_NAME}"
    )
    return summary


class Pretraining:
    """A method, its optimizer and its schedule, as the loop wants them."""

    def __init__(
        self, method: Method, settings: PretrainSettings, schedule: Schedule, skipped: Skipped, images: int
    ) -> None:
        self.method, self.settings, self.schedule, self.skipped, self.images = (
            method.train(),
            settings,
            schedule,
            skipped,
            images,
        )
        self.optimizer = build_optimizer(method.trained, settings.optim, settings.batch)
        self.last: dict[str, float] = {}

    def train_step(self, batch: Mapping[str, Any], step: int) -> dict[str, Any]:
        """Set lr, forward, backward, clip, update, move the target (method: Optimisation)."""
        self.skipped.add(batch["unreadable"], images_seen=min(self.images, (step + 1) * self.settings.batch))
        lr = self.schedule.lr_at(step)
        set_lr(self.optimizer, lr)
        loss, numbers = self.method.loss(batch, step)
        norm = apply_gradients(loss, self.optimizer, self.settings.optim.clip_norm)
        self.method.after_update(step, self.schedule.total_steps)
        return {"loss": loss.detach(), **numbers, "gradient_norm": norm, "lr": lr}

    def logged(self, values: Mapping[str, float]) -> None:
        """Keep the newest numbers, for summary.json."""
        self.last = dict(values)

    def state_dict(self) -> dict[str, Any]:
        """Online, target (with buffers), predictors, optimizer, and the files skipped so far."""
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


class Skipped:
    """Unreadable images: counted, listed in skipped.txt, and too many of them stop the run."""

    def __init__(self, folder: RunFolder, max_share: float, reasons: dict[str, str]) -> None:
        self.folder, self.max_share, self.reasons = folder, max_share, dict(reasons)
        self._write()

    def add(self, entries: list[tuple[str, str]], images_seen: int) -> None:
        """Note the unreadable files of a batch; raises ``RunFailed`` above the share of images seen."""
        fresh = {path: reason for path, reason in entries if path not in self.reasons}
        if not fresh:
            return
        self.reasons.update(fresh)
        self._write()
        path, reason = next(iter(fresh.items()))
        if len(self.reasons) > max(1, self.max_share * images_seen):
            raise RunFailed(
                f"{len(self.reasons)} of the first {images_seen} images cannot be read, more than {self.max_share:.0%} "
                f"(--max_unreadable); they are listed in {self.folder.path / 'skipped.txt'}; the newest: {path}: {reason}"
            )
        console.print(
            f"skipped {len(fresh)} unreadable image(s), {len(self.reasons)} in all: {path}: {reason}",
            markup=False,
        )

    def _write(self) -> None:
        if not self.reasons:
            return
        text = "".join(f"{path}\t{reason}\n" for path, reason in self.reasons.items())
        try:
            self.folder.write_text("skipped.txt", text)
        except OSError as error:  # a full disk: the list is in the checkpoints as well
            console.print(f"warning: skipped.txt: {error.strerror}", style="yellow", markup=False)


def _build(settings: PretrainSettings) -> Mcl:
    def fill(trunk: Trunk) -> None:
        if settings.init_from and not settings.resume:
            report = apply_initial_weights(
                trunk, settings.init_from, settings.init_parts, settings.allow_partial
            )
            console.print("\n".join(report.lines()), markup=False)

    return build_method(settings, pretrained=settings.model.pretrained, fill=fill)


def _first_canvases(method: Mcl, dataset: UnlabeledImages, settings: PretrainSettings):
    """Canvases of the first batch as the network will see them, for montage.png."""
    stream = step_batches(dataset, settings.batch, settings.seed, 0, 1, 0, collate_tiles)
    batch = next(stream)
    shuffles = {view: method.draw_shuffle(len(batch["index"]), 0, view) for view in batch["tiles"]}
    return batch["tiles"], shuffles


def _say_start(
    settings: PretrainSettings, montages: Mapping[int, int], images: int, total: int, per_epoch: int
) -> None:
    listed = ", ".join(f"{count} of scale {scale}" for scale, count in montages.items())
    console.print(
        f"{images:,} images, {total:,} steps of {settings.batch} ({total / per_epoch:.1f} epochs); canvases a view: {listed}"
    )
    uneven = [
        f"scale {s}: {count * s * s} tiles" for s, count in montages.items()
        if count * s * s % settings.batch
    ]  # fmt: skip
    if uneven:
        console.print(
            f"batch {settings.batch} does not fill whole montages, so images are tiles unequally often ({'; '.join(uneven)})"
        )
    if untrained := LEVELS[: len(LEVELS) - len(settings.method.scales)]:
        console.print(f"without smaller scales, the pyramid's {', '.join(untrained)} are handed on untrained")
    if images < settings.batch:
        console.print(
            f"fewer images than a batch: every batch repeats some of the {images} (a repeated image counts as a negative of itself)"
        )
