"""What a good trunk is worth on each testbed: scratch, a positive control and tries at pre-training, fine-tuned alike.

    python benchmarks/yardstick.py run [--data data] [--runs runs/yardstick] [--only TESTBED] [--start START ...]
    python benchmarks/yardstick.py table

The positive control is the trunk of the same detector after a long training on thousands of labelled scenes of all
training objects. A testbed can judge pre-training if the control beats scratch by at least 6 box AP, with scratch
between 15 and 45 AP. A try is a pre-training on the testbed's unlabeled images, given as the share of the way from
scratch to the control; several fine-tunings, each of its own seed, may begin from one pre-training. Settings are in yardstick.yaml; a run that is done is not run again, one that was stopped
goes on. Started several times at once, the processes share the runs.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml
from runs import SETTINGS, spread

from mcl.config.base import from_values
from mcl.config.pretrain import PretrainSettings
from mcl.methods.flops import step_flops

HERE = Path(__file__).parent
PLAN, RESULTS = HERE / "yardstick.yaml", HERE / "results/yardstick"
LEAST_LEAD, LEAST_AP, MOST_AP = 6.0, 15.0, 45.0  # box AP in percent
STARTS = {"scratch": "random trunk", "control": "positive control", "teacher": "the control's own training"}


@dataclass(frozen=True)
class Cell:
    """One fine-tuning run.

    Attributes:
        testbed: its name in the plan.
        start: one of ``STARTS``, or the name of a try.
        seed: of the run.
        data: name of the set to train on.
        test: name of the set to measure on.
        settings: as for ``mcl finetune --config``.
        scenes: the first so many of the set's training scenes; ``None``: all.
        pretrain: of a try: as for ``mcl pretrain --config``, its recipe too.
        pretrain_seed: of a try: seed of the pre-training that it begins from.
    """

    testbed: str
    start: str
    seed: int
    data: str
    test: str
    settings: dict[str, Any]
    scenes: int | None = None
    pretrain: dict[str, Any] | None = None
    pretrain_seed: int = 0

    @property
    def name(self) -> str:
        """Name of its run folder and result file."""
        return f"{self.testbed}-{self.start}-{self.seed}"


def cells(plan: dict[str, Any]) -> Iterator[Cell]:
    """All runs of the plan. The first from scratch come first: they tell early whether the AP is in range."""
    for testbed, its in plan["testbeds"].items():
        common = _merged(plan["settings"], its.get("settings", {}))
        teacher, tuned = its["teacher"], its["finetune"]
        settings = _merged(common, tuned.get("settings", {}))
        teaching = Cell(
            testbed,
            "teacher",
            0,
            teacher["data"],
            tuned["data"],
            _merged(common, teacher.get("settings", {})),
        )
        starts = [(start, seed) for seed in its["seeds"] for start in ("scratch", "control")]
        tuning = [
            Cell(testbed, start, seed, tuned["data"], tuned["data"], settings, tuned.get("scenes"))
            for start, seed in starts
        ]
        yield from (tuning[0], teaching, *tuning[1:])
        for name, settings_of_try in its.get("tries", {}).items():
            pretrain = _merged(plan["pretrain"], settings_of_try)
            pretrainings = pretrain.pop("pretrainings")
            for seed in its["seeds"]:
                yield replace(
                    tuning[0], start=name, seed=seed, pretrain=pretrain, pretrain_seed=seed % pretrainings
                )


def run_all(todo: list[Cell], data: Path, runs: Path) -> None:
    """Run what no other process has run or is running, until nothing is left."""
    runs.mkdir(parents=True, exist_ok=True)
    while todo:
        left = [cell for cell in todo if not run(cell, data, runs)]
        if left == todo:
            time.sleep(10)  # all that is left runs elsewhere, or waits for such a run
        todo = left


def run(cell: Cell, data: Path, runs: Path) -> bool:
    """Run or go on with a cell and write its result; false if another process has it or its trunk is not there."""
    teacher = runs / f"{cell.testbed}-teacher-0"
    if cell.start == "control" and not (teacher / "summary.json").is_file():
        return False
    if cell.seed != cell.pretrain_seed and cell.pretrain and not _is_pretrained(cell, runs):
        return False  # the cell of the pre-training's own seed runs it
    with (runs / f"{cell.name}.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        if not (runs / cell.name / "summary.json").is_file():
            if cell.pretrain:
                trunk = str(_pretrain(cell, data, runs))
            else:
                trunk = str(_trunk_of(teacher)) if cell.start == "control" else "none"
            _finetune(cell, trunk, data, runs)
        _collect(cell, runs / cell.name)
    return True


def _pretrain(cell: Cell, data: Path, runs: Path) -> Path:
    """Run or go on with a try's pre-training; its run folder."""
    folder = _pretrain_folder(cell, runs)
    if not _is_pretrained(cell, runs):
        config, settings = folder.with_suffix(".yaml"), dict(cell.pretrain)
        recipe = settings.pop("recipe")
        config.write_text(yaml.safe_dump(settings))
        command = [
            *(sys.executable, "-m", "mcl", "pretrain", "--config", str(config), "--recipe", recipe),
            *("--data", str(data / cell.data / "unlabeled/objects"), "--out", str(folder)),
            *("--seed", str(cell.pretrain_seed)),
            *(["--resume"] if (folder / "config.yaml").is_file() else []),
        ]
        subprocess.run(command, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    return folder


def _pretrain_folder(cell: Cell, runs: Path) -> Path:
    return runs / f"{cell.testbed}-{cell.start}-{cell.pretrain_seed}-pretrain"


def _is_pretrained(cell: Cell, runs: Path) -> bool:
    return (_pretrain_folder(cell, runs) / "summary.json").is_file()


def _finetune(cell: Cell, trunk: str, data: Path, runs: Path) -> None:
    config, folder = runs / f"{cell.name}.yaml", runs / cell.name
    config.write_text(yaml.safe_dump(cell.settings))
    images, test = data / cell.data, data / cell.test
    command = [
        *(sys.executable, "-m", "mcl", "finetune", "--config", str(config), "--recipe", "finetune-demo"),
        *("--trunk", trunk, "--train", str(_first_scenes(images / "train.json", cell, runs))),
        *("--images", str(images), "--val", str(test / "test.json"), "--val_images", str(test)),
        *("--seed", str(cell.seed), "--out", str(folder)),
        *(["--resume"] if (folder / "config.yaml").is_file() else []),
    ]
    subprocess.run(command, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})


