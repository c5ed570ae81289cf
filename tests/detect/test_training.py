"""Frozen parts stay as they are, stored features train like live ones, precise BatchNorm averages."""

import numpy as np
import pytest
import torch

from mcl.config.finetune import FinetuneOptim, FinetuneSchedule
from mcl.data.labels.scenes import CocoDetection, Framing, collate
from mcl.detect.finetune import DetectorTraining
from mcl.detect.frozen import FeatureStore, FrozenScenes, freeze
from mcl.engine.optim import Schedule

from .conftest import NAMES

CPU = torch.device("cpu")


def train_with(detector, frozen=None, store=None) -> DetectorTraining:
    schedule = Schedule(FinetuneSchedule(steps=4), 1e-3, 4, 0)
    return DetectorTraining(detector, FinetuneOptim(), schedule, 4, CPU, frozen, store)


def run(training: DetectorTraining, batch, steps: int = 2) -> dict:
    for step in range(steps):
        torch.manual_seed(step)
        values = training.train_step(batch, step)
    return values


@pytest.mark.parametrize("what", ["backbone", "trunk"])
def test_frozen_tensors_do_not_change(detector, dataset, what):
    frozen = freeze(detector, what)
    before = {name: tensor.clone() for name, tensor in detector.state_dict().items()}
    run(train_with(detector, frozen), collate([dataset[i] for i in range(4)]))
    same = {name for name, tensor in detector.state_dict().items() if torch.equal(tensor, before[name])}
    prefixes = (
        ("backbone.body.",)
        if what == "backbone"
        else ("backbone.", "roi_heads.box_head.0.", "roi_heads.box_head.1.")
    )
    expected = {name for name in before if name.startswith(prefixes)}
    assert expected <= same
    trained = {name for name in before if name.endswith((".weight", "running_mean"))} - expected
    assert not trained & same


def test_stored_features_train_like_live_ones(detector, dataset, tmp_path):
    twin_state = {name: tensor.clone() for name, tensor in detector.state_dict().items()}
    frozen = freeze(detector, "trunk")
    live = run(train_with(detector, frozen), collate([dataset[i] for i in range(4)]))
    learnt = {name: tensor.clone() for name, tensor in detector.state_dict().items()}
    detector.load_state_dict(twin_state)
    store = FeatureStore(detector.eval(), dataset, False, "float32", tmp_path, 1.0, CPU)
    rows = FrozenScenes(dataset)
    stored = run(train_with(detector, frozen, store), collate([rows[0, i] for i in range(4)]))
    for name in live:
        torch.testing.assert_close(stored[name], live[name], rtol=1e-4, atol=1e-5, msg=name)
    for name, tensor in detector.state_dict().items():
        torch.testing.assert_close(tensor, learnt[name], rtol=1e-3, atol=2e-3, msg=name)


def test_mirrored_rows_and_targets_belong_together(detector, scenes, tmp_path):
    dataset = CocoDetection(scenes, NAMES, Framing(64, flip=0.5), masks=True, seed=3)
    store = FeatureStore(detector.eval(), dataset, True, "float16", tmp_path, 0.0, CPU)
    assert isinstance(store.parts[0], np.memmap) and len(store.parts[0]) == 2 * len(dataset)
    rows, seen = FrozenScenes(dataset), set()
    for index in range(len(dataset)):
        row, target = rows[7, index]
        image, live_target = dataset[7, index]
        seen.add(row >= len(dataset))
        torch.testing.assert_close(target["boxes"], live_target["boxes"])
        assert torch.equal(target["masks"], live_target["masks"]) and torch.equal(
            target["labels"], live_target["labels"]
        )
        with torch.no_grad():
            live = detector.backbone(detector.transform.normalize(image.float() / 255)[None])
        for name, level in store.features([row]).items():
            torch.testing.assert_close(level, live[name], rtol=1e-2, atol=1e-2)
    assert seen == {True, False}


def test_precise_norms_average_the_batches(detector, dataset):
    training = train_with(detector)
    batches = [collate([dataset[i] for i in pair]) for pair in ((0, 1), (2, 3))]
    norm = detector.backbone.fpn.inner_blocks[0][1]
    momentum, means = norm.momentum, []
    handle = norm.register_forward_pre_hook(lambda _, inputs: means.append(inputs[0].mean((0, 2, 3))))
    assert training.recompute_norms(batches) > 0
    handle.remove()
    torch.testing.assert_close(norm.running_mean, torch.stack(means).mean(0))
    assert norm.momentum == momentum


def test_a_batch_without_any_object_trains(detector, dataset):
    values = run(train_with(detector), collate([dataset[11], dataset[11]]), steps=1)
    assert torch.isfinite(values["loss"])
    assert all(torch.isfinite(tensor).all() for tensor in detector.state_dict().values())
