"""What the settings of every pre-training method have in common; each method's own lie in its folder."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from pydantic import Field

from mcl.config.base import Section

TrainedParts = Literal["backbone", "backbone+pyramid+head"]


@dataclass(frozen=True)
class About:
    """What ``mcl methods`` tells of a method.

    Attributes:
        sentence: what it does.
        paper: title and number.
        checked: how its loss was checked.
    """

    sentence: str
    paper: str
    checked: str


def method_name(name: str) -> Any:
    """The field ``name`` of a method's settings."""
    return Field(name, description="Pre-training method; mcl methods lists them.")


class MethodSettings(Section):
    """A pre-training method."""

    about: ClassVar[About]

    name: str = method_name("mcl")
