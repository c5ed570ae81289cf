"""Training of a detector, one step at a time, in the form the loop asks for."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from mcl.config.finetune import FinetuneOptim
from mcl.detect.averaged import AveragedWeights
from mcl.detect.base import Detector
from mcl.detect.feedback import ScaleFeedback
from mcl.detect.forward import losses_and_boxes_of, losses_of, to_canvas
from mcl.detect.frozen import FeatureStore
from mcl.engine.optim import Schedule, apply_gradients, build_optimizer, load_optimizer, set_lr
from mcl.engine.processes.gradients import GradientAverage
from mcl.errors import UserError
from mcl.nn.parts import BODY, FPN
from mcl.nn.vit import PlainVit

Batch = tuple[list[Any], list[dict[str, Any]]]


class DetectorTraining:
    """A detector, its optimizer and its schedule.

    A batch is ``(images, targets)``; with a ``store`` (frozen trunk) ``(rows of the store, targets)``.

    Args:
        frozen: modules that stay in eval mode (what ``freeze`` returned).
        store: features of a frozen trunk.
        precision: ``bf16`` runs the network under autocast.
        ema: decay of an average of the weights; None: none is kept.
        feedback: is told of every step's box losses; None: images are not stitched.
    """

    def __init__(
        self,
        detector: Detector,
        optim: FinetuneOptim,
        schedule: Schedule,
        batch: int,
        device: torch.device,
        frozen: list[nn.Module] | None = None,
        store: FeatureStore | None = None,
        precision: str = "fp32",
        ema: float | None = None,
        feedback: ScaleFeedback | None = None,
    ) -> None:
        self.detector, self.schedule, self.device = detector, schedule, device
        self.frozen, self.store, self.precision, self.feedback = frozen or [], store, precision, feedback
        self.clip_norm = optim.clip_norm
        self.optimizer = build_optimizer(detector, optim, batch, rates_of_parts(optim, detector.backbone.body))
        self.average_weights = AveragedWeights(detector, ema) if ema else None
        self.average = GradientAverage(detector.parameters())

    def train_step(self, batch: Batch, step: int) -> dict[str, Tensor]:
        """Learn from one batch; returns loss, its terms, lr and gradient_norm as 0-d tensors."""
        training_mode(self.detector, self.frozen)
        lr = self.schedule.lr_at(step)
        set_lr(self.optimizer, lr)
        terms, told = self._losses_and_feedback(batch) if self.feedback else (self.losses(batch), {})
        loss = sum(terms.values())
        norm = apply_gradients(loss, self.optimizer, self.clip_norm, self.average)
        if self.average_weights:
            self.average_weights.update(self.detector, step)
        terms = {"loss/" + name.removeprefix("loss_"): term.detach() for name, term in terms.items()}
        return {"loss": loss.detach(), **terms, "lr": torch.tensor(lr), "gradient_norm": norm, **told}

    def measured(self, done: int) -> Mapping[str, float]:
        """Nothing more than every step tells."""
        return {}

    def logged(self, values: Mapping[str, float]) -> None:
        """Nothing is kept: AP is measured at the end."""

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Loss terms of a batch, by torchvision's names."""
        inputs, targets = batch
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            if self.store is not None:
                canvas, features = (
                    self.store.canvas([t["size"] for t in targets]),
                    self.store.features(inputs),
                )
            else:
                canvas = to_canvas(self.detector, inputs, self.device)
                features = self.detector.backbone(canvas.tensors)
            return losses_of(self.detector, features, canvas, targets)

    def _losses_and_feedback(self, batch: Batch) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Loss terms, and what the feedback tells of the step."""
        inputs, targets = batch
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            canvas = to_canvas(self.detector, inputs, self.device)
            features = self.detector.backbone(canvas.tensors)
            terms, boxes = losses_and_boxes_of(self.detector, features, canvas, targets)
        return terms, self.feedback.see(boxes.areas, boxes.losses)

    def state_dict(self) -> dict[str, Any]:
        """Everything a resumed run needs, as tensors and plain types."""
        averaged = {"ema": self.average_weights.values} if self.average_weights else {}
        fed_back = {"feedback": self.feedback.state_dict()} if self.feedback else {}
        return {"detector": self.detector.state_dict(), "optimizer": self.optimizer.state_dict(), **averaged, **fed_back}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from ``state_dict()``."""
        self.detector.load_state_dict(state["detector"])
        load_optimizer(self.optimizer, state["optimizer"])
        if self.average_weights:  # an average that begins now, begins with what there is
            self.average_weights.load(state.get("ema", state["detector"]))
        if self.feedback and "feedback" in state:
            self.feedback.load_state_dict(state["feedback"])

    def averaged(self) -> AbstractContextManager[None]:
        """Within the block the detector has the averaged weights, if there is an average."""
        return self.average_weights.inside(self.detector) if self.average_weights else nullcontext()

    def use_average(self) -> None:
        """From now on the detector has the averaged weights, if there is an average."""
        if self.average_weights:
            self.average_weights.copy_into(self.detector)

    @torch.no_grad()
    def recompute_norms(self, batches: Iterable[Batch], frozen: list[nn.Module] | None = None) -> int:
        """Precise BatchNorm: average every layer's batch statistics over ``batches`` at the final weights.

        Running averages lag behind the weights and, with few images a step, are noisy (method: Transfer).

        Args:
            frozen: modules to leave alone; default: those that are not trained.

        Returns:
            Number of layers recomputed; without any, ``batches`` is not read.
        """
        frozen = self.frozen if frozen is None else frozen
        kept = {id(layer) for module in frozen for layer in module.modules()}
        norms = [m for m in self.detector.modules() if isinstance(m, _BatchNorm) and id(m) not in kept]
        if not norms:
            return 0
        momenta = [norm.momentum for norm in norms]
        training_mode(self.detector, frozen)
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # cumulative average
        for batch in batches:
            self.losses(batch)
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        return len(norms)


def rates_of_parts(optim: FinetuneOptim, body: nn.Module | None = None) -> Callable[[str], float]:
    """Name of a parameter -> its part's learning rate as a multiple of the run's.

    Args:
        body: the backbone, for ``optim.layer_decay``.

    Raises:
        UserError: a decay from layer to layer for a backbone that is no plain transformer.
    """
    if optim.layer_decay < 1 and not isinstance(body, PlainVit):
        raise UserError("--optim.layer_decay: the backbone is no plain transformer; --optim.backbone_lr lowers all of it")

    def rate_of(name: str) -> float:
        if name.startswith(BODY):
            return optim.backbone_lr * (body.layer_rate(name.removeprefix(BODY), optim.layer_decay) if optim.layer_decay < 1 else 1.0)
        return optim.pyramid_lr if name.startswith(FPN) else optim.heads_lr

    return rate_of


def training_mode(detector: Detector, frozen: list[nn.Module]) -> None:
    """Training mode for all but the frozen modules."""
    detector.train()
    for module in frozen:
        module.eval()
