"""Collect fine-tuning runs into one JSON, and make docs tables from it.

    python benchmarks/runs.py collect first-look.json RUN ...     # run folders of mcl pretrain and mcl finetune
    python benchmarks/runs.py table first-look.json               # Markdown: mean and spread over seeds
"""

from __future__ import annotations

import json
import statistics
import sys
from pathlib import Path

import yaml

SETTINGS = ("trunk", "like", "train", "freeze", "parts", "seed", "batch", "image_size", "recipe", "schedule", "model")


def collect(target: Path, folders: list[Path]) -> None:
    """Write the summaries of runs, with the settings that tell them apart."""
    runs = []
    for folder in folders:
        config = yaml.safe_load((folder / "config.yaml").read_text())
        summary = json.loads((folder / "summary.json").read_text())
        runs.append({"run": folder.name, "settings": {k: config[k] for k in SETTINGS if k in config}, "summary": summary})
    target.write_text(json.dumps(runs, indent=1) + "\n")


def table(source: Path) -> str:
    """One row for each data set and start; box, mask and class-agnostic AP in percent."""
    groups: dict[tuple[str, str], list[dict]] = {}
    for run in json.loads(source.read_text()):
        settings = run["settings"]
        if "trunk" not in settings:
            continue
        data = Path(settings["train"]).parent.name
        start = "from scratch" if settings["trunk"] == "none" else f"pre-trained ({Path(settings['trunk']).name})"
        frozen = "" if settings["freeze"] == "none" else f", {settings['freeze']} frozen"
        groups.setdefault((data, start + frozen), []).append(run)
    rows = ["| data | start | seeds | box AP | mask AP | box AP, classes as one | fine-tuning, images |", "|---|---|---|---|---|---|---|"]
    for (data, start), runs in sorted(groups.items()):
        summaries = [run["summary"] for run in runs]
        cells = [spread([s[key] for s in summaries]) for key in ("box_AP", "mask_AP", "class_agnostic_AP")]
        rows.append(f"| {data} | {start} | {len(runs)} | {' | '.join(cells)} | {summaries[0]['cost']['images']:,} |")
    return "\n".join(rows)


def spread(values: list[float | None]) -> str:
    """``mean (least .. most)`` in percent."""
    numbers = [100 * value for value in values if value is not None]
    if not numbers:
        return "-"
    if len(numbers) == 1:
        return f"{numbers[0]:.1f}"
    return f"{statistics.mean(numbers):.1f} ({min(numbers):.1f} .. {max(numbers):.1f})"


if __name__ == "__main__":
    command, file, *rest = sys.argv[1:]
    if command == "collect":
        collect(Path(file), [Path(folder) for folder in rest])
    else:
        print(table(Path(file)))
