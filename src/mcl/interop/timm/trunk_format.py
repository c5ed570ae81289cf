"""timm: a folder that ``timm.create_model("local-dir:PATH")`` opens, laid out for the Hugging Face hub."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor, nn

from mcl.files import save_tensors
from mcl.interop.timm.model_card import model_card
from mcl.interop.timm.names import whole_name
from mcl.interop.writing.exported import Exported, Unfit, compare
from mcl.interop.writing.source import TrunkSource, probe_images
from mcl.nn.backbone import names_of
from mcl.nn.load_report import match
from mcl.nn.vit import PlainVit

WEIGHTS = "model.safetensors"


def companions(out: Path) -> tuple[str, ...]:
    """None: all is in the folder."""
    return ()


def fit(source: TrunkSource) -> Exported:
    """Whether timm's whole network takes the backbone's tensors. The maps are compared when the folder is there.

    Raises:
        Unfit: the whole network cannot be built at this size, or its attention is in windows, which timm's is not.
    """
    return _filled(source)[0]


def write(source: TrunkSource, folder: Path) -> Exported:
    """Write ``model.safetensors``, ``config.json`` and the model card ``README.md``; backbone only.

    What a whole network has behind C5 (last norm, ``conv_head``) no trunk has: it is written with timm's own
    starting values, so that the file loads without gaps, and is named in the notes and the card.

    Raises:
        Unfit: see ``fit``.
        RunFailed: the maps through timm differ.
    """
    done, whole, model_args, tensors, fresh = _filled(source)
    folder.mkdir()
    save_tensors(folder / WEIGHTS, tensors, {"format": "pt"})
    described = json.dumps(config(source, whole, model_args), indent=2)
    (folder / "config.json").write_text(described + "\n", "utf-8")
    (folder / "README.md").write_text(model_card(source, fresh), "utf-8")
    return replace(done, differences=_check(source, folder))


def _filled(source: TrunkSource) -> tuple[Exported, nn.Module, dict[str, Any], dict[str, Tensor], list[str]]:
    """The whole network, the arguments that build it, its tensors, and the names of those that no trunk has."""
    whole, model_args = whole_network(source)
    wanted = whole.state_dict()
    given = {whole_name(name, wanted) or name: tensor for name, tensor in source.body.items()}
    fits, report = match(wanted, given, tuple(given))
    report.require_complete("export", allow_partial=False)
    fresh = [name for name in wanted if name not in fits]
    tensors = {name: fits.get(name, tensor).detach().cpu().contiguous() for name, tensor in wanted.items()}
    notes = [f"behind C5, not pre-trained: {', '.join(fresh)}"] if fresh else []
    by = f"timm.create_model('local-dir:...'), timm {timm.__version__}"
    return Exported(report, {}, by, notes=notes), whole, model_args, tensors, fresh


def whole_network(source: TrunkSource) -> tuple[nn.Module, dict[str, Any]]:
    """timm's network without a classifier, and the arguments besides its name that it needs.

    Raises:
        Unfit: it cannot be built.
    """
    if source.spec.attention_window:
        raise Unfit(f"its attention is global, this trunk's in windows of {source.spec.attention_window} cells")
    size = {"img_size": source.spec.image_size}
    if source.spec.patch_size:
        size["patch_size"] = source.spec.patch_size
    for arguments in (size, {}):
        try:
            return timm.create_model(source.backbone, num_classes=0, **arguments), arguments
        except (TypeError, RuntimeError, AttributeError) as error:
            failure = error  # only networks of a fixed input size take img_size
    raise Unfit(f"it cannot build {source.backbone}: {' '.join(str(failure).split())}")


def config(source: TrunkSource, whole: nn.Module, model_args: dict[str, Any]) -> dict[str, Any]:
    """Content of ``config.json``: architecture, and what images must look like."""
    base = dict(whole.pretrained_cfg)
    size = source.spec.image_size
    described = {
        "tag": "mcl",
        "custom_load": False,
        "input_size": [3, size, size],
        "fixed_input_size": bool(model_args),
        "interpolation": base.get("interpolation", "bilinear"),
        "crop_pct": 1.0,
        "crop_mode": "center",
        "mean": list(source.spec.mean),
        "std": list(source.spec.std),
        "num_classes": 0,
        "pool_size": None,
        "first_conv": base.get("first_conv"),
        "classifier": base.get("classifier"),
        "license": "see README.md",
    }
    extra = {"model_args": model_args} if model_args else {}
    return {
        "architecture": source.backbone, "num_classes": 0, "num_features": whole.num_features, **extra,
        "pretrained_cfg": described,
    }  # fmt: skip


def _check(source: TrunkSource, folder: Path) -> dict[str, float]:
    images, ours = probe_images(source.spec), source.maps
    name = f"local-dir:{folder}"
    timm.create_model(name, pretrained=True)  # the whole network: every name must be there
    body = source.trunk.backbone.body
    plain = isinstance(body, PlainVit)
    indices = (len(body.blocks) - 1,) if plain else tuple(body.feature_info.out_indices)
    with _quiet_timm():
        network = timm.create_model(name, pretrained=True, features_only=True, out_indices=indices).eval()
    with torch.no_grad():
        features = network(images)
    layout = getattr(network, "output_fmt", None)
    if layout is not None and layout.value == "NHWC":
        features = [feature.permute(0, 3, 1, 2) for feature in features]
    return compare(ours, dict(zip(names_of(body), features, strict=True)))


@contextmanager
def _quiet_timm() -> Iterator[None]:
    """Opening only the features, timm warns of what lies behind C5 in the file; it is there for the whole network."""
    logger = logging.getLogger("timm.models._builder")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
