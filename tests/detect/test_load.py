"""Pieces of a trunk arrive where they belong, in every detector, and the report tells the truth; or it is refused."""

import pytest
import torch

from mcl.detect.load import load_trunk_into
from mcl.errors import UserError
from mcl.nn.parts import LEVELS, PARTS, PIECES, pieces_of, prefixes_of
from mcl.nn.trunk import Trunk, TrunkSpec

from .conftest import QUICK, SPEC, make

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


@pytest.mark.parametrize("name", QUICK)
@pytest.mark.parametrize("levels", ["p2-p5", "p3-p7"])
def test_every_level_goes_to_its_own_place(name, levels):
    """Tensors of each level have a value of their own; a detector without P2 counts its levels from P3, as torchvision."""
    one_stage = name in ("retinanet", "fcos")
    if not one_stage and levels != "p2-p5":
        return
    detector = make(name, **({"levels": levels} if one_stage else {}))
    state = trunk_of()
    for value, level in enumerate(LEVELS, start=10):
        for tensor_name in state:
            if tensor_name.startswith(prefixes_of([level])):
                state[tensor_name] = torch.full_like(state[tensor_name], value)
    report, changed = load(detector, state, PIECES)
    after = detector.state_dict()
    assert changed == set(report.matched)
    read = LEVELS[1:] if levels == "p3-p7" else LEVELS
    for place, level in enumerate(read):
        for blocks in ("inner_blocks", "layer_blocks"):
            values = [after[f"backbone.fpn.{blocks}.{place}.{end}"] for end in ("0.weight", "1.running_var")]
            assert all((tensor == 10 + LEVELS.index(level)).all() for tensor in values)
    assert f"backbone.fpn.inner_blocks.{len(read)}.0.weight" not in after
    assert report.pieces == ("backbone", *read, *(() if one_stage else ("head",)))
    assert {n for n in report.left_out if n.startswith("backbone.")} == {
        n for n in state if levels == "p3-p7" and n.startswith(prefixes_of(["p2"]))
    }
    assert any(n.startswith("roi_heads") for n in report.left_out) == one_stage


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
