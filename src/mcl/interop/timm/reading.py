"""A folder in timm's layout (ours, or one from the Hugging Face hub)."""

from __future__ import annotations

import json
from pathlib import Path

from torch import Tensor

from mcl.errors import UserError
from mcl.interop.reading.files import read_content
from mcl.interop.reading.prefixes import unpack
from mcl.nn.stored import short

CONFIG = "config.json"
WEIGHTS = ("model.safetensors", "open_clip_model.safetensors", "pytorch_model.bin")


def read_folder(folder: Path) -> tuple[str, dict[str, Tensor]]:
    """Architecture and state dict.

    Raises:
        UserError: ``config.json`` or the weights are missing or damaged.
    """
    try:
        content = json.loads((folder / CONFIG).read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{folder}: no model folder in timm's layout: {CONFIG}: {error}") from None
    architecture = content.get("architecture") if isinstance(content, dict) else None
    if not isinstance(architecture, str):
        raise UserError(f"{folder / CONFIG}: its architecture is {short(architecture)}, not timm's name of a network")
    for name in WEIGHTS:
        if (folder / name).exists():
            return architecture, unpack(read_content(folder / name))[0]
    raise UserError(f"{folder}: no weights there ({' or '.join(WEIGHTS)})")
