"""Large folders, tar shards and tables: the same pictures in the same order, indexed once, shared by all processes."""

from __future__ import annotations

import io
import multiprocessing
import os
import pickle
import shlex
import shutil
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch

from images import picture, picture_folder, refuse_network
from levels import view_maker
from mcl.config.base import from_arguments
from mcl.config.pretrain import PretrainSettings, ViewSettings
from mcl.data.loading.dataset import UnlabeledImages, collate_views
from mcl.data.loading.decode import UnreadableImage, read_image
from mcl.data.loading.loader import step_batches
from mcl.data.sources import index, shards
from mcl.data.sources.find import check_readable, find_images, fingerprint
from mcl.data.sources.packed import ImagePaths, PackedStrings
from mcl.errors import UserError


@pytest.fixture
def large(monkeypatch):
    """Folders and shards of more than three images count as large."""
    monkeypatch.setattr(index, "LARGE", 3)
    monkeypatch.setattr(shards, "LARGE", 3)
    monkeypatch.setattr(index, "SETTLED", 0)


@pytest.fixture
def photos(tmp_path) -> Path:
    picture_folder(tmp_path / "photos" / "b", 3)
    picture_folder(tmp_path / "photos" / "a" / "deep", 2)
    picture(9).save(tmp_path / "photos" / "z.JPG", "JPEG")
    return tmp_path / "photos"


def relative(paths, root) -> list[str]:
    return [str(Path(p).relative_to(root)) for p in paths]


def list_both(photos, cache):
    said: list[str] = []
    return find_images(photos, cache=cache, say=said.append), said


def wait_for_the_next_tick(root: Path) -> None:
    """Until a change would get another time than the newest folder has: the clock of many kernels ticks every 4 ms
    (for a real folder, ``SETTLED`` takes care of that)."""
    newest = max(os.stat(folder).st_ctime_ns for folder, _, _ in os.walk(root))
    probe = root.parent / "probe"
    probe.touch()
    while probe.stat().st_ctime_ns <= newest:
        probe.touch()


# Folders


def test_small_folders_leave_no_trace(photos, tmp_path):
    paths, said = list_both(photos, tmp_path / "cache")
    assert isinstance(paths, list) and not said and not (tmp_path / "cache").exists()


def test_a_large_folder_is_the_same_sequence_and_is_listed_once(large, photos, tmp_path, monkeypatch):
    expected = [p for p in sorted(photos.rglob("*"), key=lambda p: (str(p.parent), p.name)) if p.is_file()]
    first, said = list_both(photos, tmp_path / "cache")
    assert isinstance(first, ImagePaths) and "6 images listed" in said[0]
    assert list(first) == expected == list(map(Path, first.names()))
    assert first[-1] == expected[-1] and first[1:3] == expected[1:3] and len(first) == 6
    with pytest.raises(IndexError):
        first[6]
    monkeypatch.setattr(index, "_scan", None)  # listing again would fail
    again, said = list_both(photos, tmp_path / "cache")
    assert list(again) == expected and not said
    assert fingerprint(again) == fingerprint(expected)
    assert check_readable(again, 0.0, 0) == {}


@pytest.mark.parametrize("change", ["add", "remove", "rename", "folder", "times", "rules", "damage", "other"])
def test_a_changed_folder_is_listed_again(large, photos, tmp_path, change, monkeypatch):
    cache = tmp_path / "cache"
    list_both(photos, cache)
    wait_for_the_next_tick(photos)
    if change == "add":
        picture(1).save(photos / "a" / "deep" / "new.png")
    elif change == "remove":
        (photos / "b" / "0001.jpg").unlink()
    elif change == "rename":
        (photos / "b" / "0001.jpg").rename(photos / "b" / "1.jpg")
    elif change == "folder":
        picture_folder(photos / "c", 1)
    elif change == "times":  # a copying tool that sets the folder's time back
        before = os.stat(photos / "b")
        picture(1).save(photos / "b" / "new.png")
        os.utime(photos / "b", ns=(before.st_atime_ns, before.st_mtime_ns))
    elif change == "rules":
        monkeypatch.setattr(index, "RULES", "other")
    elif change == "damage":
        for file in cache.rglob("names.npy"):
            file.write_bytes(file.read_bytes()[:100])
    else:
        shutil.move(photos, tmp_path / "moved")
        picture_folder(photos, 5)
    found, said = list_both(photos, cache)
    assert said and sorted(found) == sorted(p for p in photos.rglob("*") if p.is_file())


