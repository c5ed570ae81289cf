"""Numbers go to Weights & Biases and MLflow if that is asked for, and a run never ends because of them."""

from __future__ import annotations

import sys
import types

import pytest

from images import picture_folder
from mcl.cli import main
from tiny import TINY


class FakeWandb(types.ModuleType):
    def __init__(self):
        super().__init__("wandb")
        self.begun, self.logged, self.ended, self.broken = [], [], 0, False

    def init(self, **given):
        self.begun.append(given)
        return types.SimpleNamespace(id=given["id"] or "abc", log=self._log, finish=self._finish)

    def _log(self, values, step):
        if self.broken:
            raise ConnectionError("gone")
        self.logged.append((step, values))

    def _finish(self):
        self.ended += 1


class FakeMlflow(types.ModuleType):
    def __init__(self):
        super().__init__("mlflow")
        self.experiments, self.begun, self.params, self.logged, self.ended = [], [], {}, [], 0

    def set_experiment(self, name):
        self.experiments.append(name)

    def start_run(self, run_id, run_name):
        self.begun.append((run_id, run_name))
        return types.SimpleNamespace(info=types.SimpleNamespace(run_id=run_id or "r1"))

    def log_params(self, params):
        self.params |= params

    def log_metrics(self, values, step):
        self.logged.append((step, values))

    def end_run(self):
        self.ended += 1


@pytest.fixture
def services(monkeypatch):
    made = types.SimpleNamespace(wandb=FakeWandb(), mlflow=FakeMlflow())
    monkeypatch.setitem(sys.modules, "wandb", made.wandb)
    monkeypatch.setitem(sys.modules, "mlflow", made.mlflow)
    return made


@pytest.fixture
def words(tmp_path):
    photos = picture_folder(tmp_path / "photos", 12)
    return ["pretrain", *TINY, "--data", str(photos), "--out", str(tmp_path / "run"), "--loop.workers", "0", "--schedule.steps", "3"]


def test_both_get_settings_and_every_line_and_a_resumed_run_goes_on(services, words, tmp_path):
    asked = ["--loop.trackers", "wandb,mlflow", "--loop.project", "trees"]
    assert main([*words, *asked]) == 0
    (begun,) = services.wandb.begun
    assert begun["project"] == "trees" and begun["name"] == "run" and begun["id"] is None and begun["config"]["batch"] == 8
    assert services.mlflow.experiments == ["trees"] and services.mlflow.begun == [(None, "run")]
    assert services.mlflow.params["optim.name"] == "adamw"
    for logged in (services.wandb.logged, services.mlflow.logged):
        assert [step for step, _ in logged] == [1, 2, 3] and all("loss" in values for _, values in logged)
    assert services.wandb.ended == services.mlflow.ended == 1
    longer = ["pretrain", "--resume", "--out", str(tmp_path / "run"), "--schedule.steps", "4", "--allow_changed"]
    assert main(longer) == 0
    assert services.wandb.begun[1]["id"] == "abc" and services.mlflow.begun[1] == ("r1", None)
    assert services.wandb.logged[-1][0] == services.mlflow.logged[-1][0] == 4


def test_a_service_that_breaks_ends_no_run(services, words, capsys):
    services.wandb.broken = True
    assert main([*words, "--loop.trackers", "wandb"]) == 0
    shown = capsys.readouterr().out
    assert shown.count("warning: wandb: gone; the run goes on without, metrics.jsonl has the numbers") == 1


def test_a_missing_package_is_told_before_anything_is_made(words, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    assert main([*words, "--loop.trackers", "wandb"]) == 2
    assert "--loop.trackers wandb: the package is missing: pip install 'mcl[wandb]'" in capsys.readouterr().err
