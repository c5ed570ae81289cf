"""``mcl bench data``: the loader and the decoders against the plain way."""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median

import numpy as np
import torch
from PIL import Image
from torchvision.io import ImageReadMode, decode_jpeg

from mcl.bench.measure import Timing, in_turn
from mcl.bench.tables import Table
from mcl.config.bench import BenchDataSettings
from mcl.data.decode import read_image
from mcl.data.loader import step_batches
from mcl.data.views import TileMaker, UnlabeledImages, collate_tiles

OURS, PLAIN = "tile-sized crops", "plain order"
LOADER_COLUMNS = {
    "side": ("loader", "{}"), "picture": ("JPEGs", "{}"), "workers": ("workers", "{}"),
    "images_per_second": ("images/s", "{:.1f}"), "spread": ("spread", "{:.0%}"), "speedup": ("faster", "{:.2f}x"),
}  # fmt: skip
DECODE_COLUMNS = {
    "side": ("decoding alone", "{}"), "picture": ("JPEGs", "{}"), "milliseconds": ("an image", "{:.2f} ms"),
    "spread": ("spread", "{:.0%}"), "speedup": ("faster", "{:.2f}x"), "error": ("pixel error", "{:.2f}"),
}  # fmt: skip


class PlainTileMaker(TileMaker):
    """The plain order: decode fully, augment every view of every scale at full size, keep every s-th pixel."""

    def enough_pixels(self) -> None:
        """No size is enough: decode all of it."""
        return None


def makers(settings: BenchDataSettings) -> dict[str, TileMaker]:
    """Ours and the plain one, for the recipe's scales and image size."""
    scales, size, seed = settings.method.scales, settings.image_size, settings.seed
    stride = settings.views.model_copy(update={"downsample": "stride"})
    tile = settings.views.model_copy(update={"downsample": "tile"})
    return {OURS: TileMaker(tile, scales, size, seed), PLAIN: PlainTileMaker(stride, scales, size, seed)}


def loader_rows(settings: BenchDataSettings, paths: Sequence[Path], picture: str) -> list[dict]:
    """images/s of both loaders for every number of workers, in turn."""
    rows = []
    for workers in settings.workers:
        rates: dict[str, list[float]] = {OURS: [], PLAIN: []}
        for _ in range(settings.rounds):
            for name, maker in makers(settings).items():
                rates[name].append(loader_rate(UnlabeledImages(paths, maker), workers))
        plain = median(rates[PLAIN])
        for name, found in rates.items():
            middle = median(found)
            rows.append({
                "side": name, "picture": picture, "workers": workers, "images_per_second": middle,
                "spread": (max(found) - min(found)) / middle, "speedup": middle / plain,
            })  # fmt: skip
    return rows


def loader_rate(dataset: UnlabeledImages, workers: int) -> float:
    """images/s of one pass. The clock starts when every worker has given a batch: their start is not counted."""
    batch = max(1, len(dataset) // (6 * workers))
    steps = len(dataset) // batch
    stream = step_batches(dataset, batch, 0, 0, steps, workers, collate_tiles)
    started_steps = min(workers, steps - 1)
    for _ in range(started_steps):
        next(stream)
    start = time.perf_counter()
    counted = sum(len(b["index"]) for b in stream)
    return counted / (time.perf_counter() - start)


def decode_rows(settings: BenchDataSettings, paths: Sequence[Path], picture: str) -> list[dict]:
    """Milliseconds of decoding one image from memory, one thread, in turn."""
    files = [path.read_bytes() for path in dict.fromkeys(paths[:8])]
    least = makers(settings)[OURS].enough_pixels()
    functions = decoders(least)
    actions = {
        name: lambda function=function: [function(file) for file in files] for name, function in functions.items()
    }
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        timings: dict[str, Timing] = in_turn(actions, settings.rounds)
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
        f"mcl (Pillow draft, at least {least[0]} px)": lambda data: read_image(io.BytesIO(data), at_least=least),
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
        np.asarray(read_image(path, at_least=wanted).resize((size, size), Image.Resampling.BILINEAR), dtype=float)
        for wanted in (least, None)
    ]
    return float(np.abs(both[0] - both[1]).mean())


def loader_table(rows: list[dict], settings: BenchDataSettings) -> Table:
    """Ours against the plain order."""
    crops = 2 * len(settings.method.scales)
    title = f"Loader: {crops} tiles an image, {settings.image_size} px, scales {settings.method.scales}"
    notes = [
        f"medians of {settings.rounds} passes in turn; plain order: decode fully, {crops} augmentations at full size, "
        "every s-th pixel",
    ]
    return Table(title, LOADER_COLUMNS, rows, notes)


def decode_table(rows: list[dict]) -> Table:
    """Decoders."""
    notes = ["pixel error: mean |difference| of 255 to full decoding, after resizing to training size"]
    return Table("Decoding alone, one thread", DECODE_COLUMNS, rows, notes)


def size_of(paths: Sequence[Path]) -> str:
    """``500x375, 104 kB``: of the first picture."""
    with Image.open(paths[0]) as image:
        width, height = image.size
    return f"{width}x{height}, {sum(p.stat().st_size for p in paths) / len(paths) / 1000:.0f} kB"


