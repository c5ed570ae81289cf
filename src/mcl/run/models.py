"""``mcl models``: backbones that a trunk can have. ``python -m mcl.run.models`` writes the list anew."""

from __future__ import annotations

import json
from importlib import resources
from pathlib import Path
from typing import Any

from mcl.config.models import ModelsSettings
from mcl.errors import UserError, did_you_mean
from mcl.interop.formats import ALL, FORMATS, holding

FILE = "models.json"
SIDE = 224
HEADER = ("backbone", "parameters", "GFLOPs", "trunk: parameters", "GFLOPs", "tested", "exports to")


def models(settings: ModelsSettings) -> dict[str, Any]:
    """The list, or fresh measurements of ``settings.measure``.

    Returns:
        ``models``: one dictionary a backbone (see ``measure_backbone``), and ``message``: the table.

    Raises:
        UserError: no name contains ``settings.find``, or a name that timm has not or that has other strides.
    """
    rows = [measure_backbone(name) for name in settings.measure] or shipped()
    chosen = [row for row in rows if settings.find in row["name"]]
    if not chosen:
        names = [row["name"] for row in rows]
        raise UserError(
            f"--find: no listed backbone contains {settings.find!r}{did_you_mean(settings.find, names)}"
        )
    return {"models": chosen, "message": table(chosen)}


def shipped() -> list[dict[str, Any]]:
    """The rows of the packaged list (read without importing torch)."""
    return json.loads((resources.files("mcl.run") / FILE).read_text("utf-8"))


def table(rows: list[dict[str, Any]]) -> str:
    """Rows as aligned text."""
    cells = [HEADER] + [
        (
            row["name"], f"{row['parameters'] / 1e6:.1f} M", f"{row['gflops']:.1f}", f"{row['trunk_parameters'] / 1e6:.1f} M",
            f"{row['trunk_gflops']:.1f}", "yes" if row["tested"] else "", ", ".join(_particular(row["exports"])),
        )
        for row in rows
    ]  # fmt: skip
    widths = [max(len(line[i]) for line in cells) for i in range(len(HEADER))]
    lines = [
        "  ".join(f"{cell:<{width}}" for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in cells
    ]
    every = {
        content: " and ".join(entry.name for entry in holding(content) if entry.backbones == ALL)
        for content in ("trunk", "detector")
    }
    notes = [
        "",
        f"GFLOPs: 2 x multiply-adds of one {SIDE} x {SIDE} image; trunk: backbone, pyramid of 256 channels (its GFLOPs, too),",
        "and head of 4 convolutions (parameters only: its cost depends on the number of windows).",
        "tested: the test suite pre-trains, exports and fine-tunes it. Any timm network with features at strides",
        f"4, 8, 16 and 32 works: mcl models --measure NAME. Every trunk also exports to {every['trunk']}, every detector to "
        f"{every['detector']}.",
    ]
    return "\n".join(lines + notes)


def _particular(exports: str) -> list[str]:
    """Without the formats that every trunk exports to."""
    return [name for name in exports.split(", ") if FORMATS[name].backbones != ALL]


def measure_backbone(name: str, tested: bool = False) -> dict[str, Any]:
    """Parameters and GFLOPs of a timm network as backbone and with the default pyramid and head, and its formats.

    Raises:
        UserError: see ``build_backbone``.
    """
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from mcl.interop.writing.source import TrunkSource
    from mcl.nn.parts import PARTS
    from mcl.nn.trunk import Trunk, TrunkSpec
    from mcl.run.export import formats_that_fit

    trunk = Trunk(TrunkSpec(name, image_size=SIDE)).eval()
    body = trunk.backbone.body

    def gflops(module: torch.nn.Module) -> float:
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            module(torch.zeros(1, 3, SIDE, SIDE))
        return round(counter.get_total_flops() / 1e9, 2)

    source = TrunkSource(trunk, {}, PARTS[-1], Path(name))
    return {
        "name": name, "parameters": sum(p.numel() for p in body.parameters()), "gflops": gflops(body),
        "trunk_parameters": sum(p.numel() for p in trunk.parameters()), "trunk_gflops": gflops(trunk),
        "tested": tested, "exports": ", ".join(formats_that_fit(source, "trunk")),
    }  # fmt: skip


if __name__ == "__main__":
    file = Path(__file__).with_name(FILE)
    known = [(row["name"], row["tested"]) for row in json.loads(file.read_text("utf-8"))]
    written = [measure_backbone(*row) for row in known]
    file.write_text("[\n" + ",\n".join(json.dumps(row) for row in written) + "\n]\n", "utf-8")
