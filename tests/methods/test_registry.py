"""What every pre-training method must do: train, resume, hand on what it trained, be the same on several processes."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

import mcl
from images import picture_folder
from mcl.config.base import from_values
from mcl.config.method import About
from mcl.config.pretrain import PretrainSettings
from mcl.engine.optim import build_optimizer, set_lr
from mcl.engine.processes.distributed import all_reduce_mean, process_count, rank
from mcl.engine.processes.gradients import GradientAverage
from mcl.errors import RunFailed
from mcl.methods.base import split_batch
from mcl.methods.build import build_method
from mcl.methods.registry import METHODS, method_of, names, settings_of
from mcl.methods.step import TrainingStep, example_batch, update
from mcl.nn.trunk import load_trunk
from ranks import on_ranks
from tiny import assert_same_state, tiny

ROOT = Path(mcl.__file__).parent
CASES = [
    (name, parts)
    for name in names()
    for parts in (("backbone", "backbone+pyramid+head") if "parts" in settings_of(name).model_fields else (None,))
]
IMAGES, STEPS = 8, 3
#: rooms, and files of methods/, that a method's folder may import
ALLOWED = (
    "mcl.config.", "mcl.data.computed", "mcl.data.loading.views", "mcl.data.sources.pictures", "mcl.engine.processes.distributed", "mcl.errors",
    "mcl.nn.", "mcl.randomness",
)  # fmt: skip
SMALL = {  # where a method has them
    "hidden": 16, "embedding": 8, "queue": 24, "bottleneck": 8, "decoder_width": 32, "decoder_depth": 1, "decoder_heads": 2,
}  # fmt: skip
#: what else a method needs: a network that it can be trained on, or less than the paper's
OTHER = {"mae": {"model.backbone": "test_vit", "model.patch_size": 8}, "dino": {"method.prototypes": 32}}


def given(name: str, parts: str | None, **more) -> dict:
    fields = settings_of(name).model_fields
    small = {f"method.{key}": value for key, value in SMALL.items() if key in fields and name != "mcl"}
    return {**tiny(), **OTHER.get(name, {}), **small, "method.name": name, **({"method.parts": parts} if parts else {}), **more}


def settings(name: str, parts: str | None, **more) -> PretrainSettings:
    return from_values(PretrainSettings, {"data": "a", "out": "b", **given(name, parts, **more)})


@pytest.mark.parametrize(("name", "parts"), CASES)
def test_two_steps_train_what_is_said_and_nothing_else(name, parts):
    step = TrainingStep(settings(name, parts), "cpu")
    set_lr(step.optimizer, 1e-2)
    trunk = step.method.trunk
    before = {key: tensor.clone() for key, tensor in trunk.state_dict().items()}
    step(), step()
    changed = {key for key, tensor in trunk.named_parameters() if not torch.equal(before[key], tensor)}
    trained = step.method.trained_parts
    assert all(torch.isfinite(tensor).all() for tensor in step.method.state_dict().values() if tensor.is_floating_point())
    for key, _ in trunk.named_parameters():
        assert (key in changed) == (piece_of(key) in trained), key


@pytest.mark.parametrize(("name", "parts"), CASES)
def test_a_resumed_run_equals_an_uninterrupted_one_and_its_trunk_says_what_was_trained(name, parts, tmp_path, monkeypatch):
    data = picture_folder(tmp_path / "data" / "one", IMAGES).parent  # two classes, for methods that want labels
    picture_folder(data / "two", 3)
    values = given(name, parts, data=data, data_cache=tmp_path / "cache", **{"schedule.epochs": None, "schedule.steps": STEPS, "loop.checkpoint_every": 1})
    mcl.pretrain(**values, out=tmp_path / "whole")
    losses = method_of(name).losses

    def breaks(self, batch, step, micro_batches=1):
        if step == STEPS - 1:
            raise RunFailed("broken off")
        yield from losses(self, batch, step, micro_batches)

    with monkeypatch.context() as patched:
        patched.setattr(method_of(name), "losses", breaks)
        with pytest.raises(RunFailed, match="broken off"):
            mcl.pretrain(**values, out=tmp_path / "broken")
    mcl.pretrain(**values, out=tmp_path / "broken", resume=True)
    assert_same_state(tmp_path / "whole", tmp_path / "broken")
    with safe_open(tmp_path / "whole" / "trunk.safetensors", "pt") as opened:
        assert f'"{name}"' in opened.metadata()["method"]
        said = opened.metadata()["trained"]
    method = build_method(settings(name, parts))
    assert all(f'"{piece}"' in said for piece in method.trained_parts) and said.count('"') == 2 * len(method.trained_parts)
    assert load_trunk(tmp_path / "whole").spec.image_size == 32
    pictures = [file for file in (tmp_path / "whole").glob("*.png") if file.stat().st_size > 1000]
    assert len(pictures) == 1


def half_or_whole(name: str, parts: str | None) -> dict[str, float]:
    """Loss and gradient norm of a batch, in float64 with the running statistics: on one process in two micro-batches,
    or on each of two processes its half."""
    recipe = settings(name, parts, batch=IMAGES)
    method = build_method(recipe).double().eval()
    with torch.no_grad():  # predictors may begin near zero: gradients would be too small to compare
        for key, parameter in method.named_parameters():
            if "predictor" in key and parameter.ndim > 1:
                parameter.normal_(std=0.3, generator=torch.Generator().manual_seed(1))
    batch = example_batch(recipe, "cpu")
    if process_count() > 1:
        batch = split_batch(batch, 2)[rank()]
    optimizer = build_optimizer(method.trained, recipe.optim, IMAGES)
    average, found = GradientAverage(method.trained.parameters()), {}
    for step in range(2):
        numbers = update(method, batch, step, optimizer, None, average, 2 // process_count())
        method.after_update(step, 2)
        found |= {f"loss {step}": float(all_reduce_mean(numbers["loss"])), f"norm {step}": float(numbers["gradient_norm"])}
    return found


def all_cases() -> dict:
    return {case: half_or_whole(*case) for case in CASES}


@pytest.fixture(scope="module")
def of_two() -> list[dict]:
    return on_ranks(2, all_cases, timeout=300)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_two_processes_are_one(of_two, case):
    alone = half_or_whole(*case)
    assert alone["norm 0"] > 1e-6
    for found in of_two:
        assert found[case] == pytest.approx(alone, rel=1e-7)


@pytest.mark.parametrize("name", names())
def test_a_method_is_described(name):
    kind = settings_of(name)
    assert isinstance(kind.about, About) and kind.about.paper.rpartition(" ")[2].count(".") == 1
    assert kind().name == name and kind.__doc__.strip().endswith(".")
    spec = settings(name, None)
    assert method_of(name).wanted(spec.method, spec.views, 32).views


@pytest.mark.parametrize("name", names())
def test_a_method_imports_only_what_lies_below_and_nothing_else_names_it(name):
    folder = METHODS[name].folder
    shared = {f"mcl.methods.{file.stem}" for file in (ROOT / "methods").glob("*.py")} - {"mcl.methods.registry"}
    for file in ROOT.rglob("*.py"):
        ours = file.is_relative_to(ROOT / "methods" / folder.rpartition(".")[2])
        for module in imported(file):
            if ours and module.startswith("mcl."):
                assert module.startswith((folder, *ALLOWED)) or module in shared, (file, module)
            if not ours:
                assert not module.startswith(f"{folder}."), (file, module)


def imported(file: Path) -> list[str]:
    found = []
    for node in ast.walk(ast.parse(file.read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            found.append(node.module)
        elif isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
    return found


def piece_of(key: str) -> str:
    """Which piece of the trunk a tensor belongs to."""
    words = key.split(".")
    if words[0] == "roi_heads":
        return "head"
    return "backbone" if words[1] == "body" else f"p{int(words[3]) + 2}"
