"""Pieces of a trunk arrive where they belong, in every detector, and the report tells the truth; or it is refused."""

import pytest
import torch

from mcl.detect.load import load_trunk_into
from mcl.errors import UserError
from mcl.nn.parts import LEVELS, PARTS, PIECES, pieces_of, prefixes_of
from mcl.nn.trunk import Trunk, TrunkSpec

from .conftest import SPEC, make

SOME = ("backbone", "p5", "head")


def trunk_of(value: float | None = 3, spec: TrunkSpec = SPEC) -> dict[str, torch.Tensor]:
    state = Trunk(spec).state_dict()
    return {name: torch.full_like(t, value) for name, t in state.items()} if value is not None else state


def load(detector, state, pieces, **options):
    """(report, names of tensors that changed)."""
    before = {k: v.clone() for k, v in detector.state_dict().items()}
    report = load_trunk_into(detector, state, pieces, **options)
    after = detector.state_dict()
    return report, {name for name in after if not torch.equal(after[name], before[name])}


@pytest.mark.parametrize("pieces", [*map(pieces_of, PARTS), SOME, ("backbone", "p4", "p5")])
def test_pieces_of_a_trunk_arrive(detector, pieces):
    report, changed = load(detector, trunk_of(), pieces)
    after = detector.state_dict()
    assert changed == set(report.matched) == {n for n in trunk_of() if n.startswith(prefixes_of(pieces))}
    assert not report.missing and not report.unexpected and report.pieces == pieces
    assert not any(name.startswith(("rpn.", "roi_heads.box_head.3.", "roi_heads.mask")) for name in changed)
    covered = sum(after[n].numel() for n in changed) / sum(t.numel() for t in after.values())
    assert report.covered == pytest.approx(covered)
    fresh = [piece for piece in PIECES if piece not in pieces]
    assert report.notes == ((f"{', '.join(fresh)}: nothing is loaded, so fresh",) if fresh else ())


@pytest.mark.parametrize("name, options, levels", [
    ("faster-rcnn", {}, LEVELS), ("retinanet", {}, LEVELS), ("fcos", {}, LEVELS),
    ("retinanet", {"levels": "p3-p7"}, LEVELS[1:]), ("fcos", {"levels": "p3-p7"}, LEVELS[1:]),
])  # fmt: skip
def test_every_level_keeps_its_name_and_computes_the_same(name, options, levels):
    """Also in a detector without P2: what is left of the pyramid gives the trunk's maps."""
    torch.manual_seed(0)
    detector, trunk = make(name, **options).eval(), Trunk(SPEC).eval()
    report, _ = load(detector, trunk.state_dict(), PIECES)
    has_head = name == "faster-rcnn"
    assert report.pieces == detector.pieces == ("backbone", *levels, *(["head"] if has_head else []))
    assert set(report.matched) == {n for n in trunk.state_dict() if n.startswith(prefixes_of(report.pieces))}
    assert set(report.left_out) == {n for n in trunk.state_dict() if not n.startswith(prefixes_of(report.pieces))}
    assert not set(report.left_out) & set(detector.state_dict()) and not report.missing and not report.unexpected
    images = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        given, ours = trunk(images), detector.backbone(images)
    assert all(torch.equal(ours[level], given[level]) for level in levels) and ("p2" in ours) == ("p2" in levels)


@pytest.mark.parametrize("name", ["retinanet", "fcos"])
def test_towers_start_from_the_head(name):
    state = trunk_of(None)
    weights = [state[f"roi_heads.box_head.{i}.0.weight"] for i in range(SPEC.head_convs)]
    report, changed = load(make(name, towers_from_head=True), state, PIECES)
    detector = make(name, towers_from_head=True)
    load_trunk_into(detector, state, PIECES)
    for tower in (detector.head.classification_head, detector.head.regression_head):
        convs = [module.weight for module in tower.conv.modules() if isinstance(module, torch.nn.Conv2d)]
        assert len(convs) == 4  # the trunk has two
        assert all(torch.equal(mine, theirs) for mine, theirs in zip(convs, weights, strict=False))
        assert not any(torch.equal(convs[2], theirs) for theirs in weights)
    towers = {n for n in report.matched if n.startswith("head.")}
    assert towers == {n for n in changed if n.startswith("head.")} and len(towers) == 4
    assert not towers & set(report.fresh) and report.pieces == PIECES
    line = next(line for line in report.lines() if line.startswith("towers start"))
    assert all(n in line for n in towers) and "4 tensors" in line
    # BatchNorm against GroupNorm: the norms stay
    assert any(n == "roi_heads.box_head.0.1.weight" for n in report.left_out)
    plain = load_trunk_into(make(name), state, PIECES)
    assert not any(n.startswith("head.") for n in plain.matched) and plain.pieces == PIECES[:-1]
    assert plain.covered < report.covered
    narrow = {n: t for n, t in state.items() if not n.startswith("roi_heads")}
    narrow["roi_heads.box_head.0.0.weight"] = torch.zeros(8, 8, 3, 3)
    with pytest.raises(UserError, match="no convolution of its head"):
        load_trunk_into(make(name, towers_from_head=True), narrow, PIECES)


def test_a_trunk_that_does_not_fit_is_refused(detector):
    state = Trunk(SPEC).state_dict()
    other = Trunk(TrunkSpec("test_resnet", 8, 2, 64)).state_dict()
    renamed = {f"module.{name}": tensor for name, tensor in state.items()}
    gone = {name: tensor for name, tensor in state.items() if not name.startswith("roi_heads.box_head.1.")}
    for bad, pieces, words in [
        ({}, PIECES[:1], "no tensor"), (renamed, PIECES[:1], "no tensor"), (other, PIECES, "backbone.fpn"),
        (gone, PIECES, "roi_heads.box_head.1."),
    ]:  # fmt: skip
        with pytest.raises(UserError, match=words) as error:
            load_trunk_into(detector, bad, pieces)
        assert "\n" not in str(error.value)


def test_one_missing_tensor_needs_allow_partial(detector):
    state = Trunk(SPEC).state_dict()
    del state["backbone.fpn.inner_blocks.0.1.running_mean"]
    with pytest.raises(UserError, match="inner_blocks.0.1.running_mean.*allow_partial"):
        load_trunk_into(detector, state, PIECES)
    report = load_trunk_into(detector, state, PIECES, allow_partial=True)
    assert report.missing == ["backbone.fpn.inner_blocks.0.1.running_mean"]
    assert any("missing" in line for line in report.lines())
