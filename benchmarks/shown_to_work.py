"""Transformers and ResNet-18 by several methods, small: does the loss fall, without collapse, and does a frozen trunk help?

    python benchmarks/shown_to_work.py run [--runs runs/transformers] [--only CASE ...]     # hours on one core; goes on where it was
    python benchmarks/shown_to_work.py table

Each case is pre-trained once for each seed on the demo set's unlabeled images at 64 px; then a detector is trained on the
frozen trunk (methods that train the backbone alone: on the frozen backbone), and on a random trunk of the same form, all
else equal. FLOPs of a step are counted, by part. One thread; a run that is done is not run again.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

import mcl
from mcl.config.base import from_values
from mcl.config.pretrain import PretrainSettings
from mcl.methods.build import build_method
from mcl.methods.flops import step_flops
from mcl.nn.trunk import save_trunk

RESULTS = Path(__file__).parent / "results/transformers"
SEEDS, PRETRAIN_STEPS, FINETUNE_STEPS, SIZE = (0, 1, 2), 600, 400, 64
WHOLE, LEAST = "backbone+pyramid+head", 20  # LEAST: logged lines at either end that the loss is a mean of, at most
#: name -> settings over the demo's; with "frozen": what stays as it is while the detector learns
CASES: dict[str, dict[str, Any]] = {
    "mcl, ViT-Tiny/8": {"recipe": "mcl-vit-64"},
    "mcl, ViT-Tiny/8, tiles apart": {"recipe": "mcl-vit-64", "method.attention": "tile"},
    "mcl, ConvNeXt-Atto": {"recipe": "mcl-convnext-64"},
    "mcl, ResNet-18": {"recipe": "mcl-r18-64"},
    "mocov3, ViT-Tiny/8": {"recipe": "mocov3-vit-64", "method.parts": WHOLE},
    "dino, ViT-Tiny/8": {"recipe": "dino-vit-64", "method.parts": WHOLE},
    "dino on montages, ViT-Tiny/8": {"recipe": "dino-vit-64", "method.parts": WHOLE, "method.layout": "montage"},
    "mae, ViT-Tiny/8": {"recipe": "mae-vit-64", "frozen": "backbone"},
    "mae on montages, ViT-Tiny/8": {"recipe": "mae-vit-64", "method.layout": "montage", "frozen": "backbone"},
    "mae and mcl on montages, ViT-Tiny/8": {
        "recipe": "mae-vit-64", "method.layout": "montage", "method.mcl_weight": 1.0, "frozen": "backbone",
    },
}  # fmt: skip


def run_all(runs: Path, only: list[str], steps: int, tuned: int) -> None:
    """Every case and seed that has no result yet."""
    data = runs / "data"
    if not (data / "test.json").exists():
        mcl.data_demo(out=data, image_size=SIZE, unlabeled_objects=1000, unlabeled_scenes=1000, train_scenes=600, test_scenes=200)
    for seed in SEEDS:
        for name, given in CASES.items():
            target = RESULTS / f"{slug(name)}-{seed}.json"
            if (only and name not in only) or target.exists():
                continue
            result = run(name, dict(given), seed, runs, data, steps, tuned)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(json.dumps(result, indent=1) + "\n", "utf-8")


def run(name: str, given: dict[str, Any], seed: int, runs: Path, data: Path, steps: int, tuned: int) -> dict[str, Any]:
    """Pre-train, and fine-tune from the trunk and from a random one."""
    frozen, folder = given.pop("frozen", "trunk"), runs / f"{slug(name)}-{seed}"
    values = {
        "data": data / "unlabeled", **given, "seed": seed, "schedule.epochs": None, "schedule.steps": steps, "loop.threads": 1,
        "loop.tensorboard": False,
    }  # fmt: skip
    settings = from_values(PretrainSettings, {**values, "out": folder})
    if not (folder / "summary.json").exists():
        mcl.pretrain(**values, out=folder, **continued(folder))
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text("utf-8").splitlines()]
    random = runs / f"{slug(name)}-{seed}-random"
    if not (random / "trunk.safetensors").exists():
        random.mkdir(parents=True, exist_ok=True)
        save_trunk(random / "trunk.safetensors", build_method(settings).trunk, {"method": "none"})
    box = {start: tune(folder / start, trunk, seed, data, frozen, tuned) for start, trunk in (("tuned", folder), ("tuned-random", random))}
    few = max(1, min(LEAST, len(lines) // 5))
    return {
        "case": name, "seed": seed, "steps": steps, "frozen": frozen, "flops": step_flops(settings),
        "seconds": json.loads((folder / "summary.json").read_text("utf-8"))["cost"]["seconds"],
        "loss": [statistics.mean(line["loss"] for line in part) for part in (lines[:few], lines[-few:])],
        "rank": lines[-1].get("rank"), "spread": lines[-1].get("spread"),
        "losses": [[line["step"], line["loss"]] for line in lines], "box_AP": box,
    }  # fmt: skip


def tune(out: Path, trunk: Path, seed: int, data: Path, frozen: str, steps: int) -> float:
    """Box AP of a detector on a frozen trunk (or backbone)."""
    if not (out / "summary.json").exists():
        mcl.finetune(
            trunk=str(trunk), train=data / "train.json", val=data / "test.json", images=data, out=out, seed=seed, freeze=frozen,
            parts=WHOLE if frozen == "trunk" else "backbone", recipe="finetune-small", **{"schedule.steps": steps, "loop.threads": 1, "loop.tensorboard": False},
            **({"calibrate_bn": True} if frozen == "trunk" else {}), **continued(out),
        )  # fmt: skip
    return json.loads((out / "summary.json").read_text("utf-8"))["box_AP"]


def continued(folder: Path) -> dict[str, bool]:
    """What to give a run for its folder: resume from its checkpoint, or begin anew what never wrote one."""
    resume = (folder / "checkpoints" / "last.pt").exists()
    return {"resume": resume, "overwrite": (folder / "config.yaml").exists() and not resume}


def slug(name: str) -> str:
    """A case's name in file names."""
    return name.lower().replace(", ", "-").replace(" ", "-").replace("/", "")


