"""Rebuilds the authors' weights, images and shuffles by the rule in data/README.md, under our names."""

from __future__ import annotations

import json
import os
import re
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mcl.config.pretrain import ModelSettings
from mcl.methods.mcl.method import Mcl
from mcl.methods.mcl.settings import MclSettings
from mcl.methods.mcl.tiles import VIEWS
from mcl.methods.montage import Shuffle, assemble, shuffle_from
from mcl.nn.trunk import IMAGENET_MEAN, IMAGENET_STD, Trunk, TrunkSpec

LETTERS = dict(zip(VIEWS, "qk", strict=True))


def golden_files() -> list[Path]:
    """Every golden case: of MCL_GOLDEN_DIR, or of the copy beside this file."""
    folder = Path(os.environ.get("MCL_GOLDEN_DIR", Path(__file__).parent / "data"))
    return sorted(path for path in folder.glob("*.json") if path.with_suffix(".npz").exists())


@dataclass(frozen=True)
class Case:
    """One golden file."""

    settings: dict[str, Any]
    arrays: Any

    @classmethod
    def read(cls, path: Path) -> Case:
        return cls(json.loads(path.read_text()), np.load(path.with_suffix(".npz")))

    def build(self, **method: Any) -> Mcl:
        """Our network with the authors' weights, in float64."""
        g = self.settings
        spec = TrunkSpec(f"resnet{g['depth']}", g["pyramid_channels"], image_size=g["image_size"])
        network = Mcl(
            Trunk(spec),
            ModelSettings(hidden=g["hidden"], embedding=g["embedding"]),
            MclSettings(
                scales=g["scales"], level_weights=g["level_weights"], temperature=g["temperature"],
                momentum=g["base_momentum"], **method,
            ),
            seed=0,
        ).double()  # fmt: skip
        self.load(network)
        return network

    def load(self, network: Mcl) -> None:
        """Fill every parameter and buffer by the rule; fails if a name of theirs or ours is left over."""
        state = network.state_dict()
        ours = {self.our_name(name) for name in self.settings["state_dict_shapes"]}
        left = {name for name in state if not name.endswith("num_batches_tracked")} ^ {
            n for n in ours if not n.endswith("num_batches_tracked")
        }
        assert not left, f"names without a counterpart: {sorted(left)[:5]}"
        for name, shape in self.settings["state_dict_shapes"].items():
            if not name.endswith("num_batches_tracked"):
                assert list(state[self.our_name(name)].shape) == shape, name
                state[self.our_name(name)].copy_(weight_by_rule(name, shape, self.settings["seed"]))

    def our_name(self, name: str) -> str:
        """Authors' name -> ours."""
        network = {"encoder_q": "online.encoder", "encoder_k": "target"}
        if match := re.fullmatch(r"(encoder_[qk])\.0\.(.*)", name):
            return f"{network[match[1]]}.trunk.backbone.body.{match[2]}"
        if match := re.fullmatch(r"(encoder_[qk])\.1\.(lateral|fpn)_convs\.(\d)\.(conv|bn)\.(.*)", name):
            blocks = {"lateral": "inner_blocks", "fpn": "layer_blocks"}[match[2]]
            return f"{network[match[1]]}.trunk.backbone.fpn.{blocks}.{match[3]}.{'01'[match[4] == 'bn']}.{match[5]}"
        if match := re.fullmatch(r"(encoder_[qk])\.2\.cls_convs\.(\d)\.(conv|bn)\.(.*)", name):
            return (
                f"{network[match[1]]}.trunk.roi_heads.box_head.{match[2]}.{'01'[match[3] == 'bn']}.{match[4]}"
            )
        if match := re.fullmatch(r"(encoder_[qk])\.2\.mlp\.(.*)", name):
            return f"{network[match[1]]}.projector.{match[2]}"
        if match := re.fullmatch(r"head\.predictor\.(\d)\.mlp\.(.*)", name):
            return f"online.predictors.{self.settings['scales'][int(match[1])]}.{match[2]}"
        raise AssertionError(f"unknown name {name}")

    def tiles(self, step: int) -> dict[int, dict[int, Tensor]]:
        """view -> scale -> uint8 tiles of the step's images: every s-th pixel of full-size views."""
        g = self.settings
        n, size, scales = g["batch"], g["image_size"], g["scales"]
        r = np.random.default_rng([g["seed"] + step, 7])
        base = r.integers(0, 256, (n, 1, 3, size // 8, size // 8)).astype(np.float32)
        view = r.integers(0, 256, (n, 8, 3, size // 8, size // 8)).astype(np.float32)
        x = np.kron((0.7 * base + 0.3 * view).astype(np.float32), np.ones((1, 1, 1, 8, 8), np.float32))
        x = x + r.normal(0, 12, (n, 8, 3, size, size)).astype(np.float32)
        x = torch.from_numpy(x.clip(0, 255).astype(np.uint8))
        return {
            v: {s: x[:, 4 * (v - 1) + (1, 2, 4, 8).index(s), :, ::s, ::s].contiguous() for s in scales}
            for v in VIEWS
        }

    def inputs(self, step: int) -> tuple[dict[int, Tensor], dict[int, Shuffle]]:
        """view -> canvases in float64, view -> shuffle."""
        shuffles = {}
        for view, letter in LETTERS.items():
            permutations = {
                s: torch.from_numpy(self.arrays[f"step{step}_shuffle_scale{s}_{letter}"])
                for s in self.settings["scales"]
                if s > 1
            }
            shuffles[view] = shuffle_from(permutations, self.settings["batch"])
        tiles = self.tiles(step)
        canvases = {
            v: assemble(tiles[v], shuffles[v], IMAGENET_MEAN, IMAGENET_STD, torch.float64) for v in VIEWS
        }
        return canvases, shuffles


def weight_by_rule(name: str, shape: list[int], seed: int) -> Tensor:
    """The value of one entry of the authors' state dict."""
    n = np.random.default_rng([seed, zlib.crc32(name.encode())]).standard_normal(
        tuple(shape), dtype=np.float32
    )
    if name.endswith("running_mean"):
        value = np.float32(0.1) * n
    elif name.endswith("running_var"):
        value = 1 + np.float32(0.1) * np.abs(n)
    elif len(shape) >= 2:
        value = n * np.float32(np.sqrt(2 / np.prod(shape[1:])))
    elif name.endswith("weight"):
        value = 1 + np.float32(0.1) * n
    else:
        value = np.float32(0.1) * n
    return torch.from_numpy(value.astype(np.float32)).double()
