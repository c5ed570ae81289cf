"""Settings that only do something beside certain others: given without them they are refused, not passed over."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from mcl.errors import UserError


@dataclass(frozen=True)
class OnlyWith:
    """A setting that is used with some settings and not with others.

    Attributes:
        setting: dotted name, of a section for all that is in it.
        used: whether these settings use it.
        reason: what follows "is not used: ".
    """

    setting: str
    used: Callable[[Any], bool]
    reason: str


def refuse_unused(settings: Any, given: Mapping[str, Any]) -> None:
    """Refuse what a user has given himself and this command would not use.

    What recipes and files hold is not looked at: they serve several commands' lines, and saved ones hold every setting.

    Args:
        settings: the checked command, with ``only_with``.
        given: nested settings of the command line, or keywords.

    Raises:
        UserError: naming the first one and what it goes with.
    """
    if getattr(settings, "resume", False):  # the run began with them
        return
    for name in _flat(given):
        for rule in settings.only_with:
            if (name == rule.setting or name.startswith(f"{rule.setting}.")) and not rule.used(settings):
                raise UserError(f"--{name}: is not used: {rule.reason}; leave it away")


def of_schedule_and_optimizer() -> tuple[OnlyWith, ...]:
    """Rules of the sections ``optim`` and ``schedule``."""
    return (
        OnlyWith("schedule.final_lr", lambda s: s.schedule.decay == "cosine", "it goes with --schedule.decay cosine"),
        OnlyWith("schedule.milestones", lambda s: s.schedule.decay == "multistep", "it goes with --schedule.decay multistep"),
        OnlyWith("optim.momentum", lambda s: s.optim.name != "adamw", "it goes with --optim.name lars and sgd"),
        OnlyWith("optim.betas", lambda s: s.optim.name == "adamw", "it goes with --optim.name adamw"),
        OnlyWith("optim.trust", lambda s: s.optim.name == "lars", "it goes with --optim.name lars"),
        OnlyWith("allow_changed", lambda s: s.resume or not s.allow_changed, "it goes with --resume"),
    )


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key