def test_a_folder_that_has_just_changed_is_not_trusted(large, photos, tmp_path, monkeypatch):
    monkeypatch.setattr(index, "SETTLED", 10**10)
    list_both(photos, tmp_path / "cache")
    assert list_both(photos, tmp_path / "cache")[1]


def test_an_index_that_cannot_be_written_is_done_without(large, photos, tmp_path):
    (tmp_path / "cache").write_text("a file where a folder should be")
    paths, said = list_both(photos, tmp_path / "cache")
    assert len(paths) == 6 and "not remembered" in said[0] and "data_cache" in said[0]


def test_rules_of_folders_hold_for_large_ones(large, tmp_path):
    root = tmp_path / "photos"
    picture_folder(root / "a", 2)
    picture_folder(root / ".hidden", 2)
    (root / "a" / "loop").symlink_to(root)
    (root / "a" / ".x.jpg").touch()
    for name in ("UPPER.JPEG", "bytes-\udcff.png", "line\nend.gif", "notes.txt"):
        (root / name).touch()
    paths, _ = list_both(root, tmp_path / "cache")
    assert isinstance(paths, ImagePaths)
    assert relative(paths, root) == ["UPPER.JPEG", "bytes-\udcff.png", "line\nend.gif", "a/0000.jpg", "a/0001.jpg"]
    reasons = UnlabeledImages(paths, view_maker(ViewSettings(), (1,), 32, 0))[0, 1]["unreadable"]
    assert [name.encode().decode().rpartition("/")[2] for name, _ in reasons] == ["bytes-\\udcff.png", "line\\nend.gif"]


def test_another_process_opens_the_index_instead_of_a_copy(large, photos, tmp_path):
    paths, _ = list_both(photos, tmp_path / "cache")
    sent = pickle.dumps(paths)
    assert len(sent) < 1500 and b"0001.jpg" not in sent
    assert list(pickle.loads(sent)) == list(paths)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply(list, (paths,)) == list(paths)


def test_one_of_many_processes_writes(large, photos, tmp_path):
    with multiprocessing.get_context("fork").Pool(6) as pool:
        found = pool.starmap(_listed, [(photos, tmp_path / "cache")] * 6, chunksize=1)
    assert len({tuple(paths) for paths in found}) == 1
    assert len(list((tmp_path / "cache").rglob("names.npy"))) == 1


def _listed(photos, cache):
    return list(find_images(photos, cache=cache))


def test_packed_strings():
    for texts in ([], [""], ["a", "", "ü", "\udc80x"], [str(i) * (i % 5) for i in range(70_000)]):
        packed = PackedStrings.of(texts)
        assert list(packed) == texts and len(packed) == len(texts)
        assert [packed[i] for i in range(0, len(texts), 9973)] == texts[::9973]


def test_lists_of_many_names_are_packed_and_may_mix_absolute_ones(photos, tmp_path, monkeypatch):
    monkeypatch.setattr("mcl.data.sources.find.LARGE", 3)
    names = ["z.JPG", str(photos / "b/0000.jpg"), "b/0001.jpg", "gone.jpg"]
    (photos / "list.txt").write_text("\n".join(names))
    paths = find_images(photos / "list.txt")
    assert isinstance(paths, ImagePaths) and list(paths) == [photos / name for name in names]
    assert fingerprint(paths) == fingerprint(list(paths))
    monkeypatch.chdir(photos.parent)
    assert fingerprint(find_images(Path("photos/list.txt")))
    with pytest.raises(UserError, match="leads out of --data_root"):
        find_images(photos / "list.txt", photos)


# Shards


