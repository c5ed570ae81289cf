"""mcl's own format (docs/export.md): tensors under torchvision's names, metadata as JSON strings."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from safetensors.torch import save_file

from mcl.interop.writing.exported import (
    Exported,
    TrunkSource,
    compare,
    prefixes,
    probe_images,
    same_tensors,
    trunk_maps,
)
from mcl.nn.backbone import STRIDES
from mcl.nn.load_report import match
from mcl.nn.parts import LEVELS, least_parts, pieces_of, trained_in
from mcl.nn.trunk import FORMAT_VERSION, Trunk, read_trunk


def write_safetensors(source: TrunkSource, path: Path) -> Exported:
    """Write the tensors of the exported parts and all metadata."""
    pieces = pieces_of(source.parts)
    described = {
        "format_version": FORMAT_VERSION, "spec": asdict(source.spec), "levels": list(LEVELS), "strides": list(STRIDES),
        "channel_order": "RGB", **source.metadata, "parts": least_parts(pieces),
        "trained": [piece for piece in trained_in(source.metadata) if piece in pieces],
    }  # fmt: skip
    tensors = {name: tensor.cpu().contiguous() for name, tensor in source.state.items()}
    save_file(tensors, path, {key: json.dumps(value) for key, value in described.items()})
    spec, state, _ = read_trunk(path)
    same_tensors(tensors, state)
    receiver = Trunk(spec)
    fits, report = match(receiver.state_dict(), state, prefixes(source.parts))
    report.require_complete("export", allow_partial=False)
    receiver.load_state_dict(fits, strict=False)
    images = probe_images(spec)
    read_back = TrunkSource(receiver.eval(), {}, source.parts, path)
    return Exported(
        report,
        compare(trunk_maps(source, images), trunk_maps(read_back, images)),
        "a trunk built from the file",
    )
