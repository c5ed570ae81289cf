"""``mcl bench data``: the loader and the decoders against the plain way."""

from __future__ import annotations

import io
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageFilter
from torch.utils.data import Dataset
from torchvision.io import ImageReadMode, decode_jpeg
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from mcl.bench.measure import Timing, in_turn
from mcl.bench.tables import Table
from mcl.config.bench import BenchDataSettings
from mcl.config.pretrain import ViewSettings
from mcl.data.loading.dataset import UnlabeledImages, collate_views
from mcl.data.loading.decode import read_image
from mcl.data.loading.loader import step_batches
from mcl.data.loading.views import REFERENCE_SIZE, ViewMaker, ViewSpec
from mcl.methods.build import wanted_of
from mcl.randomness import STREAM_VIEWS, seeded

DECODED = 8  # of a set are decoded in a round
OURS, KEPT, PLAIN = "tile-sized crops", "the same, pictures kept", "plain order"
LOADER_COLUMNS = {
    "side": ("loader", "{}"), "picture": ("JPEGs", "{}"), "workers": ("workers", "{}"),
    "images_per_second": ("images/s", "{:.1f}"), "spread": ("spread", "{:.0%}"), "speedup": ("faster", "{:.2f}x"),
}  # fmt: skip
DECODE_COLUMNS = {
    "side": ("decoding alone", "{}"), "picture": ("JPEGs", "{}"), "milliseconds": ("an image", "{:.2f} ms"),
    "spread": ("spread", "{:.0%}"), "speedup": ("faster", "{:.2f}x"), "error": ("pixel error", "{:.2f}"),
}  # fmt: skip


class PlainImages(Dataset):
    """The plain order: decode fully, augment every view of every scale at full size, keep every s-th pixel.

    Written here with torchvision's transforms, apart from the loader that it is compared with.
    """

    def __init__(
        self, paths: Sequence[Path], views: ViewSettings, specs: Sequence[ViewSpec], image_size: int, seed: int
    ) -> None:
        self.paths, self.specs, self.image_size, self.seed = paths, specs, image_size, seed
        self.transforms = {spec.key: plain_transform(views, spec, image_size) for spec in specs}

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, key: tuple[int, int]) -> dict[str, Any]:
        """The same sample that ``UnlabeledImages`` gives, made the long way."""
        epoch, index = key
        image = read_image(self.paths[index])
        made: dict[tuple[int, int], torch.Tensor] = {}
        for spec in self.specs:
            with seeded(STREAM_VIEWS, self.seed, epoch, index, *spec.key):
                full_size = F.pil_to_tensor(self.transforms[spec.key](image))
            stride = self.image_size // spec.size
            made[spec.key] = full_size[:, ::stride, ::stride].contiguous()
        return {"views": made, "index": index, "unreadable": []}


def plain_transform(settings: ViewSettings, spec: ViewSpec, size: int) -> v2.Compose:
    """torchvision's chain of the method's augmentations of a view, at full size."""
    jitter = v2.ColorJitter(settings.brightness, settings.contrast, settings.saturation, settings.hue)
    low, high = (radius * size / REFERENCE_SIZE for radius in settings.blur_radius)
    blur = v2.Lambda(
        lambda image: image.filter(ImageFilter.GaussianBlur(float(torch.empty(()).uniform_(low, high))))
    )
    return v2.Compose(
        [
            v2.RandomResizedCrop(size, spec.crop_scale or settings.crop_scale, settings.crop_ratio),
            v2.RandomHorizontalFlip(settings.flip),
            v2.RandomApply([jitter], settings.jitter),
            v2.RandomGrayscale(settings.gray),
            v2.RandomApply([blur], settings.blur[spec.style]),
            v2.RandomSolarize(settings.solarize_threshold, settings.solarize[spec.style]),
        ]
    )


def datasets(settings: BenchDataSettings, paths: Sequence[Path]) -> dict[str, Dataset]:
    """Ours, without and with pictures kept in memory, and the plain one, for the views that the recipe's method wants."""
    size, seed = settings.image_size, settings.seed
    views = settings.views.model_copy(update={"downsample": "tile"})
    wanted = wanted_of(settings.model_copy(update={"views": views}))
    keeping = {OURS: views.model_copy(update={"cache_gb": 0.0}), KEPT: views.model_copy(update={"cache_gb": math.inf})}
    return {
        **{name: UnlabeledImages(paths, ViewMaker(own, wanted, seed)) for name, own in keeping.items()},
        PLAIN: PlainImages(paths, views, wanted.views, size, seed),
    }


def enough_pixels(settings: BenchDataSettings) -> tuple[int, int]:
    """(width, height) at which the smallest crop still has as many pixels as a full-size view."""
    side = math.ceil(settings.image_size / math.sqrt(settings.views.crop_scale[0] or 1e-3))
    return side, side