def _collect(cell: Cell, folder: Path) -> None:
    config = yaml.safe_load((folder / "config.yaml").read_text())
    kept = {key: config[key] for key in (*SETTINGS, "optim", "detector", "views") if key in config}
    kept |= {key: Path(kept[key]).name for key in ("trunk", "train")}
    content = {key: getattr(cell, key) for key in ("testbed", "start", "seed", "data", "test", "scenes")}
    content |= {"settings": kept, "summary": json.loads((folder / "summary.json").read_text())}
    if cell.pretrain:
        summary = json.loads((_pretrain_folder(cell, folder.parent) / "summary.json").read_text())
        settings = from_values(PretrainSettings, {"data": cell.data, "out": folder.name, **cell.pretrain})
        flops = sum(step_flops(settings).values()) * summary["cost"]["steps"]
        of_try = {"settings": cell.pretrain, "seed": cell.pretrain_seed, "flops": flops, "summary": summary}
        content["pretrain"] = of_try
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / f"{cell.name}.json").write_text(json.dumps(content, indent=1) + "\n")


def _trunk_of(folder: Path) -> Path:
    """Backbone, pyramid and head convolutions of a fine-tuned detector, as a trunk file."""
    file = folder / "trunk-of-detector.safetensors"
    if not file.is_file():
        command = [sys.executable, "-m", "mcl", "export", str(folder), "--to", "safetensors", "--out", str(file)]
        subprocess.run([*command, "--overwrite", "true"], check=True)
    return file


def _first_scenes(train: Path, cell: Cell, runs: Path) -> Path:
    if cell.scenes is None:
        return train
    content = json.loads(train.read_text())
    content["images"] = content["images"][: cell.scenes]
    kept = {image["id"] for image in content["images"]}
    content["annotations"] = [item for item in content["annotations"] if item["image_id"] in kept]
    file = runs / f"{cell.name}-train.json"
    file.write_text(json.dumps(content))
    return file


