"""Objects without a mask: the others' masks are learned and measured all the same."""

from __future__ import annotations

import json
import re

import pytest
import torch
from torchvision.models.detection.roi_heads import RoIHeads

from mcl.config.base import from_values
from mcl.config.finetune import FinetuneSettings
from mcl.data.labels.coco_json import read_coco
from mcl.data.labels.scenes import CocoDetection, Framing, collate
from mcl.detect.evaluate import coco_numbers, ground_truth
from mcl.detect.forward import losses_of, to_canvas
from mcl.errors import UserError
from mcl.randomness import seeded
from mcl.run.detector_start import plan_detector
from mcl.run.finetune import finetune
from mcl.run.masks import measures_masks

from .conftest import NAMES, write_toy

CPU = torch.device("cpu")


def without_masks(folder, count):
    """Toy scenes of which the first ``count`` objects have crumbs instead of a mask."""
    path = write_toy(folder, "train", 10, seed=3)
    content = json.loads(path.read_text())
    for annotation in content["annotations"][:count]:
        annotation["segmentation"] = [[3, 3, 4, 4]]
    path.write_text(json.dumps(content))
    return path, len(content["annotations"])


def settings_for(path, folder, **given):
    values = {
        "trunk": "none", "model.backbone": "test_resnet", "model.pyramid_channels": 16, "model.head_convs": 1, "image_size": 64,
        "train": path, "val": path, "images": folder, "out": folder / "run", "batch": 4, "schedule.steps": 1,
        "loop.workers": 0, "loop.tensorboard": False, "precise_bn_images": 0, "loop.threads": 1,
    }  # fmt: skip
    return from_values(FinetuneSettings, {**values, **given})


def planned(path, folder, **given):
    plan, start = plan_detector(settings_for(path, folder, **given), read_coco(path, folder))
    return plan.settings.name, start.notes


def test_one_object_without_a_mask_does_not_take_the_masks_away(tmp_path):
    path, objects = without_masks(tmp_path, 1)
    name, notes = planned(path, tmp_path)
    assert name == "mask-rcnn"
    assert notes == [f"train.json: 1 of {objects} objects have no mask: they teach their boxes only"]
    summary = finetune(settings_for(path, tmp_path))
    assert summary["detector"] == "mask-rcnn" and summary["mask_AP"] is not None and notes[0] in summary["notes"]


def test_few_masks_are_not_learned_unasked(tmp_path):
    path, objects = without_masks(tmp_path, 9)
    assert objects / 2 < 9
    name, (note,) = planned(path, tmp_path)
    assert name == "faster-rcnn" and f"only {objects - 9} of {objects} objects have a mask" in note
    assert planned(path, tmp_path, **{"detector.name": "mask-rcnn"})[0] == "mask-rcnn"
    assert not measures_masks(read_coco(path, tmp_path))


def test_masks_require(tmp_path):
    path, objects = without_masks(tmp_path, 2)
    with pytest.raises(UserError, match=re.escape(f"--masks require: 2 of {objects} objects of {path} have no mask, the first in ")):
        planned(path, tmp_path, masks="require")
    whole, _ = without_masks(tmp_path, 0)
    assert planned(whole, tmp_path, masks="require") == ("mask-rcnn", [])


def test_masks_off(tmp_path):
    path, _ = without_masks(tmp_path, 0)
    assert planned(path, tmp_path, masks="off") == ("faster-rcnn", [])
    with pytest.raises(UserError, match="--masks off: mask-rcnn learns masks"):
        settings_for(path, tmp_path, masks="off", **{"detector.name": "mask-rcnn"})


def batch_of(path, folder):
    dataset = CocoDetection(read_coco(path, folder), NAMES, Framing(64), masks=True)
    return collate([dataset[0, i] for i in range(4)])


def losses(detector, images, targets, way=losses_of):
    canvas = to_canvas(detector, images, CPU)
    with seeded(1):
        return way(detector.train(), detector.backbone(canvas.tensors), canvas, targets)


def test_losses_are_torchvisions_where_every_mask_is_known(detector, tmp_path):
    images, targets = batch_of(without_masks(tmp_path, 0)[0], tmp_path)

    def theirs(detector, features, canvas, targets):
        proposals, of_proposals = detector.rpn(canvas, features, targets)
        _, of_heads = RoIHeads.forward(detector.roi_heads, features, proposals, canvas.image_sizes, targets)
        return {**of_proposals, **of_heads}

    plain = [{k: v for k, v in t.items() if isinstance(v, torch.Tensor) and k != "mask_known"} for t in targets]
    assert losses(detector, images, targets) == losses(detector, images, plain, theirs)


def test_a_mask_that_nobody_drew_teaches_nothing(detector, tmp_path):
    """Whatever stands there instead changes no loss; as a mask it would."""
    images, targets = batch_of(without_masks(tmp_path, 1)[0], tmp_path)
    assert targets[0]["mask_known"].tolist()[0] is False
    before = losses(detector, images, targets)
    targets[0]["masks"][0] = 1
    assert losses(detector, images, targets) == before
    targets[0]["mask_known"][0] = True
    assert losses(detector, images, targets)["loss_mask"] != before["loss_mask"]


def test_a_batch_without_any_mask_leaves_the_statistics_sound(detector, tmp_path):
    images, targets = batch_of(without_masks(tmp_path, 99)[0], tmp_path)
    found = losses(detector, images, targets)
    sum(found.values()).backward()
    assert found["loss_mask"] == 0
    assert all(torch.isfinite(t).all() for t in detector.state_dict().values())


def test_detections_on_an_object_without_a_mask_are_no_mistakes(tmp_path):
    path, _ = without_masks(tmp_path, 1)
    scenes = read_coco(path, tmp_path)
    truth = ground_truth(scenes, masks=True)["annotations"]
    assert [one["iscrowd"] for one in truth][:2] == [1, 0]
    perfect = [
        {"image_id": one["image_id"], "category_id": one["category_id"], "score": 0.9, "segmentation": one["segmentation"],
         "bbox": one["bbox"]}
        for one in truth
    ]  # fmt: skip
    assert coco_numbers(scenes, {"segm": _as_rle(perfect, scenes), "bbox": perfect})["segm"]["AP"] == 1.0


def _as_rle(results, scenes):
    from faster_coco_eval.core import mask as rle

    size = scenes.scenes[0].height, scenes.scenes[0].width
    return [{**one, "segmentation": rle.merge(rle.frPyObjects(one["segmentation"], *size))} for one in results]
