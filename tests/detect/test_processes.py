"""Fine-tuning and evaluation on two processes: one detector, every image read once, the AP of one process."""

from __future__ import annotations

import json
from pathlib import Path
from unittest import mock

import torch
from faster_coco_eval.core import mask as rle
from safetensors.torch import load_file

from mcl.config.base import from_values
from mcl.config.finetune import EvaluateSettings, FinetuneSettings
from mcl.data.labels.coco_json import read_coco
from mcl.data.labels.scenes import CocoDetection, Framing
from mcl.detect.feedback import ScaleFeedback
from mcl.detect.frozen import FeatureStore
from mcl.engine.processes.distributed import rank
from mcl.engine.processes.job import joined
from mcl.run.evaluate import evaluate
from mcl.run.finetune import finetune
from ranks import on_ranks

from .conftest import NAMES, make


def train(toy, run: Path, **more) -> dict:
    values = {
        "train": toy / "train.json", "val": toy / "val.json", "images": toy, "out": run, "batch": 4,
        "trunk": "none", "model.backbone": "test_resnet", "model.pyramid_channels": 16, "model.head_convs": 1,
        "image_size": 64, "precise_bn_images": 8, "schedule.steps": 2, "schedule.warmup_steps": 0,
        "loop.workers": 0, "loop.tensorboard": False, "loop.log_every": 1, "test_batch": 4,
        "detector.score_threshold": 0.0, "detector.detections_per_image": 10,
    }  # fmt: skip
    if "detector.name" not in more:
        values |= {"detector.fc_channels": 32, "detector.proposals_test": 20}
    return finetune(from_values(FinetuneSettings, {**values, **more}))


def measure_again(toy, run: Path, out: Path) -> dict:
    options = {"detector": run, "val": toy / "val.json", "images": toy, "out": out, "workers": 0, "batch": 4}
    return evaluate(from_values(EvaluateSettings, options))


# Losses of images do not depend on each other, and nothing is sampled: processes must end where one does.
DENSE = {"detector.name": "retinanet", "optim.name": "sgd", "optim.lr": 0.01, "loop.sync_bn": True}


def features(toy, folder: Path) -> tuple[dict[str, torch.Tensor], list[str]]:
    """Features of all rows by a detector that is the same everywhere, and the names of files while they are there."""
    scenes = read_coco(toy / "train.json", toy)
    dataset = CocoDetection(scenes, NAMES, Framing(64, flip=0.5), masks=False)
    torch.manual_seed(0)
    detector = make("faster-rcnn").eval()
    # Batches of 5, 5 and 2: one process has two of them, and the last one is not full.
    store = FeatureStore(detector, dataset, True, "float32", folder, 0.0, torch.device("cpu"), batch=5)
    levels, names = store.features(range(2 * len(dataset))), sorted(path.name for path in folder.iterdir())
    store.close()
    return dict(levels), names


def decide() -> None:
    """Both stitch their next step if the loss of both says so, whatever their own."""
    feedback = ScaleFeedback(threshold=0.5, small=10)
    feedback.see(torch.tensor([25.0, 400.0]), torch.tensor([3.0, 1.0] if rank() else [0.0, 4.0]))
    assert feedback.stitch_next  # 3 of 8, although 3 of 4 on rank 1
    feedback.see(torch.tensor([25.0, 400.0]), torch.tensor([3.0, 1.0] if rank() else [2.0, 2.0]))
    assert not feedback.stitch_next and (feedback.regular, feedback.stitched) == (1, 1)


def work(toy, out: Path) -> tuple:
    """All that needs two processes: their start is what costs."""
    summary = train(toy, out / "run")
    measure_again(toy, out / "run", out / "two")
    train(toy, out / "dense", **DENSE)
    train(toy, out / "fcos", **{"detector.name": "fcos"})
    frozen = {"freeze": "trunk", "loop.sync_bn": False}  # what BatchNorm saw differs, and must not in the end
    train(toy, out / "shared", **frozen)
    with mock.patch("mcl.detect.frozen.process_count", lambda: 1), mock.patch("mcl.detect.frozen.rank", lambda: 0):
        train(toy, out / "each", **frozen)  # every process computes the features of all images
    with joined("cpu"):
        decide()
        shared = features(toy, out / "rows")
    alone = out / f"rows-{id(summary)}"
    alone.mkdir()
    return summary, shared, features(toy, alone)


def numbers(folder: Path) -> dict:
    content = json.loads((folder / "eval.json").read_text())
    return {key: value for key, value in content.items() if key != "seconds"}


def predictions(folder: Path, kind: str = "bbox") -> list[dict]:
    found = json.loads((folder / f"predictions.{kind}.json").read_text())
    assert found
    return found


def test_two_processes_train_one_detector_and_measure_what_one_measures(toy, tmp_path):
    (tmp_path / "rows").mkdir()
    for stale in ("features.bin", "features.0123.0.bin", "features.0123.3.bin"):  # of a run that was killed
        (tmp_path / "rows" / stale).write_bytes(b"x" * 100)
    (first, *rows), (second, *other_rows) = on_ranks(2, work, toy, tmp_path, inside=False)

    assert second == {} and first["test_images"] == 6 and first["cost"]["images"] == 8
    measure_again(toy, tmp_path / "run", tmp_path / "one")
    assert numbers(tmp_path / "one") == numbers(tmp_path / "two") == numbers(tmp_path / "run")
    for kind in ("bbox", "segm"):
        assert predictions(tmp_path / "one", kind) == predictions(tmp_path / "two", kind)
    state = torch.load(tmp_path / "run/checkpoints/last.pt", weights_only=True)["state"]["detector"]
    saved = load_file(tmp_path / "run/detector.safetensors")
    weight = "roi_heads.box_predictor.cls_score.weight"
    assert torch.equal(saved[weight], state[weight])
    assert {result["image_id"] for result in predictions(tmp_path / "two")} <= {10, 11, 12, 13, 14, 15}

    # Detectors without proposals.
    train(toy, tmp_path / "dense-one", **DENSE)
    two, one = (load_file(tmp_path / run / "detector.safetensors") for run in ("dense", "dense-one"))
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, rtol=1e-3, atol=1e-5, msg=name)
    measure_again(toy, tmp_path / "fcos", tmp_path / "fcos-one")
    assert numbers(tmp_path / "fcos") == numbers(tmp_path / "fcos-one") and predictions(tmp_path / "fcos")

    # Features of a frozen trunk: a share each, read by both; bit for bit those of one process.
    for (shared, names), (alone, _) in (rows, other_rows):
        assert [name.split(".")[2] for name in names] == ["0", "1"] and "0123" not in "".join(names)
        assert all(torch.equal(level, alone[name]) for name, level in shared.items()) and len(shared) == 5
    assert not list(tmp_path.rglob("features*.bin"))
    shared, each = (load_file(tmp_path / run / "detector.safetensors") for run in ("shared", "each"))
    assert all(torch.equal(tensor, each[name]) for name, tensor in shared.items())
    measure_again(toy, tmp_path / "shared", tmp_path / "shared-one")
    assert numbers(tmp_path / "shared") == numbers(tmp_path / "each") == numbers(tmp_path / "shared-one")
    # The mask head is the only one with BatchNorm. Memory is laid out otherwise in training: sums differ a little.
    two, one = (predictions(tmp_path / run, "segm") for run in ("shared", "shared-one"))
    assert [result["image_id"] for result in two] == [result["image_id"] for result in one]
    same = [rle.decode(a["segmentation"]) == rle.decode(b["segmentation"]) for a, b in zip(two, one, strict=True)]
    assert min(pixels.mean() for pixels in same) > 0.99
