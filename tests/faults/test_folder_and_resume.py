"""One run a folder; a checkpoint that is damaged or foreign; settings that changed."""

from __future__ import annotations

import errno
import json
import os
import pickle
import shutil
import signal
import zipfile

import pytest
import torch
import yaml
from children import Run

from mcl.cli import main
from mcl.engine import lock
from tiny import TINY

SHORT = ["--schedule.steps", "3", "--loop.workers", "0", "--loop.checkpoint_every", "2"]


@pytest.fixture(scope="module")
def finished(photos, tmp_path_factory):
    out = tmp_path_factory.mktemp("finished") / "run"
    assert main(["pretrain", *TINY, *SHORT, "--data", str(photos), "--out", str(out)]) == 0
    return out


@pytest.fixture
def folder(finished, tmp_path):
    return shutil.copytree(finished, tmp_path / "run")


@pytest.fixture
def mcl(photos, capsys):
    """``mcl(out, words ...)``: exit code and what it said on stderr."""

    def call(out, *words: str) -> tuple[int, str]:
        capsys.readouterr()
        code = main(["pretrain", *TINY, *SHORT, "--data", str(photos), "--out", str(out), *words])
        said = capsys.readouterr()
        call.out = said.out
        return code, said.err

    return call


def test_a_second_run_in_the_same_folder_is_refused(words, mcl, tmp_path):
    out = tmp_path / "run"
    first = Run(out, *words, "--schedule.steps", "4000", "--loop.workers", "2", hold=[30]).until(4)
    for how in ((), ("--resume",), ("--overwrite",)):
        code, error = mcl(out, *how)
        assert code == 2 and f"process {first.pid} on " in error and error.count("\n") == 1
    assert first.process.exitcode is None
    # The kernel takes the lock back; loader processes, which outlive a kill -9 for seconds, do not hold it.
    assert first.signal(signal.SIGKILL).ends() == -signal.SIGKILL
    code, error = mcl(out, "--schedule.steps", "4000", "--resume", "--optim.lr", "3")
    assert code == 2 and "--optim.lr" in error and "process" not in error


@pytest.mark.faults
def test_a_run_gives_its_folder_back(folder, mcl):
    assert lock.held_locks() == ()
    for how in (("--resume",), ("--overwrite",)):
        assert mcl(folder, *how)[0] == 0
    assert mcl(folder)[0] == 2 and lock.held_locks() == ()


