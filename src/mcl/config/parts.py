"""What of a trunk can be asked for."""

from __future__ import annotations

from typing import Literal

Parts = Literal["backbone", "backbone+pyramid", "backbone+pyramid+head"]
