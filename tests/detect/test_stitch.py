"""Dynamic scale training: stitched scenes, the rule, and the losses that it looks at."""

import json
from itertools import count

import pytest
import torch

from mcl.data.labels.scenes import CocoDetection, Framing, collate
from mcl.data.labels.stitched import StitchingCollate, halved, stitch
from mcl.detect.box_losses import noted
from mcl.detect.feedback import ScaleFeedback, fed_back, small_side
from mcl.detect.finetune import training_mode
from mcl.detect.forward import losses_and_boxes_of, losses_of, to_canvas
from mcl.errors import UserError
from mcl.run.finetune import finetune
from tiny import assert_same_state

from .conftest import NAMES, make
from .test_training_settings import broken_off_and_resumed, read_lines, settings_for


def item(value: int, size, *boxes):
    masks = torch.zeros(len(boxes), *size, dtype=torch.uint8)
    for mask, (x1, y1, x2, y2) in zip(masks, boxes, strict=True):
        mask[int(y1) : int(y2), int(x1) : int(x2)] = 1
    target = {
        "boxes": torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4), "labels": torch.full((len(boxes),), value),
        "masks": masks, "index": value, "size": size, "original_size": (999, 999),
    }  # fmt: skip
    return torch.full((3, *size), value, dtype=torch.uint8), target


def test_four_scenes_lie_side_by_side():
    items = [item(1, (10, 20), (2, 3, 8, 9)), item(2, (8, 20)), item(3, (10, 15), (0, 0, 15, 10)), item(4, (10, 20), (1, 1, 2, 2), (5, 5, 20, 10))]
    image, target = stitch(items, (7, 8, 9))
    assert image.shape == (3, 20, 40) and target["size"] == target["original_size"] == (20, 40)
    assert target["boxes"].tolist() == [[2, 3, 8, 9], [0, 10, 15, 20], [21, 11, 22, 12], [25, 15, 40, 20]]
    assert target["labels"].tolist() == [1, 3, 4, 4] and "index" not in target
    for box, mask in zip(target["boxes"].int().tolist(), target["masks"], strict=True):
        inside = torch.zeros(20, 40, dtype=torch.uint8)
        inside[box[1] : box[3], box[0] : box[2]] = 1
        assert torch.equal(mask, inside)
    assert [int(image[0, y, x]) for y, x in ((0, 0), (0, 20), (10, 0), (19, 39))] == [1, 2, 3, 4]
    assert image[:, 9, 20].tolist() == image[:, 10, 15].tolist() == [7, 8, 9]  # where no image lies


def test_a_box_that_became_too_thin_is_gone():
    _, target = stitch([item(1, (10, 10), (1, 1, 1.3, 5), (2, 2, 3, 3))] + [item(2, (10, 10))] * 3, (0, 0, 0))
    assert target["boxes"].tolist() == [[2, 2, 3, 3]] and len(target["masks"]) == len(target["labels"]) == 1


def test_quarters_have_half_the_size(scenes):
    assert halved(Framing(64)).image_size == 32
    framing = halved(Framing(800, (640, 800), 1333, flip=0.5, scale_jitter=(1.0, 1.0)))
    assert (framing.short_sides, framing.long_side, framing.flip) == ((320, 400), 666, 0.5)
    whole, half = CocoDetection(scenes, NAMES, Framing(64), True), CocoDetection(scenes, NAMES, halved(Framing(64)), True)
    images, targets = StitchingCollate((0.5, 0.5, 0.5))([half[0, i] for i in range(8)])
    assert [image.shape for image in images] == [(3, 64, 64)] * 2  # as a regular one: the same number of pixels
    boxes = torch.cat([whole[0, i][1]["boxes"] / 2 for i in range(4)])
    assert torch.allclose(boxes[:, 2:] - boxes[:, :2], targets[0]["boxes"][:, 2:] - targets[0]["boxes"][:, :2], atol=1e-4)


def test_the_rule_of_the_paper():
    feedback = ScaleFeedback(threshold=0.1, small=10)
    areas, losses = torch.tensor([99.0, 100.0, 400.0]), torch.tensor([1.0, 5.0, 4.0])
    assert not feedback.stitch_next  # the first step is regular
    told = feedback.see(areas, losses)
    assert float(told["small_share"]) == pytest.approx(0.1) and float(told["stitched"]) == 0
    assert not feedback.stitch_next  # a share of just the threshold is enough
    feedback.see(areas, torch.tensor([0.999, 5.0, 4.0]))
    assert feedback.stitch_next
    assert float(feedback.see(areas, losses * 7)["stitched"]) == 1 and not feedback.stitch_next
    assert (feedback.regular, feedback.stitched) == (2, 1)
    feedback.see(torch.zeros(0), torch.zeros(0))  # nothing to judge by
    assert not feedback.stitch_next and feedback.regular == 3
    other = ScaleFeedback(0.1, 10)
    other.load_state_dict(feedback.state_dict())
    assert other == feedback
    assert [small_side(size) for size in (16, 64, 800)] == [4, 8, 32]