@pytest.mark.faults
def test_a_file_system_without_locks(folder, mcl, monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(lock.fcntl, "lockf", refuse)
    code, error = mcl(folder, "--resume")
    assert code == 0 and "no locks on this file system" in error and error.count("\n") == 1


class Malice:
    """A pickle of it runs a command when it is read."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return os.system, (f"touch {self.mark}",)


def cut_off(path, share):
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])


def flip_a_bit(path):
    """In the middle of the largest tensor, where nothing but a checksum can see it."""
    with zipfile.ZipFile(path) as archive:
        largest = max(archive.infolist(), key=lambda entry: entry.file_size)
    content = bytearray(path.read_bytes())
    content[largest.header_offset + largest.file_size // 2 + 128] ^= 4
    path.write_bytes(bytes(content))


def rewrite(path, **changes):
    torch.save({**torch.load(path, weights_only=True), **changes}, path)


DAMAGES = {
    "empty": (lambda p: p.write_bytes(b""), "damaged, cut off or not a checkpoint"),
    "cut off": (lambda p: cut_off(p, 0.7), "damaged, cut off or not a checkpoint"),
    "one byte short": (lambda p: p.write_bytes(p.read_bytes()[:-1]), "damaged, cut off or not a checkpoint"),
    "a bit flipped": (flip_a_bit, "damaged on disk (checksum of "),
    "text": (lambda p: p.write_text("not a checkpoint\n" * 99), "damaged, cut off or not a checkpoint"),
    "malicious": (lambda p: rewrite(p, state=Malice(p.with_name("ran"))), "system, and only tensors"),
    "old pickle": (lambda p: p.write_bytes(pickle.dumps(Malice(p.with_name("ran")))), "checkpoint"),
    "of another version": (lambda p: rewrite(p, format_version=99), "format 99, this mcl reads format 1"),
    "of another command": (lambda p: rewrite(p, kind="fine-tune"), "made by fine-tune, not by pretrain"),
    "without its state": (lambda p: rewrite(p, state={}), "holds nothing; this run needs method, optimizer"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_and_foreign_checkpoints(folder, mcl, damage):
    injure, words = DAMAGES[damage]
    injure(folder / "checkpoints/last.pt")
    code, error = mcl(folder, "--resume")
    assert code == 2 and words in error and str(folder / "checkpoints/last.pt") in error
    assert error.startswith("mcl: error: checkpoint ") and error.count("\n") == 1
    assert not (folder / "checkpoints/ran").exists()


@pytest.mark.faults
def test_a_checkpoint_of_another_run(folder, mcl, photos, tmp_path):
    """Copied into the folder of a run with other settings: the checkpoint itself knows what it was trained with."""
    other = tmp_path / "other"
    assert mcl(other, "--seed", "9", "--method.temperature", "0.5")[0] == 0
    shutil.copy(other / "checkpoints/last.pt", folder / "checkpoints/last.pt")
    code, error = mcl(folder, "--resume")
    assert code == 2 and "--seed was 9, now 0" in error and "--method.temperature was 0.5, now " in error


def test_changed_settings_are_refused_with_all_that_differs(folder, mcl):
    code, error = mcl(
        folder, "--resume", "--optim.lr", "0.5", "--batch", "4", "--views.flip", "0", "--loop.log_every", "7"
    )
    assert code == 2 and "3 setting(s) differ" in error and "--allow_changed" in error
    for line in ("  --batch was 8, now 4\n", "  --optim.lr was ", "  --views.flip was 0.5, now 0.0\n"):
        assert line in error
    assert "log_every" not in error and (folder / "config.yaml").exists()


def test_changed_settings_that_are_allowed(folder, mcl):
    before = (folder / "config.yaml").read_text()
    words = ("--resume", "--allow_changed", "--schedule.steps", "5", "--optim.weight_decay", "0.25")
    code, error = mcl(folder, *words)
    assert code == 0, error
    assert "changed from step 3 on:" in mcl.out and "--schedule.steps was 3, now 5" in mcl.out
    assert (folder / "config.until-step-3.yaml").read_text() == before
    now = yaml.safe_load((folder / "config.yaml").read_text())
    assert now["schedule"]["steps"] == 5 and "allow_changed" not in now
    content = torch.load(folder / "checkpoints/last.pt", weights_only=True)
    assert content["step"] == 5
    # torch's optimizers bring their old settings back from a checkpoint; here the new ones hold.
    assert {group["weight_decay"] for group in content["state"]["optimizer"]["param_groups"]} == {0.25, 0.0}
    # What was changed is now what the run is made with: the same words again, and those without the permission.
    assert mcl(folder, *words)[0] == 0 and "changed from" not in mcl.out
    assert mcl(folder, "--resume", "--schedule.steps", "5", "--optim.weight_decay", "0.25")[0] == 0


def test_a_changed_number_of_images_is_refused(folder, mcl, photos, tmp_path):
    more = shutil.copytree(photos, tmp_path / "more")
    shutil.copy(more / "0000.jpg", more / "new.jpg")
    longer = ("--resume", "--data", str(more), "--schedule.steps", "5")
    code, error = mcl(folder, *longer)
    assert code == 2 and "--schedule.steps was 3, now 5" in error
    assert "  20 images then, 21 now (1 more)\ngive the same settings" in error and "and images, or --allow_changed" in error
    code, error = mcl(folder, "--resume", "--data", str(more))
    assert code == 2 and f"--resume: the images are not those of {folder / 'checkpoints/last.pt'}:\n  20 images then" in error
    code, error = mcl(folder, *longer, "--allow_changed")
    assert code == 0 and "changed from step 3 on:" in mcl.out and "  20 images then, 21 now (1 more)" in mcl.out
    # From now on it is a run on 21 images.
    code, error = mcl(folder, "--resume", "--schedule.steps", "5")
    assert code == 2 and "  21 images then, 20 now (1 fewer)" in error
    assert mcl(folder, "--resume", "--schedule.steps", "5", "--data", str(more))[0] == 0


def test_a_run_inside_its_data_folder_does_not_train_on_its_own_pictures(photos, mcl, tmp_path):
    data = shutil.copytree(photos, tmp_path / "data")
    run = data / "runs/1"
    inside = ("--data", str(data))
    assert mcl(run, *inside)[0] == 0 and (run / "montage.png").exists()
    assert mcl(run, *inside, "--resume", "--allow_changed", "--schedule.steps", "9")[0] == 0
    assert "images then" not in mcl.out
    assert f"{data}: 1 folder below it left out, being no data but a run's: runs/1" in mcl.out
    assert json.loads((run / "summary.json").read_text())["images"] == 20
    code, error = mcl(tmp_path / "third", "--data", str(run))
    assert code == 2 and error == f"mcl: error: --data {run}: is the folder of a run, not of images\n"


@pytest.mark.faults
@pytest.mark.parametrize(
    "words, message",
    [
        (("--model.hidden", "48"), "(32,) in the checkpoint, (48,) now"),
        (("--optim.name", "sgd"), "--optim.name cannot be changed within a run"),
        (("--schedule.steps", "2"), "has done 3 steps, more than the 2 asked for"),
        (("--method.predictor", "false"), "is only in the checkpoint"),
    ],
)
def test_changes_that_can_never_work(folder, mcl, words, message):
    before = (folder / "config.yaml").read_text()
    code, error = mcl(folder, "--resume", "--allow_changed", *words)
    assert code == 2 and message in error and error.startswith("mcl: error: ") and error.count("\n") == 1
    assert mcl(folder, "--resume")[0] == 0  # the run itself is as it was
    assert (folder / "config.yaml").read_text() == before
