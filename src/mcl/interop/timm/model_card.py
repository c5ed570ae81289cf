"""README.md of an exported backbone, in the form that the Hugging Face hub expects."""

from __future__ import annotations

import html
import json
from collections.abc import Mapping
from typing import Any

from mcl.errors import printable
from mcl.interop.writing.source import TrunkSource

CARD = """---
library_name: timm
tags:
- image-feature-extraction
- object-detection
- mcl
---
# {backbone}, {title}

{origin}, with the Python tool `mcl`.

```python
import timm, torch

backbone = timm.create_model("local-dir:PATH", pretrained=True, features_only=True).eval()  # or "hf-hub:USER/NAME"
features = backbone(torch.zeros(1, 3, {size}, {size}))
```

Images: RGB, values 0..1, mean {mean}, std {std}; pre-trained at {size} x {size} pixels. There is no classifier
(`num_classes` 0).{fresh}

| | |
|---|---|
{rows}

The pyramid and the box head that were trained with this backbone are not in this folder:
`mcl export` writes them in other formats.
"""
def model_card(source: TrunkSource, fresh: list[str]) -> str:
    """Where the weights come from: method, recipe, data fingerprint, cost, and results if there are any."""
    spec, tail = source.spec, ""
    if fresh:
        names = ", ".join(f"`{name}`" for name in fresh)
        tail = f" What lies behind the last feature map was not pre-trained and has timm's starting values: {names}."
    rows = "\n".join(f"| {name} | {value} |" for name, value in _facts(source.metadata).items())
    title, origin = _origin(source.metadata)
    return CARD.format(
        title=title,
        origin=origin,
        backbone=spec.backbone,
        size=spec.image_size,
        mean=tuple(spec.mean),
        std=tuple(spec.std),
        fresh=tail,
        rows=rows,
    )


def _origin(metadata: Mapping[str, Any]) -> tuple[str, str]:
    """Title, and where the weights come from."""
    if metadata.get("method") == "fine-tuned":
        return "fine-tuned in a detector", "Backbone of a detector that was trained on boxes"
    title = f"pre-trained with {_cell(str(metadata.get('method', 'a method not recorded')))}"
    paper = f" ({_cell(str(metadata['paper']))})" if metadata.get("paper") else ""
    return title, f"Backbone of a detector's trunk, {title}{paper}"


def _facts(metadata: Mapping[str, Any]) -> dict[str, str]:
    cost = metadata.get("cost")
    cost = cost if isinstance(cost, Mapping) else {}
    seconds, images, used = map(_number, (cost.get("seconds"), cost.get("images"), metadata.get("data_images")))
    known = {
        "Method": metadata.get("method"),
        "Recipe": metadata.get("recipe"),
        "Steps": metadata.get("steps"),
        "Data": used and f"{used:,} unlabeled images",
        "Data fingerprint": metadata.get("data_fingerprint") and f"`{metadata['data_fingerprint']}`",
        "Cost": seconds and f"{seconds / 3600:.2f} h" + (f" for {images:,} images seen" if images else ""),
        "Results": metadata.get("results") and json.dumps(metadata["results"]),
    }
    return {name: _cell(str(value)) for name, value in known.items() if value} or {"Origin": "not recorded"}


def _number(value: Any) -> float | None:
    """Anything may be in a file's metadata; a number is what can be counted with."""
    return value if type(value) in (int, float) else None


def _cell(text: str) -> str:
    """Text from a file's metadata in one cell of a table: the hub makes HTML of the card."""
    return html.escape(printable(text), quote=False).replace("|", "&#124;")
