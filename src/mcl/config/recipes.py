"""Settings of ``mcl recipes``."""

from __future__ import annotations

from pydantic import Field, field_validator
from pydantic_settings import CliPositionalArg

from mcl.config.base import Command


class RecipesSettings(Command):
    """List the shipped recipes; show one; or compare several, setting by setting."""

    names: CliPositionalArg[list[str]] = Field([], description="None: list them; one: show it; more: what differs.")

    @field_validator("names", mode="before")
    @classmethod
    def _one_is_a_list(cls, given: object) -> object:
        return [given] if isinstance(given, str) else given
