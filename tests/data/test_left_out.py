"""What lies below a folder of images and is not taken: run folders, folders that cannot be read, unknown formats."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

import pytest

from images import picture, picture_folder
from mcl.data.loading.decode import read_image
from mcl.data.sources import index
from mcl.data.sources.find import find_images
from mcl.data.sources.pictures import AVIF
from mcl.engine.run_folder import RunFolder
from mcl.errors import UserError

NOBODY = 65534


@pytest.fixture(params=["small", "large"])
def listed(request, tmp_path, monkeypatch):
    """``listed(root)``: names relative to it, and what was said; the second time from the index of a large folder."""
    if request.param == "large":
        monkeypatch.setattr(index, "LARGE", 2)
        monkeypatch.setattr(index, "SETTLED", 0)

    def find(root: Path) -> tuple[list[str], list[str]]:
        for again in (False, True):
            said: list[str] = []
            with monkeypatch.context() as patch:
                if again and request.param == "large":
                    patch.setattr(index, "_scan", None)  # listing again would fail
                found = find_images(root, cache=root.parent / "cache", say=said.append)
            said = [line for line in said if "listed in" not in line]
        return [str(Path(path).relative_to(root)) for path in found], said

    return find


@pytest.fixture
def unprivileged():
    """A folder of a user whom permissions concern, who then is the one that runs the test."""
    folder = Path(tempfile.mkdtemp(prefix="mcl-rights-"))
    folder.chmod(0o755)
    root = os.geteuid() == 0
    if root:
        os.chown(folder, NOBODY, NOBODY)
        os.seteuid(NOBODY)
    try:
        yield folder
    finally:
        if root:
            os.seteuid(0)
        for below, _, _ in os.walk(folder):
            Path(below).chmod(0o755)
        shutil.rmtree(folder)


def test_run_folders_are_no_data(listed, tmp_path):
    photos = tmp_path / "photos"
    picture_folder(photos, 3)
    for name in ("a/run", "b", "c", "d"):
        run = RunFolder.open(photos / name)
        run.write_text("config.yaml", "")
        picture(0).save(run.path / "montage.png")
        picture_folder(run.path / "deeper", 1)
    picture_folder(photos / "plain/checkpoints", 1)  # as a photographer may call it
    (photos / "plain/config.yaml").touch()
    names, said = listed(photos)
    assert names == ["0000.jpg", "0001.jpg", "0002.jpg", "plain/checkpoints/0000.jpg"]
    assert said == [f"{photos}: 4 folders below it left out, being no data but a run's: a/run, b, c and 1 more"]
    with pytest.raises(UserError, match="is the folder of a run, not of images"):
        find_images(photos / "b")


def test_folders_below_that_cannot_be_read_are_told(listed, unprivileged):
    photos = unprivileged / "photos"
    picture_folder(photos, 3)
    for name, rights in (("closed", 0), ("names only", 0o444), ("open", 0o755)):
        picture_folder(photos / name / "deep", 1)
        (photos / name).chmod(rights)
    names, said = listed(photos)
    assert names == ["0000.jpg", "0001.jpg", "0002.jpg", "open/deep/0000.jpg"]
    reasons = "closed (Permission denied), names only/deep (Permission denied)"
    assert said == [f"{photos}: 2 folders below it left out that cannot be read: {reasons}"]
    (photos / "closed").chmod(0o755)  # noticed, large or small
    assert len(find_images(photos, cache=unprivileged / "cache")) == 5


@pytest.mark.parametrize("rights", [0, 0o111, 0o444])
def test_a_folder_that_cannot_be_read_is_one_line(unprivileged, rights):
    photos = unprivileged / "photos"
    picture_folder(photos / "below", 1)
    photos.chmod(rights)
    with pytest.raises(UserError, match="photos: cannot be listed: Permission denied|photos: no image"):
        find_images(photos, cache=unprivileged / "cache")
    if rights != 0o111:
        with pytest.raises(UserError, match="photos/below: cannot be read: Permission denied"):
            find_images(photos / "below", cache=unprivileged / "cache")


@pytest.mark.skipif(not AVIF, reason="this Pillow reads no AVIF")
def test_avif_is_read(tmp_path):
    picture(0).save(tmp_path / "a.AVIF", "AVIF", quality=95)
    (found,) = find_images(tmp_path)
    image = read_image(found)
    assert image.mode == "RGB" and image.size == picture(0).size


def test_formats_that_are_not_read_are_told(listed, tmp_path, monkeypatch):
    monkeypatch.setattr(index, "SUFFIXES", index.SUFFIXES - {".avif"})
    monkeypatch.setattr(index, "UNREAD", index.UNREAD | {".avif"})
    photos = tmp_path / "photos"
    picture_folder(photos, 3)
    for name in ("1.avif", "2.AVIF", "3.heic", "notes.txt", ".hidden.heic"):
        (photos / name).touch()
    names, said = listed(photos)
    assert len(names) == 3
    told = "files left out that this Pillow cannot read: 2 .avif, 1 .heic (.avif: from Pillow 11.3 on)"
    assert said == [f"{photos}: {told}"]
