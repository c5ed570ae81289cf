"""What an evaluation tells besides its numbers: curves, which classes are mixed up, errors by kind, the worst images."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from faster_coco_eval.core.faster_eval_api import COCOeval_faster
from rich.table import Table

from mcl.data.labels.coco_json import CocoScenes
from mcl.detect.analysis.confusion import confusion_matrix
from mcl.detect.analysis.curves import precision_recall
from mcl.detect.analysis.error_kinds import KINDS, error_kinds
from mcl.detect.analysis.figure import draw_evaluation
from mcl.detect.analysis.matches import match_images
from mcl.detect.analysis.worst import worst_images
from mcl.detect.analysis.worst_figure import worst_figure
from mcl.detect.evaluate import ground_truth
from mcl.engine.run_folder import RunFolder

CURVES, CONFUSION, ERRORS = "curves.json", "confusion.json", "errors.json"
WORST_PICTURE, PICTURE = "worst.png", "evaluation.png"
SURE_SCORE = 0.3  # of detections that are shown, and counted as errors one by one
WORST_LISTED, WORST_SHOWN = 50, 8


def write_analysis(
    folder: RunFolder,
    scenes: CocoScenes,
    results: Mapping[str, list[dict[str, Any]]],
    evaluators: Mapping[str, COCOeval_faster],
    max_pixels: int | None = None,
) -> dict[str, Any]:
    """Write ``curves.json``, ``confusion.json``, ``errors.json``, ``worst.png``, and ``evaluation.png`` with matplotlib.

    Args:
        results: detections in COCO's results format, by kind.
        evaluators: ``coco_evaluators`` of them.
        max_pixels: see ``read_scene``.

    Returns:
        What ``errors.json`` holds.
    """
    categories = scenes.categories
    curves = {kind: precision_recall(evaluator, categories) for kind, evaluator in evaluators.items()}
    matches = {kind: match_images(ground_truth(scenes, kind == "segm"), results[kind], kind) for kind in results}
    errors = {kind: error_kinds(images, list(categories), SURE_SCORE) for kind, images in matches.items()}
    worst = worst_images(matches["bbox"], SURE_SCORE, WORST_LISTED)
    files = {scene.id: scene.path.name for scene in scenes.scenes}
    errors["worst"] = [
        {"image_id": wrong.image, "file": files[wrong.image], "missed": len(wrong.missed), "false": len(wrong.false)}
        for wrong in worst
    ]
    mixed = match_images(ground_truth(scenes, False), results["bbox"], "bbox", by_class=False)
    confusion = confusion_matrix(mixed, categories, SURE_SCORE)
    for name, content in ((CURVES, curves), (CONFUSION, confusion), (ERRORS, {"score": SURE_SCORE, **errors})):
        folder.write_text(name, json.dumps(content, ensure_ascii=False) + "\n")
    if worst:
        worst_figure(scenes, results["bbox"], worst[:WORST_SHOWN], SURE_SCORE, max_pixels).save(folder.path / WORST_PICTURE)
    draw_evaluation(folder.path / PICTURE, curves["bbox"], confusion, errors["bbox"])
    return errors


def errors_table(errors: Mapping[str, Any]) -> Table:
    """Errors of boxes by kind: points of AP50 that they cost, and how many sure ones there are."""
    table = Table(title="errors of boxes by kind (TIDE)", title_justify="left")
    for column in ("", "AP50 lost", f"score >= {SURE_SCORE}", "all"):
        table.add_column(column, justify="right" if column else "left")
    for kind in KINDS:
        found = errors["bbox"][kind]
        lost = "-" if found["dAP50"] is None else f"{100 * found['dAP50']:.1f}"
        table.add_row(kind, lost, f"{found['count_sure']:,}", f"{found['count']:,}")
    return table
