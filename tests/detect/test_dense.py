"""RetinaNet and FCOS: torchvision's towers, anchors and losses on a trunk's pyramid; sizes that fit small images."""

import re
from functools import partial

import pytest
import torch
from torch import nn
from torchvision.models import resnet50
from torchvision.models.detection import FCOS, RetinaNet, fcos_resnet50_fpn, retinanet_resnet50_fpn_v2
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.detection.retinanet import RetinaNetHead
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

from mcl.detect.dense.fcos import point_sizes
from mcl.detect.dense.one_stage import group_norm
from mcl.detect.dense.retinanet import anchor_sizes
from mcl.detect.dense.settings import FcosSettings, RetinanetSettings
from mcl.detect.forward import detect, losses_of, to_canvas
from mcl.nn.trunk import TrunkSpec

from .conftest import SPEC, make
from .test_rcnn import measure_norms, shapes

R50 = TrunkSpec("resnet50", 256, 4, 224)
CPU = torch.device("cpu")
DENSE = ("retinanet", "fcos")
COCO_SIDES = [32, 64, 128, 256, 512]


def torchvisions(name: str, sides: tuple[int, int] = (800, 1333), classes: int = 91):
    """torchvision's own detector, with BatchNorm in the pyramid and P6 from P5, as ours."""
    backbone = BackboneWithFPN(
        resnet50(weights=None), {f"layer{i}": str(i) for i in (2, 3, 4)}, [512, 1024, 2048], 256,
        LastLevelP6P7(256, 256), norm_layer=nn.BatchNorm2d,
    )  # fmt: skip
    options = {"min_size": sides[0], "max_size": sides[1], "score_thresh": 0.0}
    if name == "fcos":
        return FCOS(backbone, classes, **options)
    head = RetinaNetHead(256, 9, classes, norm_layer=partial(nn.GroupNorm, 32))
    head.regression_head._loss_type = "giou"
    anchors = AnchorGenerator(
        tuple((x, int(x * 2 ** (1 / 3)), int(x * 2 ** (2 / 3))) for x in COCO_SIDES), ((0.5, 1.0, 2.0),) * 5
    )
    return RetinaNet(backbone, classes, anchor_generator=anchors, head=head, detections_per_img=100, **options)


def as_torchvision(name: str) -> str:
    """Without P2 torchvision counts levels from P3; a trunk's name of a level is always the same."""
    return re.sub(r"(inner|layer)_blocks\.(\d)", lambda found: f"{found[1]}_blocks.{int(found[2]) - 1}", name)


@pytest.mark.parametrize("name, theirs", [("retinanet", retinanet_resnet50_fpn_v2), ("fcos", fcos_resnet50_fpn)])
def test_names_and_shapes_are_torchvisions(name, theirs):
    ours = {as_torchvision(n): s for n, s in shapes(make(name, R50, range(90), 800)).items()}
    other = shapes(theirs(weights=None, weights_backbone=None))
    # What torchvision's builder has otherwise: convolutions with bias where the trunk has BatchNorm, P6 from C5.
    norms = {n for n in ours if n.startswith("backbone.fpn.") and n.split(".")[-2] == "1" and "blocks" in n}
    biases = {n for n in other if n.startswith("backbone.fpn.") and n.endswith(".0.bias")}
    assert set(ours) - norms == set(other) - biases and len(norms) == 5 * len(biases) == 30
    differing = {n for n in set(ours) & set(other) if ours[n] != other[n]}
    assert differing == ({"backbone.fpn.extra_blocks.p6.weight"} if name == "retinanet" else set())


