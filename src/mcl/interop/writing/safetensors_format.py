"""mcl's own format (docs/export.md): tensors under torchvision's names, metadata as JSON strings."""

from __future__ import annotations

import json
from pathlib import Path

from mcl.files import save_tensors
from mcl.interop.writing.exported import Exported, compare, same_tensors
from mcl.interop.writing.source import TrunkSource
from mcl.nn.backbone import STRIDES
from mcl.nn.load_report import match
from mcl.nn.parts import LEVELS, least_parts, pieces_of, prefixes_of
from mcl.nn.trunk import FORMAT_VERSION, Trunk, read_trunk


def companions(out: Path) -> tuple[str, ...]:
    """None."""
    return ()


def fit(source: TrunkSource) -> Exported:
    """Compare the trunk with one built from its description."""
    receiver = Trunk(source.spec)
    fits, report = match(receiver.state_dict(), source.state, prefixes_of(pieces_of(source.parts)))
    report.require_complete("export", allow_partial=False)
    receiver.load_state_dict(fits, strict=False)
    built = TrunkSource(receiver.eval(), {}, source.parts, source.origin, source.roi_size)
    return Exported(report, compare(source.maps, built.maps), "a trunk built from the file")


def write(source: TrunkSource, path: Path) -> Exported:
    """Write the tensors of the exported parts and all metadata.

    Raises:
        RunFailed: the file does not read back the same.
    """
    done, pieces = fit(source), pieces_of(source.parts)
    described = {
        "format_version": FORMAT_VERSION, "levels": list(LEVELS), "strides": list(STRIDES), "channel_order": "RGB",
        **source.metadata, "spec": source.spec.described(), "parts": least_parts(pieces),
        "trained": list(pieces),
    }  # fmt: skip
    tensors = {name: tensor.cpu().contiguous() for name, tensor in source.state.items()}
    save_tensors(path, tensors, {key: json.dumps(value) for key, value in described.items()})
    same_tensors(tensors, read_trunk(path)[1])
    return done