def follow(feedback, kinds, steps):
    """Batches that a run gets whose shares of small objects make it stitch at ``kinds``."""
    batches = fed_back(feedback, lambda start: (("regular", i) for i in count(start)), lambda start: (("stitched", i) for i in count(start)))
    taken = []
    for step in range(steps):
        taken.append(next(batches))
        low = kinds[len(kinds) - steps + step]
        feedback.see(torch.tensor([1.0, 999.0]), torch.tensor([0.0, 1.0]) if low else torch.tensor([1.0, 0.0]))
    return taken


def test_each_kind_of_batch_is_a_stream_of_its_own():
    kinds = [False, True, True, False, True, False, False]
    whole = follow(ScaleFeedback(0.5, 10), kinds, 7)
    assert whole == [("regular", 0), ("regular", 1), ("stitched", 0), ("stitched", 1), ("regular", 2), ("stitched", 2), ("regular", 3)]
    for broken in range(1, 7):  # resumed after any step
        first = ScaleFeedback(0.5, 10)
        start = follow(first, kinds[:broken], broken)
        second = ScaleFeedback(0.5, 10)
        second.load_state_dict(first.state_dict())
        assert start + follow(second, kinds, 7 - broken) == whole


@pytest.mark.parametrize("name", ["mask-rcnn", "faster-rcnn", "retinanet", "fcos"])
def test_losses_of_single_boxes_add_up_to_torchvisions(name, dataset):
    torch.manual_seed(0)
    detector = make(name)
    training_mode(detector, [])
    images, targets = collate([dataset[0, i] for i in (0, 1, 2, 11)])  # the last without objects
    canvas = to_canvas(detector, images, torch.device("cpu"))
    features = detector.backbone(canvas.tensors)
    torch.manual_seed(1)
    plain = losses_of(detector, features, canvas, targets)
    torch.manual_seed(1)
    sampled = noted(detector.roi_heads, "select_training_samples") if "rcnn" in name else noted(detector.head, "compute_loss")
    with sampled as calls:
        terms, boxes = losses_and_boxes_of(detector, features, canvas, targets)
    assert all(torch.equal(plain[key], terms[key]) for key in plain) and len(boxes.losses) == len(boxes.areas) > 3
    term = {"retinanet": "bbox_regression", "fcos": "bbox_regression"}.get(name, "loss_box_reg")
    count_of = {"retinanet": len(images), "fcos": len(boxes.losses)}
    divisor = count_of[name] if name in count_of else sum(len(labels) for labels in calls[0][1][2])
    assert float(boxes.losses.sum()) / divisor == pytest.approx(float(terms[term].detach()), rel=1e-4)
    real = torch.cat([(t["boxes"][:, 2] - t["boxes"][:, 0]) * (t["boxes"][:, 3] - t["boxes"][:, 1]) for t in targets])
    assert set(boxes.areas.tolist()) <= set(real.tolist()) and not boxes.losses.requires_grad
    # Nothing of the noting stays.
    noisy = [detector.roi_heads, detector.roi_heads.box_predictor] if "rcnn" in name else [detector.head]
    assert not {"select_training_samples", "forward", "compute_loss"} & {key for module in noisy for key in vars(module)}


def test_a_resumed_run_equals_a_whole_one(toy, tmp_path):
    given = {"stitch.below": 0.5, "stitch.small": 20, "schedule.steps": 6, "precise_bn_images": 0}
    finetune(settings_for(toy, tmp_path / "whole", **given))
    kinds = [row["stitched"] for row in read_lines(tmp_path / "whole/metrics.jsonl")]
    shares = [row["small_share"] for row in read_lines(tmp_path / "whole/metrics.jsonl")]
    assert kinds[0] == 0 and kinds[1:] == [float(share < 0.5) for share in shares[:-1]] and {0, 1} == set(kinds)
    broken_off_and_resumed(settings_for(toy, tmp_path / "parts", **given))
    assert_same_state(tmp_path / "whole", tmp_path / "parts")
    state = torch.load(tmp_path / "whole/checkpoints/last.pt", weights_only=True)["state"]["feedback"]
    assert (state["regular"], state["stitched"]) == (kinds.count(0), kinds.count(1))
    summary = json.loads((tmp_path / "whole/summary.json").read_text())
    assert summary["cost"]["steps"] == 6


def test_a_frozen_trunk_has_no_images_to_stitch(toy, tmp_path):
    with pytest.raises(UserError, match="images cannot be stitched"):
        finetune(settings_for(toy, tmp_path / "run", freeze="trunk", **{"stitch.below": 0.1}))
