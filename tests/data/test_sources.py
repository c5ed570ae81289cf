"""Where images come from, and what is said when they do not."""

from __future__ import annotations

import json

import pytest

from images import picture, picture_folder
from mcl.data.sources.find import check_readable, find_images, fingerprint
from mcl.errors import UserError


def test_folder_is_searched_recursively_and_loops_end(tmp_path):
    picture_folder(tmp_path / "a" / "b", 2)
    picture_folder(tmp_path / "c", 1)
    (tmp_path / "a" / "notes.txt").write_text("x")
    (tmp_path / "a" / "loop").symlink_to(tmp_path)
    (tmp_path / ("n" * 200 + ".jpg")).write_bytes((tmp_path / "c" / "0000.jpg").read_bytes())
    found = find_images(tmp_path)
    assert len(found) == 4 and found == find_images(tmp_path)


def test_list_and_coco(tmp_path):
    picture_folder(tmp_path / "images", 3)
    (tmp_path / "list.txt").write_text("images/0002.jpg\n\n# comment\nimages/0000.jpg\nimages/0002.jpg\n")
    assert [p.name for p in find_images(tmp_path / "list.txt")] == ["0002.jpg", "0000.jpg"]
    (tmp_path / "coco.json").write_text(json.dumps({"images": [{"id": 1, "file_name": "0001.jpg"}]}))
    assert find_images(tmp_path / "coco.json", tmp_path / "images")[0].is_file()


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("missing", None, "no such file"),
        ("empty", "folder", "no image in this folder"),
        ("x.txt", "", "names no image"),
        ("x.txt", "nowhere.jpg", "none of its 1 images exists"),
        ("x.json", "{", "not valid JSON"),
        ("x.json", "[]", "is it a COCO JSON"),
        ("x.json", '{"images": [{"file_name": "../../etc/x.jpg"}]}', "leads out of"),
        ("x.zip", "", "give a folder"),
    ],
)
def test_bad_sources_are_one_line(tmp_path, name, content, words):
    source = tmp_path / name
    if content == "folder":
        source.mkdir()
    elif content is not None:
        source.write_text(content)
    with pytest.raises(UserError, match=words) as caught:
        find_images(source)
    assert "\n" not in str(caught.value) and name in str(caught.value)


def test_unreadable_images_are_found_before_the_run(tmp_path):
    paths = find_images(picture_folder(tmp_path, 20))
    paths[3].write_bytes(b"")
    assert list(check_readable(paths, 0.05, 0)) == [paths[3]]
    for path in paths[5:8]:
        path.write_bytes(b"x")
    with pytest.raises(UserError, match="4 of 20"):
        check_readable(paths, 0.05, 0)
    for path in paths:
        path.write_bytes(b"x")
    with pytest.raises(UserError, match="none of 20"):
        check_readable(paths, 1.0, 0)


def test_fingerprint_tells_sets_apart(tmp_path):
    a, b = find_images(picture_folder(tmp_path / "a", 3)), find_images(picture_folder(tmp_path / "b", 3))
    assert fingerprint(a) == fingerprint(b)
    picture(9, 200, 100).save(b[0])
    assert fingerprint(a) != fingerprint(b)
