"""Toy scenes: squares, triangles and discs on noise, 64 px, with masks."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from mcl.data.labels.coco_json import CocoScenes, read_coco
from mcl.data.labels.scenes import CocoDetection, Framing
from mcl.detect.base import Detector, DetectorPlan
from mcl.detect.registry import build_detector, settings_of
from mcl.nn.trunk import TrunkSpec

NAMES = ["square", "triangle", "disc"]
SPEC = TrunkSpec("test_resnet", pyramid_channels=16, head_convs=2, image_size=64)
QUICK = {
    "mask-rcnn": {"fc_channels": 32, "boxes_per_image": 16},
    "faster-rcnn": {"fc_channels": 32, "boxes_per_image": 16},
    "retinanet": {},
    "fcos": {},
}


def make(name: str, spec: TrunkSpec = SPEC, names=NAMES, size: int = 64, frame=(), **given) -> Detector:
    """A detector by name; ``frame``: short sides and longest side."""
    settings = settings_of(name)(**{**QUICK[name], **given})
    return build_detector(DetectorPlan(spec, tuple(names), settings, size, *frame))


def write_toy(folder: Path, name: str, count: int, seed: int, side: int = 64) -> Path:
    rng = np.random.default_rng(seed)
    (folder / name).mkdir(parents=True, exist_ok=True)
    images, annotations = [], []
    for i in range(count):
        image = Image.fromarray(rng.integers(0, 90, (side, side, 3), dtype=np.uint8))
        draw = ImageDraw.Draw(image)
        for _ in range(0 if i == count - 1 else rng.integers(1, 4)):
            kind, w = int(rng.integers(3)), int(rng.integers(12, 28))
            x, y = (int(v) for v in rng.integers(0, side - w, 2))
            polygon = _outline(kind, x, y, w)
            draw.polygon([tuple(p) for p in polygon], fill=tuple(int(v) for v in rng.integers(140, 255, 3)))
            annotations.append({
                "id": len(annotations), "image_id": 10 + i, "category_id": 5 + 2 * kind, "bbox": [x, y, w, w],
                "area": w * w, "iscrowd": 0, "segmentation": [polygon.ravel().tolist()],
            })  # fmt: skip
        image.save(folder / name / f"{i}.png")
        images.append({"id": 10 + i, "file_name": f"{name}/{i}.png", "width": side, "height": side})
    categories = [{"id": 5 + 2 * k, "name": name} for k, name in enumerate(NAMES)]
    path = folder / f"{name}.json"
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    return path


def _outline(kind: int, x: int, y: int, w: int) -> np.ndarray:
    if kind == 0:
        return np.array([[x, y], [x + w, y], [x + w, y + w], [x, y + w]])
    if kind == 1:
        return np.array([[x, y + w], [x + w, y + w], [x + w // 2, y]])
    angles = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    return np.stack([x + w / 2 * (1 + np.cos(angles)), y + w / 2 * (1 + np.sin(angles))], 1).round(1)


@pytest.fixture(scope="session")
def toy(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("toy")
    write_toy(folder, "train", 12, seed=1)
    write_toy(folder, "val", 6, seed=2)
    return folder


@pytest.fixture(scope="session")
def scenes(toy) -> CocoScenes:
    return read_coco(toy / "train.json", toy)


@pytest.fixture
def dataset(scenes) -> CocoDetection:
    return CocoDetection(scenes, NAMES, Framing(64), masks=True)


@pytest.fixture
def detector():
    torch.manual_seed(0)
    return make("mask-rcnn")


def stop_after_two(training, batches, **rest):
    """``run_loop`` of a run that is broken off in its third step."""
    from mcl.engine.loop import run_loop

    def cut(start_step):
        for position, batch in enumerate(batches(start_step)):
            if position == 2:
                raise KeyboardInterrupt
            yield batch

    return run_loop(training, cut, **rest)