def loader_rows(settings: BenchDataSettings, paths: Sequence[Path], picture: str) -> list[dict]:
    """images/s of both loaders for every number of workers, in turn."""
    rows = []
    for workers in settings.workers:
        sides = datasets(settings, paths)
        rates: dict[str, list[float]] = {name: [] for name in sides}
        loader_rate(sides[KEPT], workers)  # the first pass decodes
        for _ in range(settings.rounds):
            for name, dataset in sides.items():
                rates[name].append(loader_rate(dataset, workers))
        plain = median(rates[PLAIN])
        for name, found in rates.items():
            middle = median(found)
            rows.append({
                "side": name, "picture": picture, "workers": workers, "images_per_second": middle,
                "spread": (max(found) - min(found)) / middle, "speedup": middle / plain,
            })  # fmt: skip
    return rows


def loader_rate(dataset: Dataset, workers: int) -> float:
    """images/s of one pass. The clock starts when every worker has given a batch: their start is not counted."""
    batch = max(1, len(dataset) // (6 * workers))
    steps = len(dataset) // batch
    stream = step_batches(dataset, batch, 0, 0, steps, workers, collate_views)
    started_steps = min(workers, steps - 1)
    for _ in range(started_steps):
        next(stream)
    start = time.perf_counter()
    counted = sum(len(b["index"]) for b in stream)
    return counted / (time.perf_counter() - start)


def decode_rows(settings: BenchDataSettings, paths: Sequence[Path], picture: str) -> list[dict]:
    """Milliseconds of CPU time of decoding one image from memory, one thread, in turn."""
    files = [path.read_bytes() for path in dict.fromkeys(paths[:DECODED])]
    least = enough_pixels(settings)
    functions = decoders(least)
    actions = {
        name: lambda function=function: [function(file) for file in files]
        for name, function in functions.items()
    }
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        timings: dict[str, Timing] = in_turn(actions, settings.rounds, clock=time.process_time)
    finally:
        torch.set_num_threads(threads)
    full = timings["Pillow, full"].median
    rows = [
        {
            "side": name, "picture": picture, "milliseconds": 1e3 * timing.median / len(files),
            "spread": timing.spread, "speedup": full / timing.median,
        }
        for name, timing in timings.items()
    ]  # fmt: skip
    rows[0]["error"] = pixel_error(paths[0], least, settings.image_size)
    return rows


def decoders(least: tuple[int, int]) -> dict[str, Callable[[bytes], object]]:
    """Ways to decode a JPEG from memory; simplejpeg if it is installed."""
    found: dict[str, Callable[[bytes], object]] = {
        f"mcl (Pillow draft, at least {least[0]} px)": lambda data: read_image(
            io.BytesIO(data), at_least=least
        ),
        "Pillow, full": lambda data: read_image(io.BytesIO(data)),
        "torchvision decode_jpeg, full": lambda data: decode_jpeg(
            torch.frombuffer(bytearray(data), dtype=torch.uint8), mode=ImageReadMode.RGB
        ),
    }
    try:
        import simplejpeg
    except ImportError:
        return found
    found["simplejpeg, full"] = lambda data: simplejpeg.decode_jpeg(data)
    found["simplejpeg, reduced"] = lambda data: simplejpeg.decode_jpeg(
        data, min_width=least[0], min_height=least[1], min_factor=1
    )
    return found


def pixel_error(path: Path, least: tuple[int, int], size: int) -> float:
    """Mean absolute difference (0-255) of the picture at training size, decoded at reduced size or fully."""
    both = [
        np.asarray(
            read_image(path, at_least=wanted).resize((size, size), Image.Resampling.BILINEAR), dtype=float
        )
        for wanted in (least, None)
    ]
    return float(np.abs(both[0] - both[1]).mean())


def loader_table(rows: list[dict], settings: BenchDataSettings) -> Table:
    """Ours against the plain order."""
    crops = len(wanted_of(settings).views)
    title = f"Loader: {crops} views an image for {settings.method.name}, {settings.image_size} px"
    notes = [
        f"medians of {settings.rounds} passes in turn; plain order: decode fully, {crops} augmentations at full size, "
        "every s-th pixel",
        f"{KEPT}: shrunk and kept in memory (views.cache_gb), after a first pass",
    ]
    return Table(title, LOADER_COLUMNS, rows, notes)


def decode_table(rows: list[dict]) -> Table:
    """Decoders."""
    notes = ["CPU time; pixel error: mean |difference| of 255 to full decoding, after resizing to training size"]
    return Table("Decoding alone, one thread", DECODE_COLUMNS, rows, notes)


def size_of(paths: Sequence[Path]) -> str:
    """``500x375, 104 kB``: of the first picture."""
    width, height = read_image(paths[0], upright=False).size
    return f"{width}x{height}, {sum(len(p.read_bytes()) for p in paths) / len(paths) / 1000:.0f} kB"
