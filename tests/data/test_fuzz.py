"""Hostile pictures and annotation files: decoded or refused in one line, never a crash, a hang or a full memory."""

from __future__ import annotations

import copy
import io
import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import fuzz_images
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from levels import view_maker
from mcl.config.pretrain import ViewSettings
from mcl.data.labels.coco_json import read_coco
from mcl.data.labels.scenes import CocoDetection, Framing
from mcl.data.loading.decode import UnreadableImage, read_image
from mcl.data.sources.find import find_images
from mcl.errors import UserError

GROWTH = 60  # MB of one picture: 1 million pixels in float64 and some copies, with room to spare
SLOWEST = 5.0  # seconds of processor time for one picture


def fuzzed(first: int, count: int) -> dict:
    ran = subprocess.run(
        [sys.executable, fuzz_images.__file__, str(first), str(count)],
        capture_output=True, text=True, timeout=900,
        env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1",
             "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr[-3000:]
    return json.loads(ran.stdout)


def check(outcome: dict, count: int) -> None:
    assert outcome["wrong"] == []
    assert sum(outcome["counted"].values()) == count
    assert outcome["grown_mb"][0] < GROWTH and outcome["slowest"][0] < SLOWEST


def test_three_hundred_damaged_pictures():
    outcome = fuzzed(0, 300)
    check(outcome, 300)
    assert len(outcome["reasons"]) > 5  # they did not all fail alike


@pytest.mark.faults
def test_ten_thousand_damaged_pictures(figure):
    outcome, totals = fuzzed(0, 10_000), Counter()
    for kind, number in outcome["counted"].items():
        name, became = kind.split()
        figure("pictures", name, number, "", became)
        totals[became] += number
    for became, number in totals.items():
        figure("pictures", "all", number, "", became)
    figure("limits", "slowest picture, processor time", outcome["slowest"][0], "s")
    figure("limits", "most memory that a picture took", outcome["grown_mb"][0], "MB")
    figure("limits", "crashes, hangs and other errors", len(outcome["wrong"]))
    check(outcome, 10_000)
    for kind in ("JPEG", "PNG", "WEBP", "TIFF"):
        assert outcome["counted"][f"{kind} decoded"] > 100 and outcome["counted"][f"{kind} unreadable"] > 100


def test_the_limit_of_pixels_is_a_setting(tmp_path):
    Image.new("L", (200, 100)).save(tmp_path / "x.png")
    before = Image.MAX_IMAGE_PIXELS
    with pytest.raises(UnreadableImage, match="larger than 19,999 pixels"):
        read_image(tmp_path / "x.png", max_pixels=19_999)
    assert read_image(tmp_path / "x.png", max_pixels=20_000).size == (200, 100)
    assert before == Image.MAX_IMAGE_PIXELS


def test_what_is_no_regular_file_does_not_block(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "zero.jpg").symlink_to("/dev/zero")
    for name in ("pipe.jpg", "zero.jpg"):
        with pytest.raises(UnreadableImage, match="not a regular file"):
            read_image(tmp_path / name)


def test_a_file_longer_than_any_picture_is_not_read(tmp_path):
    with open(tmp_path / "x.webp", "wb") as file:
        file.write(b"RIFF\xff\xff\xff\x7fWEBPVP8 ")
        file.truncate(2**40)
    with pytest.raises(UnreadableImage, match="1,099,511,627,776 bytes"):
        read_image(tmp_path / "x.webp", max_pixels=10**6)


def test_a_jpeg_of_many_passes_is_refused():
    with pytest.raises(UnreadableImage, match="progressive JPEG of"):
        read_image(io.BytesIO(fuzz_images.many_scans(1000, 64)))


@pytest.mark.parametrize("size", [(1, 1), (1, 3000), (3000, 1), (2, 3)])
def test_tiles_of_pictures_of_odd_sizes(tmp_path, size):
    Image.new("RGB", size).save(tmp_path / "x.jpg")
    tiles = view_maker(ViewSettings(), (1, 2, 4, 8), 64, 0).read(tmp_path / "x.jpg", 0, 0)
    assert tiles[1, 8].shape == (3, 8, 8)


BASE = {
    "images": [{"id": 1, "file_name": "a.png", "width": 40, "height": 20}, {"id": 2, "file_name": "b.png", "width": 40, "height": 20}],
    "categories": [{"id": 7, "name": "cat"}, {"id": 3, "name": "dog"}],
    "annotations": [
        {"id": 1, "image_id": 1, "category_id": 3, "bbox": [3, 3, 12, 8], "segmentation": [[3, 3, 15, 3, 15, 11, 3, 11]]},
        {"id": 2, "image_id": 1, "category_id": 7, "bbox": [20, 5, 8, 8], "segmentation": {"size": [20, 40], "counts": [63, 4, 733]}},
        {"id": 3, "image_id": 2, "category_id": 7, "bbox": [20, 5, 8, 8], "area": 9.5, "iscrowd": 1,
         "segmentation": {"size": [20, 40], "counts": "e<8<0000000000000[7"}},
    ],
}  # fmt: skip
ODD = st.one_of(
    st.integers(0, 20), st.floats(0, 20),  # what an entry might well hold
    st.none(), st.booleans(), st.integers(), st.integers(-(10**400), 10**400), st.floats(),
    st.text(st.characters(codec=None), max_size=8), st.text("0123456789:;<=>?@PQRSTUVWXYZ_`abcdefghijklmno", max_size=12),
    st.sampled_from(["", "..", "../a.png", "/etc/passwd", "a\0b", "\ud800", "C:\\x", "a.png/x", "x" * 5000]),
    st.lists(st.one_of(st.integers(-9, 900), st.floats(), st.text(max_size=3)), max_size=8),
    st.dictionaries(st.sampled_from(["size", "counts", "id"]), st.one_of(st.integers(), st.text(max_size=5), st.lists(st.integers(0, 50), max_size=3)), max_size=3),
)  # fmt: skip


@st.composite
def mutated(draw):
    """``BASE`` with up to three values replaced, taken away, repeated or wrapped, anywhere in it."""
    content = copy.deepcopy(BASE)
    for _ in range(draw(st.sampled_from([1, 1, 1, 2, 3]))):
        parent, key, place = None, None, content
        depth = 5 - draw(st.integers(0, 4))  # more often deep, where an entry is hit and not a whole list
        while isinstance(place, dict | list) and place and (parent is None or depth):
            depth -= 1
            keys = list(place) if isinstance(place, dict) else range(len(place))
            parent, key = place, draw(st.sampled_from(keys))
            place = parent[key]
        if parent is None:
            return draw(ODD)
        change = draw(st.integers(0, 6))
        if change == 0:
            del parent[key]
        elif change == 1 and isinstance(parent, list):
            parent.append(copy.deepcopy(parent[key]))
        elif change == 2:
            parent[key] = [parent[key]]
        elif change >= 5 and isinstance(parent[key], int | float | str):  # so small that much of it is no damage
            parent[key] += "x" if isinstance(parent[key], str) else draw(st.sampled_from([-1, 1]))
        else:
            parent[key] = draw(ODD)
    return content


@pytest.fixture(scope="module")
def scenes_root(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("scenes")
    for name in ("a.png", "b.png"):
        Image.new("RGB", (40, 20)).save(root / name)
    return root


def loaded_or_refused(root: Path, text: bytes) -> list[str]:
    """What became of the file as a source of images and as annotations; any other exception goes on."""
    file = root / "ann.json"
    file.write_bytes(text)
    outcomes = []
    for load in (lambda: find_images(file, root), lambda: use(read_coco(file, root, max_missing=0.5))):
        try:
            load()
            outcomes.append("loaded")
        except UserError as error:
            assert "\n" not in str(error) and (".json" in str(error) or ".png" in str(error))
            outcomes.append("refused")
    return outcomes


def use(scenes) -> None:
    """Masks too: they go through native code."""
    dataset = CocoDetection(scenes, list(scenes.categories.values()), Framing(32), masks=True)
    for index in range(len(dataset)):
        dataset[index]


FUZZ = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow], "derandomize": True}


