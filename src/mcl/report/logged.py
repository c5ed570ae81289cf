"""Charts of what a training logged, by the names of the numbers: ``loss``, ``loss/p5``, ``accuracy/p5``, ``rank`` ...

Which method or detector wrote them is not asked: numbers that have a part after the slash share a chart.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mcl.report.chart import Chart, Line, line_chart
from mcl.report.runs import FINETUNE, Run

# number or group -> (heading, what it tells); in the order of the page
KNOWN: dict[str, tuple[str, str]] = {
    "loss": ("Loss", "All parts together."),
    "loss/": ("Loss, part by part", "What adds up to the loss."),
    "positive_cosine/": ("Cosine to the own target", "Grows where a level learns; dashed: to other images' targets, which stays near 0."),
    "accuracy/": ("Accuracy against chance", "Share of tiles that find their own image among all of the batch."),
    "spread": ("Spread of targets", "Near 1 is healthy; near 0 all targets are equal: collapsed."),
    "rank": ("Rank of targets", "Directions that the targets lie in; below 2: collapsed."),
    "turned/": ("How far weights have turned", "Degrees between a part's weights now and at the start; nearly still: train longer."),
    "knn/": ("Neighbours of the same class", "Accuracy of the nearest neighbours of the trunk's features."),
    "localise/": ("Localisation", "Boxes that were put off and are put right."),
    "dense/": ("Dense loss", "Falls from 2 as cells agree."),
    "gradient_norm": ("Gradient norm", "Settles; growing: lower the learning rate."),
    "lr": ("Learning rate", ""),
    "images_per_second": ("Speed", "Images a second."),
    "data_wait": ("Waiting for data", "Share of the time; above a few percent: more loader processes."),
}  # fmt: skip
FIRST = ("loss", "loss/", "positive_cosine/", "accuracy/", "spread", "rank", "knn/", "turned/", "localise/", "dense/")
BESIDE = {"positive_cosine/": "negative_cosine/"}  # drawn dashed in the same chart
FROM_ZERO = ("spread", "rank", "accuracy/", "knn/", "data_wait", "images_per_second")
NOT_DRAWN = ("chance", "step", "warnings")


def training_charts(run: Run) -> tuple[list[Chart], list[Chart]]:
    """Charts to look at first, and the rest."""
    series = _series(run.metrics)
    groups = _groups(series)
    charts = {}
    for group, names in groups.items():
        if group in BESIDE.values() and any(BESIDE[key] == group and key in groups for key in BESIDE):
            continue
        if made := _chart(group, names, groups, series):
            charts[group] = made
    order = sorted(charts, key=lambda group: list(KNOWN).index(group) if group in KNOWN else len(KNOWN))
    first = [charts[group] for group in order if group in FIRST]
    if run.kind == FINETUNE and (curve := ap_chart([run], {run.name: 0})):
        first.insert(0, curve)
    return first, [charts[group] for group in order if group not in FIRST]


def ap_chart(runs: Sequence[Run], colours: Mapping[str, int]) -> Chart | None:
    """Box AP while detectors trained; of one run the mask AP, too."""
    lines = []
    for run in runs:
        steps = [point["step"] for point in run.curve]
        for key, dash in (("box_AP", 0), ("mask_AP", 1)):
            values = [None if point.get(key) is None else 100 * point[key] for point in run.curve]
            if len(runs) == 1 or key == "box_AP":
                name = {"box_AP": "boxes", "mask_AP": "masks"}[key] if len(runs) == 1 else run.name
                lines.append(Line(name, steps, values, colours[run.name], dash, marked=True))
    return line_chart("AP while training", lines, "On the test scenes, as at the end.", y_label="AP, percent")


def overlay(runs: Sequence[Run], colours: Mapping[str, int], number: str) -> Chart | None:
    """One number of several runs."""
    title, about = KNOWN[number]
    lines = []
    for run in runs:
        points = _series(run.metrics).get(number)
        if points:
            lines.append(Line(run.name, *points, colours[run.name], noisy=True))
    ylim = (0, None) if number in FROM_ZERO else None
    return line_chart(title, lines, about, ylim=ylim) if len(lines) > 1 else None


def _series(rows: Sequence[Mapping[str, Any]]) -> dict[str, tuple[list[float], list[float]]]:
    """number -> (steps, values) of the lines that have it."""
    found: dict[str, tuple[list[float], list[float]]] = {}
    for row in rows:
        for name, value in row.items():
            if name not in ("step", "warnings") and isinstance(value, int | float):
                steps, values = found.setdefault(name, ([], []))
                steps.append(row.get("step", 0))
                values.append(value)
    return found


def _groups(series: Mapping[str, Any]) -> dict[str, list[str]]:
    """``loss/`` -> its numbers, ``loss`` -> itself; levels from P2 up."""
    groups: dict[str, list[str]] = {}
    for name in series:
        if name not in NOT_DRAWN:
            group, slash, _ = name.partition("/")
            groups.setdefault(group + slash, []).append(name)
    return {group: sorted(names) for group, names in groups.items()}


def _chart(group: str, names: Sequence[str], groups: Mapping[str, Sequence[str]], series: Mapping[str, Any]) -> Chart | None:
    title, about = KNOWN.get(group, (_spoken(group.rstrip("/")), ""))
    several = group.endswith("/")
    lines = [Line(_part(name) if several else "", *series[name], colour=i, noisy=True) for i, name in enumerate(names)]
    if beside := groups.get(BESIDE.get(group, "")):
        lines += [Line("", *series[name], colour=i, dash=1) for i, name in enumerate(beside)]
    level = None
    if group == "accuracy/" and "chance" in series:
        level = (series["chance"][1][-1], "chance")
    return line_chart(title, lines, about, level=level, ylim=(0, None) if group in FROM_ZERO else None)


def _part(name: str) -> str:
    """``loss/p5 -> P5``, ``loss/box_reg -> box reg``."""
    part = name.partition("/")[2]
    return part.upper() if len(part) == 2 and part[1].isdigit() else _spoken(part)


def _spoken(name: str) -> str:
    return name.replace("_", " ")