def table(folder: Path = RESULTS) -> str:
    """One row for each case, as far as it was run: means over seeds, and how often the trained trunk was better."""
    found = [json.loads(file.read_text("utf-8")) for file in sorted(folder.glob("*.json"))]
    rows = [
        "| case | seeds | loss: first → last | rank of the targets | frozen | box AP, random trunk | pre-trained | better | s a step | where its FLOPs go |",
        "|---|---:|---|---:|---|---:|---:|---|---:|---|",
    ]
    for name in CASES:
        own = [result for result in found if result["case"] == name]
        if not own:
            continue
        first, last = (statistics.mean(result["loss"][i] for result in own) for i in (0, 1))
        boxes = {start: [100 * result["box_AP"][start] for result in own] for start in ("tuned", "tuned-random")}
        better = sum(a > b for a, b in zip(boxes["tuned"], boxes["tuned-random"], strict=True))
        rank = statistics.mean(result["rank"] or 0 for result in own)
        each = statistics.mean(result["seconds"] / result["steps"] for result in own)
        rows.append(
            f"| {name} | {len(own)} | {first:.2f} → {last:.2f} | {rank:.1f} | {own[0]['frozen']} | {statistics.mean(boxes['tuned-random']):.1f} | "
            f"{statistics.mean(boxes['tuned']):.1f} | {better} of {len(own)} | {each:.2f} | {shares(own[0]['flops'])} |"
        )
    return "\n".join(rows)


def shares(flops: dict[str, float]) -> str:
    """``backbone 60 %, pyramid 10 %``: parts of a step that cost one percent or more."""
    parts = {part: count for part, count in flops.items() if part != "total"}
    whole = sum(parts.values())
    return ", ".join(f"{part} {count / whole:.0%}" for part, count in sorted(parts.items(), key=lambda row: -row[1]) if count > 0.01 * whole)


def main() -> None:
    """The two commands above."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=("run", "table"))
    parser.add_argument("--runs", type=Path, default=Path("runs/transformers"))
    parser.add_argument("--only", nargs="*", default=[], choices=tuple(CASES))
    parser.add_argument("--steps", type=int, default=PRETRAIN_STEPS)
    parser.add_argument("--tuned", type=int, default=FINETUNE_STEPS)
    given = parser.parse_args()
    if given.command == "table":
        print(table())
        return
    run_all(given.runs, given.only, given.steps, given.tuned)


if __name__ == "__main__":
    main()
