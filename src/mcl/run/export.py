"""``mcl export``: a trunk or detector in the form that another library loads, checked through that library."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from mcl.config.export import ExportSettings
from mcl.detect.saved import FILE_NAME as DETECTOR_FILE
from mcl.detect.saved import load_detector
from mcl.engine.logging import console
from mcl.errors import UserError
from mcl.interop.writing.exported import Exported, TrunkSource, Writer
from mcl.interop.writing.staging import staged
from mcl.nn.parts import PARTS, choose_pieces, parts_of, prefixes_of
from mcl.nn.trunk import Trunk, load_trunk, read_trunk


def export(settings: ExportSettings) -> dict[str, Any]:
    """Write the asked-for format to ``settings.out`` and check it numerically through the receiving library.

    Returns:
        ``files``, ``format``, ``parts``, ``covered`` (share of the receiving model that is filled),
        ``differences`` (of each map, relative), ``checked_by``, ``notes``, ``message``.

    Raises:
        UserError: no trunk there, a format that cannot hold this backbone, or an output that exists.
        RunFailed: the check failed or the disk is full; nothing has been written then.
    """
    whole_detector = settings.to == "onnx" or settings.content == "detector"
    if whole_detector and settings.to not in ("onnx", "torchvision"):
        raise UserError(
            f"--with detector: only --to torchvision and --to onnx hold a whole detector, not {settings.to}"
        )
    if whole_detector:
        return _finish(settings, "detector", *_detector(settings))
    source = _source(settings)
    return _finish(settings, source.parts, *_trunk(settings, source))


def _trunk(settings: ExportSettings, source: TrunkSource) -> tuple[Exported, list[Path]]:
    writer, companions = _writer(settings, source.parts)
    with staged(settings.out, companions, settings.overwrite) as aside:
        done = writer(source, aside / settings.out.name)
    return done, [settings.out, *(settings.out.with_name(name) for name in companions)]


def _writer(settings: ExportSettings, parts: str) -> tuple[Writer, tuple[str, ...]]:
    """The function that writes the format, and the names of the files it writes beside ``out``."""
    # Imported when asked for: no format pays for another's libraries.
    to, out = settings.to, settings.out
    if to == "torchvision-resnet" or (to == "torchvision" and parts == "backbone"):
        from mcl.interop.torchvision.trunk_format import write_resnet

        return write_resnet, ()
    if to == "torchvision":
        from mcl.interop.torchvision.trunk_format import write_rcnn

        return write_rcnn, ()
    if to == "timm":
        from mcl.interop.timm.trunk_format import write_timm

        return write_timm, ()
    if to == "detectron2":
        from mcl.interop.detectron2.trunk_format import config_names, write_detectron2

        return write_detectron2, config_names(out)
    if to == "mmdetection":
        from mcl.interop.mmdetection.trunk_format import config_name, write_mmdetection

        return write_mmdetection, (config_name(out),)
    from mcl.interop.writing.safetensors_format import write_safetensors

    return write_safetensors, ()


def _detector(settings: ExportSettings) -> tuple[Exported, list[Path]]:
    from mcl.interop.torchvision.detector_format import builder_name, write_onnx, write_torchvision_detector

    try:
        detector, plan = load_detector(settings.trunk)
    except UserError as error:
        raise UserError(
            f"--to {settings.to} needs a fine-tuned detector (run folder of mcl finetune): {error}"
        ) from None
    companions = () if settings.to == "onnx" else (builder_name(settings.out),)
    with staged(settings.out, companions, settings.overwrite) as aside:
        path = aside / settings.out.name
        if settings.to == "onnx":
            done = write_onnx(detector, plan.image_size, path)
        else:
            done = write_torchvision_detector(detector, plan, path)
    return done, [settings.out, *(settings.out.with_name(name) for name in companions)]


def _source(settings: ExportSettings) -> TrunkSource:
    """The trunk of a pre-training run, or the one inside a fine-tuned detector."""
    path = settings.trunk
    if path.name == DETECTOR_FILE or (path / DETECTOR_FILE).is_file():
        trunk, metadata = _trunk_of_detector(path)
    else:
        trunk, metadata = load_trunk(path), read_trunk(path)[2]
    asked = settings.parts
    if settings.to in ("timm", "torchvision-resnet"):
        asked = PARTS[0]
    pieces, _ = choose_pieces(asked, trunk.trained, str(path), False, "leave --parts away to write what was trained")
    return TrunkSource(trunk.eval(), metadata, parts_of(pieces), path)


def _trunk_of_detector(path: Path) -> tuple[Trunk, dict[str, Any]]:
    """What a fine-tuned detector has of a trunk; all of that was trained."""
    detector, plan = load_detector(path)
    names = prefixes_of(detector.pieces, detector.head_convs)
    state = {name: tensor for name, tensor in detector.state_dict().items() if name.startswith(names)}
    trunk = Trunk(plan.spec)
    if any(state[name].shape != tensor.shape for name, tensor in trunk.state_dict().items() if name in state):
        trunk = Trunk(
            replace(plan.spec, image_size=plan.image_size)
        )  # a transformer of fixed size has the detector's
    trunk.load_state_dict(state, strict=False)
    trunk.trained = detector.pieces
    told = {"method": "fine-tuned", "classes": list(plan.names), "trained": list(detector.pieces), **_told(path)}
    return trunk, told


def _told(path: Path) -> dict[str, Any]:
    """Cost and AP from the summary of a fine-tuning run."""
    summary = (path if path.is_dir() else path.parent) / "summary.json"
    if not summary.is_file():
        return {}
    told = json.loads(summary.read_text("utf-8"))
    results = {name: told[name] for name in ("box_AP", "mask_AP") if told.get(name) is not None}
    return {"cost": told.get("cost"), "results": results}


def _finish(settings: ExportSettings, parts: str, done: Exported, files: list[Path]) -> dict[str, Any]:
    for line in done.lines():
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    listed = ", ".join(str(file) for file in files)
    return {
        "format": settings.to, "parts": parts, "files": [str(file) for file in files], "covered": done.report.covered,
        "differences": done.differences, "checked_by": done.checked_by, "notes": done.notes,
        "message": f"exported {parts} to {listed}",
    }  # fmt: skip
