"""``mcl export``: a trunk or detector in the form that another library loads, checked through that library."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

from mcl.config.export import ExportSettings
from mcl.detect.saved import load_detector
from mcl.engine.logging import console
from mcl.errors import UserError
from mcl.interop.formats import Format, holding, to_flags
from mcl.interop.writing.exported import Exported, FormatModule, Unfit
from mcl.interop.writing.source import DetectorSource, TrunkSource
from mcl.interop.writing.staging import staged
from mcl.nn.described import roi_size_in
from mcl.nn.parts import PARTS, choose_pieces, parts_of, pieces_in
from mcl.nn.stored import DETECTOR_FILE, TRUNK_FILE
from mcl.nn.trunk import read_trunk, trunk_from
from mcl.run.claim import require_inputs_kept

Source = TrunkSource | DetectorSource


def export(settings: ExportSettings) -> dict[str, Any]:
    """Write the asked-for format to ``settings.out`` and check it numerically through the receiving library.

    Returns:
        ``files``, ``format``, ``parts``, ``covered`` (share of the receiving model that is filled),
        ``differences`` (of each map, relative), ``checked_by``, ``notes``, ``message``.

    Raises:
        UserError: no trunk there, a format that cannot hold this backbone, or an output that exists.
        RunFailed: the check failed or the disk is full; nothing has been written then.
    """
    _require_source_kept(settings)
    content = "detector" if settings.whole_detector else "trunk"
    source = _detector(settings) if settings.whole_detector else _trunk(settings)
    module = module_of(settings.format, content)
    companions = module.companions(settings.out)
    if settings.out.name in companions:
        raise UserError(f"--out {settings.out}: is the name of a file that goes beside it; choose another ending")
    try:
        with staged(settings.out, companions, settings.overwrite) as aside:
            done = module.write(source, aside / settings.out.name)
    except Unfit as unfit:
        others = to_flags(formats_that_fit(source, content))
        raise UserError(f"--to {settings.to}: {unfit}; for this {content} use {others}") from None
    files = [settings.out, *(settings.out.with_name(name) for name in companions)]
    return _finish(settings, getattr(source, "parts", content), done, files)


def _require_source_kept(settings: ExportSettings) -> None:
    require_inputs_kept(settings)
    files = [settings.trunk / name for name in (TRUNK_FILE, DETECTOR_FILE)]
    if settings.out.resolve() in {file.resolve() for file in files}:
        raise UserError(f"--out {settings.out}: is what the run {settings.trunk} made; choose another name")


def module_of(entry: Format, content: str) -> FormatModule:
    """The module that writes a ``trunk`` or ``detector`` in a format. No format pays for another's libraries."""
    return importlib.import_module(getattr(entry, content))


def formats_that_fit(source: Source, content: str) -> list[str]:
    """Names of the formats whose receiver has this network."""
    names = []
    for entry in holding(content):
        try:
            module_of(entry, content).fit(source)
        except UserError:
            continue
        names.append(entry.name)
    return names


def _detector(settings: ExportSettings) -> DetectorSource:
    try:
        detector, plan = load_detector(settings.trunk)
    except UserError as error:
        raise UserError(
            f"--to {settings.to} needs a fine-tuned detector (run folder of mcl finetune): {error}"
        ) from None
    return DetectorSource(detector, plan, settings.trunk)


def _trunk(settings: ExportSettings) -> TrunkSource:
    """The trunk of a pre-training run, or the one inside a fine-tuned detector."""
    path = settings.trunk
    spec, state, metadata = read_trunk(path)
    if metadata.get("method") == "fine-tuned":
        metadata = {**metadata, **_told(path)}
    trunk = trunk_from(spec, state, metadata, str(path), whole=False)
    trained = [piece for piece in trunk.trained if piece in pieces_in(state)]
    asked = settings.parts or (settings.format.parts if settings.format.parts != PARTS[-1] else None)
    remedy = "leave --parts away to write what was trained"
    pieces, _ = choose_pieces(asked, trained, str(path), False, remedy)
    return TrunkSource(trunk, metadata, parts_of(pieces), path, roi_size_in(metadata))


def _told(path: Path) -> dict[str, Any]:
    """Cost and AP from the summary of a fine-tuning run."""
    summary = (path if path.is_dir() else path.parent) / "summary.json"
    try:
        told = json.loads(summary.read_text("utf-8"))
        results = {name: told[name] for name in ("box_AP", "mask_AP") if told.get(name) is not None}
        return {"cost": told.get("cost"), "results": results}
    except (OSError, ValueError, AttributeError):  # none, or not one of ours
        return {}


def _finish(settings: ExportSettings, parts: str, done: Exported, files: list[Path]) -> dict[str, Any]:
    for line in done.lines():
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    listed = ", ".join(str(file) for file in files)
    return {
        "format": settings.to, "parts": parts, "files": [str(file) for file in files], "covered": done.report.covered,
        "differences": done.differences, "checked_by": done.checked_by, "notes": done.notes,
        "message": f"exported {parts} to {listed}",
    }  # fmt: skip
