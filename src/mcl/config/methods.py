"""Settings of ``mcl methods``."""

from __future__ import annotations

from mcl.config.bench import BenchSettings


class MethodsSettings(BenchSettings):
    """List the pre-training methods: what they do and train, and what a step costs beside MCL's.

    Costs are counted in FLOPs of a training step for the same backbone, image size and batch; the recipe decides which.
    """
