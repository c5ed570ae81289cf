"""The whole way in processes: killed, continued, and found done."""

import json
import signal
import subprocess
import sys
import time

import pytest

from mcl.config.base import from_arguments
from mcl.config.compare import CompareSettings
from mcl.errors import RunFailed, UserError
from mcl.run.compare import compare
from mcl.studies.book import Book
from mcl.studies.runner import last_words


def start(study, out):
    words = [sys.executable, "-m", "mcl", "compare", str(study), "--out", str(out), "--figures", "false", "--parallel", "2"]
    return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def lines_of(out):
    file = out / "cells.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.is_file() else []


def wait_for(condition, process, seconds=240):
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None and time.monotonic() < end, process.communicate()[0]
        time.sleep(0.05)


def test_stopped_and_continued(values, write, tmp_path):
    """Ctrl-C lets the training under way write its checkpoint; the next call continues there."""
    values["seeds"], values["steps"], values["starts"] = [0], 60, {"scratch": {"trunk": "none"}}
    del values["budget"]
    study, out = write(values), tmp_path / "out"
    first = start(study, out)
    wait_for(lambda: list(out.glob("runs/*/checkpoints/last.pt")), first)
    first.send_signal(signal.SIGINT)
    told, _ = first.communicate(timeout=240)
    assert first.returncode == 130 and not lines_of(out), told
    results = compare(from_arguments(CompareSettings, [str(study), "--out", str(out), "--figures", "false"], "mcl compare"))
    assert results["rows"][0]["steps"] == 60
    assert "stopped by SIGTERM at step" in next(out.glob("runs/*.log")).read_text()
    steps = [json.loads(line)["step"] for line in next(out.glob("runs/*/metrics.jsonl")).read_text().splitlines()]
    assert steps == list(range(1, 61))


@pytest.mark.faults
def test_killed_twice_and_found_done(values, write, tmp_path):
    values["seeds"] = [0]
    values["starts"]["control"] = {
        "teacher": {"train": f"{values['data']['toy']['folder']}/train.json", "images": values["data"]["toy"]["folder"]}
    }
    values |= {"control": "control", "eval_every": 2}
    study, out = write(values), tmp_path / "out"
    first = start(study, out)
    wait_for(lambda: lines_of(out), first)
    first.kill()
    first.wait()
    second = start(study, out)
    done = len(lines_of(out))
    wait_for(lambda: len(lines_of(out)) > done, second)
    second.send_signal(signal.SIGINT)
    told, _ = second.communicate(timeout=240)
    assert second.returncode in (0, 130), told
    third = start(study, out)
    told, _ = third.communicate(timeout=400)
    assert third.returncode == 0, told
    lines = lines_of(out)
    assert len({line["id"] for line in lines}) == len(lines) == 5  # a pre-training, a teacher, three cells
    before = (out / "cells.jsonl").read_bytes()
    results = compare(from_arguments(CompareSettings, [str(study), "--out", str(out), "--figures", "false"], "mcl compare"))
    assert (out / "cells.jsonl").read_bytes() == before
    rows = {row["start"]: row for row in results["rows"]}
    assert set(rows) == {"scratch", "mcl", "control"} and rows["mcl"]["budget"]["steps"] == 3
    assert [point["step"] for point in rows["mcl"]["curve"]] == [2, 3]
    value, low, high = rows["mcl"]["box_AP difference"]
    assert value == pytest.approx(rows["mcl"]["box_AP"][0] - rows["scratch"]["box_AP"][0], abs=2e-5) and low <= value <= high


def test_a_failed_cell_is_told_and_stops_no_other(values, write, tmp_path):
    values["seeds"] = [0]
    values["starts"] = {"scratch": {"trunk": "none"}, "broken": {"trunk": str(tmp_path / "trunk.safetensors")}}
    del values["budget"]
    (tmp_path / "trunk.safetensors").write_bytes(b"nothing of the kind")
    settings = from_arguments(CompareSettings, [str(write(values)), "--out", str(tmp_path / "out"), "--figures", "false"], "mcl compare")
    with pytest.raises(RunFailed, match="1 trainings failed.*broken.*not a readable safetensors file"):
        compare(settings)
    assert [line["start"] for line in lines_of(tmp_path / "out")] == ["scratch"]


def test_a_dry_run_writes_nothing(values, write, tmp_path):
    words = [str(write(values)), "--out", str(tmp_path / "out"), "--dry_run", "--trial_steps", "0"]
    told = compare(from_arguments(CompareSettings, words, "mcl compare"))
    assert told["cells"] == 4 and told["trainings"] == 5 and told["seconds"] is None
    assert not (tmp_path / "out").exists()


def test_missing_data_is_one_line(values, write, tmp_path):
    values["data"]["toy"]["folder"] = str(tmp_path / "gone")
    settings = from_arguments(CompareSettings, [str(write(values)), "--out", str(tmp_path / "out")], "mcl compare")
    with pytest.raises(UserError, match="not there: .*gone/train.json"):
        compare(settings)
    assert not (tmp_path / "out").exists()


def test_a_torn_line_is_cut_off_and_a_damaged_one_is_told(tmp_path):
    file = tmp_path / "cells.jsonl"
    Book(file).add({"id": "a"})
    with open(file, "ab") as opened:
        opened.write(b'{"id": "b", "resu')
    book = Book(file)
    book.add({"id": "c"})
    assert [json.loads(line)["id"] for line in file.read_text().splitlines()] == ["a", "c"] == list(Book(file).lines)
    file.write_text('{"id": "a"}\n{"id": \n{"id": "c"}\n')
    with pytest.raises(UserError, match="line 2 is damaged"):
        Book(file)


def test_last_words(tmp_path):
    log = tmp_path / "log"
    log.write_text("step 3\nmcl: error: loss is nan\nbye\n")
    assert last_words(log) == "loss is nan" and last_words(tmp_path / "none") == ""
