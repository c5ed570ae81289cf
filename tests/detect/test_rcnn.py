"""Faster and Mask R-CNN have torchvision's names, and detect what torchvision's do."""

import pytest
import torch
from torchvision.models.detection import (
    FasterRCNN,
    MaskRCNN,
    fasterrcnn_resnet50_fpn_v2,
    maskrcnn_resnet50_fpn_v2,
)

from mcl.detect.forward import losses_of, to_canvas
from mcl.detect.rcnn.faster_rcnn import size_plan
from mcl.detect.rcnn.mask_rcnn import mask_window
from mcl.detect.rcnn.settings import AutoSettings, FasterRcnnSettings, MaskRcnnSettings
from mcl.nn.trunk import TrunkSpec

from .conftest import make

R50 = TrunkSpec("resnet50", 256, 4, 224)
CPU = torch.device("cpu")


def shapes(module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}


def measure_norms(detector, image) -> None:
    """BatchNorm statistics of one image: without, activations explode and nothing is detected."""
    for module in detector.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 1.0
            module.train()
    with torch.inference_mode():
        detector([image])
    detector.eval()


@pytest.mark.parametrize(
    "name, theirs", [("mask-rcnn", maskrcnn_resnet50_fpn_v2), ("faster-rcnn", fasterrcnn_resnet50_fpn_v2)]
)
def test_names_and_shapes_are_torchvisions(name, theirs):
    ours = make(name, R50, range(90), 800, fc_channels=1024, roi_size=7)
    assert shapes(ours) == shapes(theirs(weights=None, weights_backbone=None, num_classes=91))
    assert isinstance(ours, FasterRCNN) and isinstance(ours, MaskRCNN) == (name == "mask-rcnn")


def test_same_weights_detect_the_same_as_torchvision():
    """Not only the names: anchors, scales and window sizes at COCO's size are torchvision's too."""
    settings = {
        "proposals_train": 2000, "proposals_test": 50, "pre_nms_test": 100, "boxes_per_image": 512,
        "score_threshold": 0.0, "fc_channels": 1024,
    }  # fmt: skip
    ours = make("faster-rcnn", R50, "ab", 800, ((128,), 192), **settings).eval()
    theirs = maskrcnn_resnet50_fpn_v2(
        weights=None, weights_backbone=None, num_classes=3, min_size=128, max_size=192,
        rpn_post_nms_top_n_test=50, rpn_pre_nms_top_n_test=100, box_score_thresh=0.0,
    ).eval()  # fmt: skip
    image = torch.rand(3, 128, 160, generator=torch.Generator().manual_seed(0))
    measure_norms(ours, image)
    theirs.load_state_dict(ours.state_dict(), strict=False)
    theirs.roi_heads.mask_roi_pool = theirs.roi_heads.mask_head = theirs.roi_heads.mask_predictor = None
    with torch.inference_mode():
        (mine,), (other,) = ours([image]), theirs([image])
    assert len(mine["scores"]) > 10
    for key in ("boxes", "labels", "scores"):
        torch.testing.assert_close(mine[key], other[key], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "image_size, anchor, sizes, scale, window",
    [(64, 8, 3, 32, 2), (128, 16, 3, 64, 4), (512, 32, 1, 224, 16), (800, 32, 1, 224, 25)],
)
def test_sizes_follow_the_image(image_size, anchor, sizes, scale, window):
    plan = size_plan(TrunkSpec(image_size=image_size), FasterRcnnSettings(), image_size)
    assert (plan["roi_scale"], plan["roi_size"]) == (scale, window)
    assert [level[0] for level in plan["anchors"]] == [anchor * 2**i for i in range(5)]
    assert {len(level) for level in plan["anchors"]} == {sizes}
    assert [mask_window(cells) for cells in (2, 4, 7, 25)] == [8, 8, 14, 14]
    finer = size_plan(TrunkSpec(image_size=image_size, finer=1), FasterRcnnSettings(), image_size)
    assert (finer["roi_scale"], finer["roi_size"]) == (2 * scale, 2 * window)


def test_a_box_as_wide_as_the_image_reads_p5(detector):
    mapper = detector.roi_heads.box_roi_pool.map_levels
    levels = [int(mapper([torch.tensor([[0.0, 0.0, side, side]])])) for side in (8, 16, 32, 64)]
    assert levels == [0, 1, 2, 3]


def test_annotations_and_trunk_settle_what_was_left_open():
    auto = AutoSettings(fc_channels=64, mask_roi_size=10)
    masks, boxes = auto.fitted(True, 3), auto.fitted(False, 3)
    assert type(masks) is MaskRcnnSettings and (masks.name, masks.mask_roi_size) == ("mask-rcnn", 10)
    assert type(boxes) is FasterRcnnSettings and (boxes.name, boxes.fc_channels, boxes.roi_size) == ("faster-rcnn", 64, 3)
    assert FasterRcnnSettings(roi_size=5).fitted(True, 3).roi_size == 5
    with pytest.raises(ValueError, match="segmentation"):
        MaskRcnnSettings().fitted(False, 3)


def test_anchors_are_exact_in_bf16():
    """Anchors take the number format of the features; bf16 cannot tell 257 from 258."""
    detector = make("faster-rcnn", size=512).train()
    seen = []
    detector.rpn.anchor_generator.register_forward_hook(lambda _, inputs, anchors: seen.append(anchors[0]))
    image = torch.randint(0, 255, (3, 512, 512), dtype=torch.uint8)
    target = {"boxes": torch.tensor([[9.0, 9.0, 99.0, 99.0]]), "labels": torch.tensor([1])}
    for precision in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=precision):
            canvas = to_canvas(detector, [image], CPU)
            losses_of(detector, detector.backbone(canvas.tensors), canvas, [target])
    assert torch.equal(seen[0], seen[1].float())