def _merged(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """``above`` over ``below``, section by section."""
    sections = {
        key: _merged(below[key], value) for key, value in above.items() if isinstance(below.get(key), dict)
    }
    return {**below, **above, **sections}


def table(folder: Path = RESULTS) -> str:
    """One row a testbed and start, and whether the testbed counts.

    Raises:
        FileNotFoundError: no result there.
    """
    results = [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]
    if not results:
        raise FileNotFoundError(f"{folder}: no results")
    rows = [
        "| testbed | start | seeds | box AP | of the way | mask AP | box AP, classes as one | pre-trainings | of images | TFLOP | hours |",
        "|---|---|---:|---|---|---|---|---:|---:|---:|---:|",
    ]
    verdicts = []
    for testbed in dict.fromkeys(result["testbed"] for result in results):
        of_testbed = [result for result in results if result["testbed"] == testbed]
        starts = list(dict.fromkeys([*STARTS, *(result["start"] for result in of_testbed)]))
        box = {start: _box(of_testbed, start) for start in starts}
        for start in starts:
            if members := [result for result in of_testbed if result["start"] == start]:
                rows.append(_row(testbed, start, members, _way(box, start)))
        verdicts.append(_verdict(testbed, box))
    return "\n".join([*rows, "", *verdicts])


def _box(results: list[dict[str, Any]], start: str) -> dict[int, float]:
    """seed -> box AP in percent."""
    return {r["seed"]: 100 * r["summary"]["box_AP"] for r in results if r["start"] == start}


def _way(box: dict[str, dict[int, float]], start: str) -> str:
    """Share of the way from scratch to the control that a start's mean has gone, over the seeds that all three have."""
    seeds = sorted(box[start].keys() & box["scratch"].keys() & box["control"].keys())
    if start in STARTS or not seeds:
        return ""
    scratch, control, own = (statistics.mean(box[s][seed] for seed in seeds) for s in ("scratch", "control", start))
    return f"{100 * (own - scratch) / (control - scratch):.0f}%"


def _row(testbed: str, start: str, results: list[dict[str, Any]], way: str) -> str:
    summaries = [result["summary"] for result in results]
    box, *others = (spread([s[key] for s in summaries]) for key in ("box_AP", "mask_AP", "class_agnostic_AP"))
    cells = [testbed, STARTS.get(start, start), str(len(results)), box, way, *others]
    # Several fine-tunings may begin from one pre-training: by its seed it counts once.
    if before := {result["pretrain"]["seed"]: result["pretrain"] for result in results if "pretrain" in result}:
        one, costs = next(iter(before.values())), [each["summary"]["cost"] for each in before.values()]
        hours = statistics.mean(cost["seconds"] for cost in costs) / 3600
        cells += [str(len(before)), f"{costs[0]['images']:,}", f"{one['flops'] / 1e12:.0f}", f"{hours:.1f}"]
    else:
        cells += [""] * 4
    return f"| {' | '.join(cells)} |"


def _verdict(testbed: str, box: dict[str, dict[int, float]]) -> str:
    """Lead of the control over scratch, seed by seed."""
    scratch, control = box.get("scratch", {}), box.get("control", {})
    seeds = sorted(scratch.keys() & control.keys())
    if not seeds:
        return f"- {testbed}: not complete."
    leads = [control[seed] - scratch[seed] for seed in seeds]
    lead, level = statistics.mean(leads), statistics.mean(scratch[seed] for seed in seeds)
    counts = lead >= LEAST_LEAD and LEAST_AP <= level <= MOST_AP
    return (
        f"- {testbed}: the control leads by {lead:+.1f} box AP ({min(leads):+.1f} .. {max(leads):+.1f}), scratch at "
        f"{level:.1f}: {'counts' if counts else 'does not count'}."
    )


def main() -> None:
    """Run the plan, or print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("command", choices=("run", "table"))
    parser.add_argument("--data", type=Path, default=Path("data"), help="folder of the testbeds' sets")
    parser.add_argument("--runs", type=Path, default=Path("runs/yardstick"), help="folder of run folders")
    parser.add_argument("--only", help="one testbed")
    parser.add_argument("--start", nargs="*", help="only these starts: scratch, teacher, control, or names of tries")
    options = parser.parse_args()
    if options.command == "table":
        print(table())
        return
    chosen = [
        cell
        for cell in cells(yaml.safe_load(PLAN.read_text()))
        if options.only in (None, cell.testbed) and (not options.start or cell.start in options.start)
    ]
    run_all(chosen, options.data, options.runs)


if __name__ == "__main__":
    main()