def write_shards(folder: Path, count: int, each: int) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    for shard in range(count):
        with tarfile.open(folder / f"{shard:03d}.tar", "w") as archive:
            for i in range(each):
                buffer = io.BytesIO()
                picture(shard * each + i).save(buffer, "JPEG", quality=90)
                add(archive, f"{shard * each + i:04d}.jpg", buffer.getvalue())
                add(archive, f"{shard * each + i:04d}.json", b"{}")
    return sorted(folder.glob("*.tar"))


def add(archive: tarfile.TarFile, name: str, data: bytes, **fields) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    for key, value in fields.items():
        setattr(member, key, value)
    archive.addfile(member, io.BytesIO(data))


@pytest.mark.parametrize("form", ["folder", "one", "braces", "star", "url", "pipe"])
def test_shards_give_the_batches_of_the_same_files_in_a_folder(tmp_path, form):
    files = write_shards(tmp_path / "shards", 1 if form == "one" else 2, 5)
    plain = picture_folder(tmp_path / "plain", 5 * len(files))
    source = {
        "folder": tmp_path / "shards", "one": files[0], "braces": f"{tmp_path}/shards/{{000..001}}.tar",
        "star": f"{tmp_path}/shards/*.tar", "url": f"{(tmp_path / 'shards').as_uri()}/{{000..001}}.tar",
        "pipe": f"pipe:cat {shlex.quote(str(tmp_path))}/shards/{{000..001}}.tar",
    }[form]  # fmt: skip
    if form == "url":
        pytest.importorskip("webdataset")
    found = find_images(source, cache=tmp_path / "cache")
    assert len(found) == 5 * len(files) and str(found[3]).endswith(".tar/0003.jpg")
    maker = view_maker(ViewSettings(), (1, 2), 32, 0)
    ours = list(step_batches(UnlabeledImages(found, maker), 4, 0, 1, 4, 1, collate_views))
    same = list(step_batches(UnlabeledImages(find_images(plain), maker), 4, 0, 1, 4, 0, collate_views))
    for a, b in zip(ours, same, strict=True):
        assert torch.equal(a["index"], b["index"]) and torch.equal(a["views"][1, 1], b["views"][1, 1])
    if form in ("url", "pipe"):  # fetched once
        shutil.rmtree(tmp_path / "shards")
        assert list(map(str, find_images(source, cache=tmp_path / "cache"))) == list(map(str, found))


def test_the_index_of_many_members_is_kept_until_a_shard_changes(large, tmp_path):
    write_shards(tmp_path / "shards", 2, 3)
    cache, said = tmp_path / "cache", []
    first = find_images(tmp_path / "shards", cache=cache, say=said.append)
    again = find_images(tmp_path / "shards", cache=cache, say=said.append)
    assert len(said) == 1 and list(again) == list(first) == list(pickle.loads(pickle.dumps(again)))
    assert len(pickle.dumps(again)) < 1500
    before = fingerprint(again)
    with tarfile.open(tmp_path / "shards/001.tar", "a") as archive:
        add(archive, "new.jpg", b"x")
    changed = find_images(tmp_path / "shards", cache=cache, say=said.append)
    assert len(said) == 2 and len(changed) == 7 and fingerprint(changed) != before


def test_names_in_shards_are_only_names(tmp_path):
    with tarfile.open(tmp_path / "x.tar", "w") as archive:
        for name in ("../../out.jpg", "/etc/abs.png", "a/._mac.jpg", "n" * 300 + ".jpg"):
            add(archive, name, b"not a picture")
        add(archive, "link.jpg", b"", type=tarfile.SYMTYPE, linkname="/etc/passwd")
        add(archive, "hard.jpg", b"", type=tarfile.LNKTYPE, linkname="../../out.jpg")
        add(archive, "pipe.jpg", b"", type=tarfile.FIFOTYPE)
    found = find_images(tmp_path / "x.tar")
    assert [m.name[:13] for m in found] == ["../../out.jpg", "/etc/abs.png", "n" * 13]
    assert found[0].read_bytes() == b"not a picture" and sorted(os.listdir(tmp_path)) == ["x.tar"]
    with pytest.raises(UnreadableImage):
        read_image(found[0])