def fuzz_coco(root: Path, examples: int) -> Counter:
    outcomes: Counter = Counter()

    @settings(max_examples=examples, **FUZZ)
    @given(mutated())
    def fuzz(content):
        outcomes.update(["/".join(loaded_or_refused(root, json.dumps(content).encode()))])

    fuzz()
    return outcomes


def test_mutated_coco_files_are_loaded_or_refused(scenes_root):
    assert loaded_or_refused(scenes_root, json.dumps(BASE).encode()) == ["loaded", "loaded"]
    outcomes = fuzz_coco(scenes_root, 240)
    # Most damage must be small enough to get far into the reader.
    assert outcomes["loaded/loaded"] > 3 and outcomes["loaded/refused"] > 10, outcomes


@settings(max_examples=80, **FUZZ)
@given(st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), min_size=1, max_size=5), st.integers(0, 10**6))
def test_coco_files_of_damaged_bytes_are_loaded_or_refused(scenes_root, flips, cut):
    text = bytearray(json.dumps(BASE).encode())
    for place, value in flips:
        text[place % len(text)] = value
    loaded_or_refused(scenes_root, bytes(text[: len(text) - (cut % 50 if cut % 3 == 0 else 0)]))


@pytest.mark.faults
def test_ten_thousand_mutated_coco_files(scenes_root, figure):
    outcomes = fuzz_coco(scenes_root, 10_000)
    for outcome, number in sorted(outcomes.items()):
        listed, annotated = outcome.split("/")
        figure("coco", f"{listed} as a list of images", number, "", f"{annotated} as annotations")
    assert sum(outcomes.values()) >= 9_000 and min(outcomes["loaded/loaded"], outcomes["loaded/refused"]) > 300


def test_nested_without_end_is_refused(scenes_root):
    assert loaded_or_refused(scenes_root, b'{"images":' + b"[" * 100_000) == ["refused", "refused"]
