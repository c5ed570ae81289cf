"""Detections of a data set as COCO results, and COCO's numbers for them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from itertools import zip_longest
from typing import Any

import numpy as np
import torch
from faster_coco_eval import COCO
from faster_coco_eval.core import mask as rle
from faster_coco_eval.core.faster_eval_api import COCOeval_faster
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader

from mcl.data.labels.coco_json import CocoScenes
from mcl.data.labels.contract import CATEGORY_LISTS
from mcl.data.labels.scenes import CocoDetection, collate
from mcl.data.loading.loader import plain_errors
from mcl.detect.base import Detector
from mcl.detect.forward import detect, to_canvas
from mcl.detect.metrics.cityscapes import cityscapes_numbers
from mcl.detect.metrics.lvis import NUMBERS as LVIS_NUMBERS
from mcl.detect.metrics.lvis import lvis_evaluator
from mcl.detect.metrics.voc import voc_numbers
from mcl.engine.processes.distributed import gather_objects, process_count, rank

# faster-coco-eval's names of COCO's 12 numbers -> ours
NUMBERS = {
    "AP_all": "AP", "AP_50": "AP50", "AP_75": "AP75", "AP_small": "AP_small", "AP_medium": "AP_medium",
    "AP_large": "AP_large", "AR_all": "AR1", "AR_second": "AR10", "AR_third": "AR100",
    "AR_small": "AR_small", "AR_medium": "AR_medium", "AR_large": "AR_large",
}  # fmt: skip


@torch.inference_mode()
def predict(
    detector: Detector,
    dataset: CocoDetection,
    names: list[str],
    batch: int,
    workers: int,
    device: torch.device,
    tick: Callable[[int], None] = lambda done: None,
) -> dict[str, list[dict[str, Any]]] | None:
    """Detections of every scene in COCO's results format.

    Several processes take whole batches in turn (a batch decides how far its images are padded, so that the
    detections are those of a single process), and rank 0 gets them all, in the order of the scenes.

    Args:
        dataset: still scenes.
        names: category names in the order of the detector's labels (label 1 first). A label whose name the
            data set does not have is dropped: nothing could match it.
        tick: called with the number of images done after every batch.

    Returns:
        ``{"bbox": [...]}``, and ``"segm"`` with masks as compressed RLE if the detector predicts masks; none on
        processes other than rank 0.
    """
    detector.eval()
    ids = {name: i for i, name in dataset.scenes.categories.items()}
    category = [None, *(ids.get(name) for name in names)]
    shares = list(BatchSampler(range(len(dataset)), batch, drop_last=False))[rank() :: process_count()]
    loader = DataLoader(dataset, batch_sampler=shares, num_workers=workers, collate_fn=collate)
    own: list[dict[str, list[dict[str, Any]]]] = []  # one entry a batch
    done = 0
    for images, targets in plain_errors(loader):
        results: dict[str, list[dict[str, Any]]] = {kind: [] for kind in detector.finds}
        found = detect(detector, to_canvas(detector, images, device), [t["original_size"] for t in targets])
        for target, image_found in zip(targets, found, strict=True):
            _append(results, image_found, dataset.scenes.scenes[target["index"]].id, category)
        own.append(results)
        done += len(images) * process_count()
        tick(min(done, len(dataset)))
    everyone = gather_objects(own)
    if everyone is None:
        return None
    # Batch 0 of every process, then batch 1, ...: the order of the scenes.
    in_order = [found for turn in zip_longest(*everyone) for found in turn if found is not None]
    return {kind: [result for found in in_order for result in found[kind]] for kind in detector.finds}


def ground_truth(scenes: CocoScenes, masks: bool) -> dict[str, Any]:
    """Checked labels as a COCO dictionary: clipped boxes, crowds included, ids from 1; and what LVIS measures by.

    With ``masks`` an object without one counts as a crowd over its box: what is found there is neither right nor wrong.
    """
    annotations = []
    for scene in scenes.scenes:
        for thing in scene.objects:
            x1, y1, x2, y2 = thing.box
            annotations.append({
                # faster-coco-eval takes the id 0 for "not matched".
                "id": len(annotations) + 1, "image_id": scene.id, "category_id": thing.category,
                "bbox": [x1, y1, x2 - x1, y2 - y1], "area": thing.area,
                # COCO has no difficult objects: they are passed over as crowds are.
                "iscrowd": int(thing.crowd or thing.difficult),
            })  # fmt: skip
            if masks:
                annotations[-1]["segmentation"] = thing.segmentation or [[x1, y1, x2, y1, x2, y2, x1, y2]]
                annotations[-1]["iscrowd"] = int(thing.crowd or thing.difficult or thing.segmentation is None)
    return {
        "images": [
            {"id": s.id, "width": s.width, "height": s.height, **{key: s.extra[key] for key in CATEGORY_LISTS if key in s.extra}}
            for s in scenes.scenes
        ],
        "categories": [
            {"id": i, "name": name, **({"frequency": scenes.frequency[i]} if i in scenes.frequency else {})}
            for i, name in scenes.categories.items()
        ],
        "annotations": annotations,
    }


def coco_evaluators(
    scenes: CocoScenes, results: Mapping[str, list[dict[str, Any]]]
) -> dict[str, COCOeval_faster]:
    """Kind -> COCO's evaluation of its results, accumulated; LVIS's for a set that is measured so."""
    evaluate = lvis_evaluator if scenes.measured_as == "lvis" else _evaluate
    return {kind: evaluate(ground_truth(scenes, masks=kind == "segm"), results[kind], kind) for kind in results}


def coco_numbers(
    scenes: CocoScenes,
    results: Mapping[str, list[dict[str, Any]]],
    evaluators: Mapping[str, COCOeval_faster] | None = None,
) -> dict[str, Any]:
    """COCO's 12 numbers, AP by class and by overlap of results, and the box AP with all classes taken as one.

    Args:
        evaluators: ``coco_evaluators`` of the same results, where they are there already.

    VOC's and Cityscapes' own numbers stand beside COCO's; LVIS's stand in their place, for COCO's would count what
    nobody has looked for in an image as wrong.

    Returns:
        ``{"bbox": {"AP": ..., ..., "per_class": {name: AP}, "by_iou": {"0.50": AP, ...}}, "segm": ...,
        "class_agnostic_AP": ...}``, and ``voc`` (``voc_numbers``) or ``cityscapes`` (``cityscapes_numbers``); values
        from 0 to 1, None where the data set has nothing to measure (no large objects, say).
    """
    numbers: dict[str, Any] = {}
    if scenes.measured_as == "voc":
        numbers["voc"] = voc_numbers(scenes, results["bbox"])
    if scenes.measured_as == "cityscapes" and "segm" in results:
        numbers["cityscapes"] = cityscapes_numbers(scenes, results["segm"])
    names = LVIS_NUMBERS if scenes.measured_as == "lvis" else NUMBERS
    for kind, evaluator in (evaluators or coco_evaluators(scenes, results)).items():
        stats = evaluator.stats_as_dict
        numbers[kind] = {ours: _measured(stats[theirs]) for theirs, ours in names.items()}
        # precision: (IoU thresholds, recalls, classes, areas, detections); all areas, most detections
        precision = np.asarray(evaluator.eval["precision"])[:, :, :, 0, -1]
        per_class = {i: precision[:, :, k] for k, i in enumerate(evaluator.params.catIds)}
        numbers[kind]["per_class"] = {
            scenes.categories[i]: _mean_measured(values) for i, values in per_class.items()
        }
        numbers[kind]["by_iou"] = {
            f"{overlap:.2f}": _mean_measured(values)
            for overlap, values in zip(evaluator.params.iouThrs, precision, strict=True)
        }
    numbers["class_agnostic_AP"] = _class_agnostic(scenes, results["bbox"])
    return numbers


def _evaluate(truth: dict[str, Any], results: Iterable[dict[str, Any]], kind: str) -> COCOeval_faster:
    reference = COCO(truth)
    evaluator = COCOeval_faster(reference, reference.loadRes([dict(result) for result in results]), kind)
    evaluator.print_function = lambda *_: None
    evaluator.evaluate()
    evaluator.accumulate()
    evaluator.summarize()
    return evaluator


def _class_agnostic(scenes: CocoScenes, boxes: list[dict[str, Any]]) -> float | None:
    truth = ground_truth(scenes, masks=False)
    truth["categories"] = [{"id": 1, "name": "object"}]
    truth["annotations"] = [{**annotation, "category_id": 1} for annotation in truth["annotations"]]
    evaluator = _evaluate(truth, [{**box, "category_id": 1} for box in boxes], "bbox")
    return _measured(evaluator.stats_as_dict["AP_all"])


def _append(
    results: dict[str, list], found: dict[str, Tensor], image_id: int, category: list[int | None]
) -> None:
    boxes, scores, labels = (found[key].cpu() for key in ("boxes", "scores", "labels"))
    for position, (box, score, label) in enumerate(
        zip(boxes.tolist(), scores.tolist(), labels.tolist(), strict=True)
    ):
        if category[label] is None:
            continue
        head = {"image_id": image_id, "category_id": category[label], "score": round(score, 5)}
        x1, y1, x2, y2 = box
        results["bbox"].append({**head, "bbox": [round(v, 3) for v in (x1, y1, x2 - x1, y2 - y1)]})
        if "segm" in results:
            mask = (found["masks"][position, 0] > 0.5).to(torch.uint8).cpu().numpy()
            encoded = rle.encode(np.asfortranarray(mask))
            counts = encoded["counts"]
            encoded["counts"] = counts.decode("ascii") if isinstance(counts, bytes) else counts
            results["segm"].append(
                {**head, "segmentation": {"size": list(encoded["size"]), "counts": encoded["counts"]}}
            )


def _mean_measured(precision: np.ndarray) -> float | None:
    """Mean of what could be measured."""
    return _measured(precision[precision > -1].mean() if (precision > -1).any() else -1)


def _measured(value: float) -> float | None:
    """COCO writes -1 for "nothing to measure"."""
    return None if value < 0 else round(float(value), 5)