def test_a_shard_that_shrinks_or_goes_is_unreadable_pictures(tmp_path):
    (file,) = write_shards(tmp_path / "shards", 1, 3)
    found = find_images(file)
    os.truncate(file, 3000)
    with pytest.raises(UnreadableImage, match="shard ends"):
        read_image(found[2])
    file.unlink()
    with pytest.raises(UnreadableImage, match="missing"):
        read_image(found[0])


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda f: f.write_bytes(b""), "damaged or no tar"),
        (lambda f: f.write_bytes(b"x" * 5000), "damaged or no tar"),
        (lambda f: os.truncate(f, f.stat().st_size // 2), "damaged or no tar"),
        (lambda f: f.write_bytes(b"\x1f\x8b\x08" + b"x" * 600), "compressed with gzip"),
        (lambda f: f.unlink(), "no such file"),
        (lambda f: tarfile.open(f, "w").close(), "no image in it"),
    ],
)
def test_bad_shards_are_one_line(tmp_path, make, words):
    (file,) = write_shards(tmp_path, 1, 3)
    make(file)
    with pytest.raises(UserError, match=words) as caught:
        find_images(file)
    assert "\n" not in str(caught.value) and "000.tar" in str(caught.value)


def test_damaged_headers_of_shards_are_read_or_refused(tmp_path):
    (file,) = write_shards(tmp_path, 1, 3)
    whole, r = file.read_bytes(), np.random.default_rng(0)
    headers = [i for i in range(0, len(whole), 512) if whole[i + 257 : i + 262] == b"ustar"]
    outcomes = {"read": 0, "refused": 0}
    for _ in range(300):
        data = bytearray(whole)
        start = int(r.choice(headers))
        place, length = start + int(r.choice([0, 100, 124, 136, 148, 156, 257])), int(r.integers(1, 12))
        data[place : place + length] = r.choice([b"\xff" * 12, b"\0" * 12, b"7" * 12, b"L" * 12, b"x" * 12, b"\x80" + b"\xff" * 11])[:length]
        checksum = 256 + sum(data[start : start + 148]) + sum(data[start + 156 : start + 512])
        data[start + 148 : start + 156] = b"%06o\0 " % checksum
        file.write_bytes(data)
        try:
            for member in find_images(file):
                assert 0 <= member.size <= len(data) and isinstance(member.read_bytes(), bytes)
            outcomes["read"] += 1
        except UserError as error:
            assert "\n" not in str(error)
            outcomes["refused"] += 1
    assert min(outcomes.values()) > 20, outcomes


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("pipe:exit 3", "fetching failed"), ("pipe:echo no tar at all", "no tar file"), ("pipe:true", "no tar file"),
        ("gopher://x/y.tar", "cannot be opened.*no gopen handler"), ("{a,b.tar", "nbalanced"), ("nowhere/*.tar", "no file"),
        ("nowhere/{0..3}.tar", "no file"),
    ],
)  # fmt: skip
def test_bad_patterns_and_urls_are_one_line(tmp_path, source, words):
    with pytest.raises(UserError, match=words) as caught:
        find_images(source, cache=tmp_path)
    assert "\n" not in str(caught.value) and not list(tmp_path.rglob("*.tar*"))


def test_missing_extras_name_their_pip_command(tmp_path, monkeypatch):
    write_shards(tmp_path / "shards", 1, 1)
    for module in ("webdataset.gopen", "braceexpand", "datasets"):
        monkeypatch.setitem(sys.modules, module, None)
    (tmp_path / "x.parquet").touch()
    for source, extra in ((f"{tmp_path}/{{0..1}}.tar", "shards"), ("pipe:true", "shards"), (tmp_path / "x.parquet", "hf")):
        with pytest.raises(UserError, match=rf"pip install 'mcl\[{extra}\]'"):
            find_images(source, cache=tmp_path / "cache")
    assert len(find_images(tmp_path / "shards")) == 1  # local shards need none


def test_urls_keep_their_slashes():
    assert PretrainSettings(data="https://host/x.tar", out="o").data == "https://host/x.tar"
    assert PretrainSettings(data=Path("a/b"), out="o").data == "a/b"
    for given in ("pipe:cat 'a b' | tee {0..9}.tar", "s/{000..009}.tar", "[a-b]*.tar", "{a,b}.tar"):
        assert from_arguments(PretrainSettings, ["--data", given, "--out", "o"], "mcl pretrain").data == given


