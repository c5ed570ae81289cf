"""The detector has torchvision's names and takes a trunk, or says why not."""

import pytest
import torch
from torchvision.models.detection import FasterRCNN, MaskRCNN, maskrcnn_resnet50_fpn_v2

from mcl.config.finetune import DetectorSettings
from mcl.detect.detector import PARTS, build_detector, load_trunk_into, size_plan
from mcl.errors import UserError
from mcl.nn.trunk import Trunk, TrunkSpec

from .conftest import SPEC


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


def test_names_and_shapes_are_torchvisions():
    ours = build_detector(TrunkSpec("resnet50", 256, 4, 224), 91, True, DetectorSettings(), 800)
    theirs = maskrcnn_resnet50_fpn_v2(weights=None, weights_backbone=None, num_classes=91)
    assert shapes(ours) == shapes(theirs)


def test_same_weights_detect_the_same_as_torchvision():
    """Not only the names: anchors, scales and window sizes at COCO's size are torchvision's too."""
    settings = DetectorSettings(
        proposals_train=2000, proposals_test=50, pre_nms_test=100, boxes_per_image=512, score_threshold=0.0
    )
    spec = TrunkSpec("resnet50", 256, 4, 224)
    ours = build_detector(spec, 3, False, settings, 800, short_sides=(128,), long_side=192).eval()
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
    plan = size_plan(TrunkSpec(image_size=image_size), DetectorSettings(), image_size)
    assert (plan["roi_scale"], plan["roi_size"]) == (scale, window)
    assert [level[0] for level in plan["anchors"]] == [anchor * 2**i for i in range(5)]
    assert {len(level) for level in plan["anchors"]} == {sizes}


def test_a_box_as_wide_as_the_image_reads_p5(detector):
    mapper = detector.roi_heads.box_roi_pool.map_levels
    levels = [int(mapper([torch.tensor([[0.0, 0.0, side, side]])])) for side in (8, 16, 32, 64)]
    assert levels == [0, 1, 2, 3]


def test_without_masks_it_is_a_faster_rcnn():
    plain = build_detector(SPEC, 2, False, DetectorSettings(), 64)
    assert isinstance(plain, FasterRCNN) and not isinstance(plain, MaskRCNN)


@pytest.mark.parametrize("parts", PARTS)
def test_parts_of_a_trunk_arrive(detector, parts):
    state, before = Trunk(SPEC).state_dict(), {k: v.clone() for k, v in detector.state_dict().items()}
    state = {name: torch.full_like(tensor, 3) for name, tensor in state.items()}
    report = load_trunk_into(detector, state, parts)
    after = detector.state_dict()
    changed = {name for name in after if not torch.equal(after[name], before[name])}
    assert changed == set(report.matched) and not report.missing and not report.unexpected
    assert ("backbone.fpn.inner_blocks.0.0.weight" in changed) == ("pyramid" in parts)
    assert ("roi_heads.box_head.0.1.running_var" in changed) == ("head" in parts)
    assert not any(name.startswith(("rpn.", "roi_heads.box_head.3.", "roi_heads.mask")) for name in changed)
    covered = sum(after[n].numel() for n in changed) / sum(t.numel() for t in after.values())
    assert report.covered == pytest.approx(covered)


def test_a_trunk_that_does_not_fit_is_refused(detector):
    state = Trunk(SPEC).state_dict()
    other = Trunk(TrunkSpec("test_resnet", 8, 2, 64)).state_dict()
    renamed = {f"module.{name}": tensor for name, tensor in state.items()}
    gone = {name: tensor for name, tensor in state.items() if not name.startswith("roi_heads.box_head.1.")}
    for bad, parts, words in [
        ({}, PARTS[0], "no tensor"), (renamed, PARTS[0], "no tensor"), (other, PARTS[2], "backbone.fpn"),
        (gone, PARTS[2], "roi_heads.box_head.1."), (state, "head", "--parts"),
    ]:  # fmt: skip
        with pytest.raises(UserError, match=words) as error:
            load_trunk_into(detector, bad, parts)
        assert "\n" not in str(error.value)


def test_one_missing_tensor_needs_allow_partial(detector):
    state = Trunk(SPEC).state_dict()
    del state["backbone.fpn.inner_blocks.0.1.running_mean"]
    with pytest.raises(UserError, match="inner_blocks.0.1.running_mean.*allow_partial"):
        load_trunk_into(detector, state, PARTS[2])
    report = load_trunk_into(detector, state, PARTS[2], allow_partial=True)
    assert report.missing == ["backbone.fpn.inner_blocks.0.1.running_mean"]
    assert any("missing" in line for line in report.lines())
