"""One list of names for what a trunk is made of."""

import pytest

from mcl.errors import UserError
from mcl.nn.parts import PARTS, PIECES, parts_of, pieces_in, pieces_of, prefixes_of, trained_in
from mcl.nn.trunk import Trunk, TrunkSpec

NAMES = list(Trunk(TrunkSpec("test_resnet", 16, 2, 64)).state_dict())


def test_every_tensor_of_a_trunk_belongs_to_one_piece():
    starts = {piece: prefixes_of([piece]) for piece in PIECES}
    for name in NAMES:
        assert any(name.startswith(prefixes) for prefixes in starts.values()), name
    assert all(any(name.startswith(prefixes) for name in NAMES) for prefixes in starts.values())


def test_of_a_detectors_box_head_only_the_convolutions_are_the_trunks():
    assert prefixes_of(["head"], head_convs=2) == ("roi_heads.box_head.0.", "roi_heads.box_head.1.")
    assert not "roi_heads.box_head.10.weight".startswith(prefixes_of(["head"], head_convs=2))


@pytest.mark.parametrize("parts", [*PARTS, "backbone+p5+head", "backbone+p4+p5", "none"])
def test_pieces_and_their_word(parts):
    pieces = () if parts == "none" else pieces_of(parts)
    assert parts_of(pieces) == parts
    with pytest.raises(UserError, match="did you mean"):
        pieces_of("backbone+pyramd")


def test_a_level_is_there_when_its_lateral_and_its_output_are():
    assert pieces_in(NAMES) == PIECES
    assert pieces_in(name for name in NAMES if "layer_blocks.1" not in name) == ("backbone", "p2", "p4", "p5", "head")


@pytest.mark.parametrize(
    "metadata, trained",
    [
        ({}, PIECES),
        ({"parts": "backbone+pyramid"}, PIECES[:-1]),
        ({"parts": "backbone+pyramid+head", "trained": ["head", "backbone", "p5"]}, ("backbone", "p5", "head")),
        ({"parts": "none"}, PIECES),
    ],
)
def test_what_a_file_says_was_trained(metadata, trained):
    assert trained_in(metadata) == trained


@pytest.mark.parametrize("told", ["backbone", ["p6"], [3], {"backbone": 1}])
def test_names_that_are_none_are_refused(told):
    with pytest.raises(UserError, match="was trained"):
        trained_in({"trained": told})