@pytest.mark.parametrize("name", DENSE)
def test_same_weights_detect_and_learn_the_same_as_torchvision(name):
    """Anchors, levels, losses and what is kept at COCO's size are torchvision's; so is the whole of ``forward``."""
    ours = make(name, R50, "ab", 800, ((128,), 192), score_threshold=0.0).eval()
    theirs = torchvisions(name, (128, 192), classes=3).eval()
    image = torch.randint(0, 255, (3, 128, 160), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    measure_norms(ours, image.float() / 255)
    theirs.load_state_dict({as_torchvision(n): t for n, t in ours.state_dict().items()})
    with torch.no_grad():
        canvas = to_canvas(ours, [image], CPU)
        (mine,), (called,), (other,) = detect(ours, canvas, [(128, 160)]), ours([image / 255]), theirs([image / 255])
    assert len(mine["scores"]) > 10
    for key in ("boxes", "labels", "scores"):
        torch.testing.assert_close(mine[key], other[key], rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(called[key], other[key], rtol=1e-4, atol=1e-4)
    targets = [{"boxes": torch.tensor([[20.0, 30.0, 100.0, 90.0]]), "labels": torch.tensor([2])}]
    mine = losses_of(ours.train(), ours.backbone(canvas.tensors), canvas, targets)
    other = theirs.train()([image / 255], targets)
    assert set(mine) == set(other)
    for key, term in mine.items():
        torch.testing.assert_close(term, other[key], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "size, sides", [(64, [8, 16, 32, 64]), (128, [16, 32, 64, 128]), (384, [32, 64, 128, 256]), (512, COCO_SIDES), (800, COCO_SIDES)]
)  # fmt: skip
def test_anchors_fit_the_image(size, sides):
    """Objects from an eighth of the image to all of it have an anchor; on COCO they are torchvision's."""
    anchors = anchor_sizes(RetinanetSettings(), size)
    assert [level[0] for level in anchors] == sides
    assert anchors[-1][-1] >= min(size, 512)
    if size >= 512:
        assert anchors == tuple((x, int(x * 2 ** (1 / 3)), int(x * 2 ** (2 / 3))) for x in sides)
    detector = make("retinanet", size=size)
    with torch.inference_mode():
        levels = detector.eval().backbone(torch.zeros(1, 3, size, size))
    assert len(levels) == len(sides) and detector.anchor_generator.sizes == anchors


@pytest.mark.parametrize("size", [32, 64, 96, 128, 320, 512, 800])
def test_every_object_is_some_points_task(size):
    """At every size of image and object at least one point answers for it, and larger objects read higher levels."""
    detector = make("fcos", size=size).train()
    points = point_sizes(FcosSettings(), size)
    if size >= 512:
        assert points == [8, 16, 32, 64, 128]  # the strides, as torchvision has it
    if size == 64:
        assert points == [2, 4, 8, 16]
    assert all(point % 2 == 0 for point in points)
    seen = []
    detector.head.compute_loss = lambda targets, outputs, anchors, matched: seen.append(matched) or {}
    levels, image = [], torch.zeros(3, size, size, dtype=torch.uint8)
    for side in [size / 8, size / 4, size / 2, size * 0.9]:
        middle = size / 2 + 1.5
        box = torch.tensor([[middle - side / 2, middle - side / 2, middle + side / 2, middle + side / 2]])
        canvas = to_canvas(detector, [image] * 2, CPU)
        features = detector.backbone(canvas.tensors)
        losses_of(detector, features, canvas, [{"boxes": box.clamp(0, size), "labels": torch.tensor([1])}] * 2)
        counts = [level.shape[-1] ** 2 for level in features.values()]
        answering = [int((part >= 0).sum()) for part in seen.pop()[0].split(counts)]
        assert sum(answering) > 0, side
        levels.append(max(i for i, n in enumerate(answering) if n))
    assert levels == sorted(levels)


@pytest.mark.parametrize("name", DENSE)
def test_levels_can_be_chosen(name):
    small = make(name, size=64)
    assert small.backbone.levels == ("p2", "p3", "p4", "p5") and small.backbone.fpn.extra_blocks is None
    large = make(name, size=64, levels="p3-p7")
    assert list(large.backbone(torch.zeros(2, 3, 64, 64))) == ["p3", "p4", "p5", "p6", "p7"]
    assert "p2" not in large.pieces and large.sizes().startswith("p3 .. p7")


@pytest.mark.parametrize("channels, groups", [(256, 32), (128, 16), (16, 2), (4, 1), (33, 1), (96, 4)])
def test_groups_of_a_norm_hold_channels_enough(channels, groups):
    assert group_norm(channels)(channels).num_groups == groups


@pytest.mark.parametrize("name", DENSE)
def test_a_batch_without_any_object_learns(name):
    detector = make(name).train()
    canvas = to_canvas(detector, [torch.zeros(3, 64, 64, dtype=torch.uint8)] * 2, CPU)
    nothing = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}
    loss = sum(losses_of(detector, detector.backbone(canvas.tensors), canvas, [nothing] * 2).values())
    loss.backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in detector.parameters())


@pytest.mark.parametrize("name", DENSE)
def test_losses_are_computed_in_fp32(name):
    detector = make(name, SPEC, size=64).train()
    image = torch.randint(0, 255, (3, 64, 64), dtype=torch.uint8)
    target = {"boxes": torch.tensor([[9.0, 9.0, 40.0, 44.0]]), "labels": torch.tensor([1])}
    seen = []
    detector.anchor_generator.register_forward_hook(lambda _, inputs, anchors: seen.append(anchors[0]))
    terms = []
    for bf16 in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            canvas = to_canvas(detector, [image] * 2, CPU)
            terms.append(losses_of(detector, detector.backbone(canvas.tensors), canvas, [target] * 2))
    assert torch.equal(*seen) and seen[1].dtype == torch.float32
    for name, term in terms[1].items():
        assert term.dtype == torch.float32
        torch.testing.assert_close(term, terms[0][name], rtol=0.03, atol=0.03)
