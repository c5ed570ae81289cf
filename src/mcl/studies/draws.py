"""Settings drawn at random, the same draws for every start."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, model_validator


class Range(BaseModel):
    """Numbers from ``low`` to ``high``; ``log``: every factor of two is as likely."""

    model_config = ConfigDict(extra="forbid")

    low: float
    high: float
    log: bool = False

    @model_validator(mode="after")
    def _rising(self) -> Range:
        if not self.low < self.high or (self.log and self.low <= 0):
            raise ValueError("low must be below high, and above 0 with log")
        return self


Space = Range | list[Any]


def draw(spaces: Mapping[str, Space], number: int, seed: int) -> dict[str, Any]:
    """A value for every setting; number 0 is none at all: the settings as they stand.

    Every setting has draws of its own, so that one more setting leaves those of the others as they were.
    """
    if number == 0:
        return {}
    return {name: _value(space, random.Random(f"{seed} {name} {number}")) for name, space in spaces.items()}


def _value(space: Space, generator: random.Random) -> Any:
    if isinstance(space, list):
        return generator.choice(space)
    if not space.log:
        return float(f"{generator.uniform(space.low, space.high):.4g}")
    return float(f"{math.exp(generator.uniform(math.log(space.low), math.log(space.high))):.4g}")
