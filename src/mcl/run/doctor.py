"""``mcl doctor``: what this machine is, and how a recipe would run on it."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mcl.bench.loading import size_of
from mcl.bench.machine import describe_machine
from mcl.bench.pictures import write_pictures
from mcl.bench.tables import write_json
from mcl.checkup.devices import check_devices
from mcl.checkup.environment import check_environment
from mcl.checkup.finding import Finding
from mcl.checkup.memory import check_memory
from mcl.checkup.speed import check_loader, check_precision
from mcl.config.doctor import DoctorSettings
from mcl.data.loading.loader import steps_per_epoch
from mcl.data.sources.find import check_readable, find_images
from mcl.engine.logging import console, duration
from mcl.engine.machine.device import prepare_device
from mcl.engine.optim import resolve_length
from mcl.errors import about
from mcl.methods.build import build_method


def doctor(settings: DoctorSettings) -> dict[str, Any]:
    """Look at the machine, print tables and verdicts; returns what ``--json`` holds.

    A warning is not an error: the command ends well.

    Raises:
        UserError: bad settings or data.
    """
    device = prepare_device(settings.loop)
    build_method(settings)  # a backbone that does not exist is a mistake, not a finding
    with _images(settings) as (paths, picture, found):
        parts = [_say(check_environment()), _say(check_devices(settings, device))]
        memory = _say(check_memory(settings, device))
        precision = _say(check_precision(settings, device, memory.numbers["batch"]))
        needed = precision.numbers.get("images_per_second")
        parts += [memory, precision, _say(check_loader(settings, paths, needed, picture))]
    if found and needed:
        _say_length(settings, found, needed)
    content = {
        "doctor": [part.as_dict() for part in parts],
        "machine": describe_machine(),
        "settings": settings.model_dump(mode="json", by_alias=True, exclude={"json_file"}),
    }
    if settings.json_file is not None:
        write_json(settings.json_file, content)
    return content


def _say(part: Finding) -> Finding:
    """Shown at once: the next part takes its time."""
    part.show()
    return part


@contextmanager
def _images(settings: DoctorSettings) -> Iterator[tuple[list[Path], str, int]]:
    """(images to load, what they are, how many the user has)."""
    if settings.data is None:
        with tempfile.TemporaryDirectory(prefix="mcl-doctor-") as folder:
            paths = write_pictures(Path(folder), settings.images, 500, 375)
            yield paths, f"generated JPEGs ({size_of(paths)})", 0
        return
    with about("--data"):
        found = find_images(settings.data, settings.data_root)
    with about(f"--data {settings.data}:"):
        check_readable(found, 0.5, settings.seed)
    paths = list(found[: settings.images])
    yield paths, f"{len(paths)} of {len(found):,} images of {settings.data}", len(found)


def _say_length(settings: DoctorSettings, images: int, images_per_second: float) -> None:
    total, _ = resolve_length(settings.schedule, steps_per_epoch(images, settings.batch))
    seconds = total * settings.batch / images_per_second
    console.print(
        f"{total:,} steps of {settings.batch} images would take about {duration(seconds)} here", markup=False
    )