# Tables


@pytest.fixture(scope="module")
def table():
    datasets = pytest.importorskip("datasets")
    encoded = []
    for i in range(6):
        buffer = io.BytesIO()
        picture(i).save(buffer, "JPEG", quality=90)
        encoded.append({"bytes": buffer.getvalue(), "path": None})
    features = datasets.Features({"label": datasets.Value("int64"), "photo": datasets.Image()})
    return datasets.Dataset.from_dict({"label": list(range(6)), "photo": encoded}, features=features)


@pytest.mark.parametrize("form", ["saved", "dict", "parquet", "folder", "plain parquet"])
def test_tables_give_the_pictures_of_the_same_files(table, tmp_path, form, monkeypatch):
    import datasets

    attempts = refuse_network(monkeypatch)
    source = tmp_path / "set"
    if form == "saved":
        table.save_to_disk(source)
    elif form == "dict":
        datasets.DatasetDict({"only": table}).save_to_disk(source)
    elif form == "plain parquet":  # bytes in a column, written by another tool
        import pyarrow as pa
        import pyarrow.parquet as pq

        source = tmp_path / "x.parquet"
        pq.write_table(pa.table({"label": [1] * 6, "img": [row["bytes"] for row in raw(table)]}), source)
    else:
        source.mkdir()
        table.to_parquet(source / "0.parquet")
        source = source if form == "folder" else source / "0.parquet"
    found = find_images(source, cache=tmp_path / "cache")
    plain = find_images(picture_folder(tmp_path / "plain", 6))
    maker = view_maker(ViewSettings(), (1, 2), 32, 0)
    for a, b in zip(found, plain, strict=True):
        one, same = (maker.read(picture_, 0, 1) for picture_ in (a, b))
        assert torch.equal(one[1, 1], same[1, 1])
    assert str(found[4]).endswith("row-4") and fingerprint(found) == fingerprint(find_images(source, cache=tmp_path / "cache"))
    batches = step_batches(UnlabeledImages(found, maker), 3, 0, 0, 2, 1, collate_views)
    assert sorted(i for b in batches for i in b["index"].tolist()) == list(range(6))
    assert not attempts


def raw(table):
    import datasets

    return [row["photo"] for row in table.cast_column("photo", datasets.Image(decode=False))]


def test_a_path_in_a_row_is_not_followed(table, tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    picture(0).save(tmp_path / "secret.png")
    rows = [{"bytes": None, "path": str(tmp_path / "secret.png")}, *raw(table)]
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    pq.write_table(pa.table({"image": pa.array(rows, kind)}), tmp_path / "x.parquet")
    found = find_images(tmp_path / "x.parquet", cache=tmp_path / "cache")
    with pytest.raises(UnreadableImage, match="path alone is not followed"):
        read_image(found[0])
    assert read_image(found[1]).size == (80, 60) and fingerprint(found)


def test_bad_tables_are_one_line(table, tmp_path):
    import datasets

    (tmp_path / "bad.parquet").write_bytes(b"PAR1" + b"x" * 100)
    table.select_columns("label").to_parquet(tmp_path / "labels.parquet")
    table.add_column("thumb", raw(table), feature=datasets.Image()).to_parquet(tmp_path / "two.parquet")
    datasets.DatasetDict({"train": table, "test": table}).save_to_disk(tmp_path / "dict")
    for name, column, words in (
        ("bad.parquet", None, "cannot be read"), ("labels.parquet", None, "no column of encoded pictures"),
        ("two.parquet", None, "choose one as --data_column"), ("two.parquet", "thum", "did you mean 'thumb'"),
        ("two.parquet", "label", "holds no encoded pictures"), ("dict", None, "has the splits test, train"),
    ):  # fmt: skip
        with pytest.raises(UserError, match=words) as caught:
            find_images(tmp_path / name, cache=tmp_path / "cache", column=column)
        assert "\n" not in str(caught.value)
    assert len(find_images(tmp_path / "two.parquet", cache=tmp_path / "cache", column="thumb")) == 6
