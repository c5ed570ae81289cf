"""How many steps a method pre-trains, so that all get the same budget."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from mcl.config.pretrain import PretrainSettings
from mcl.errors import UserError
from mcl.methods.flops import step_flops
from mcl.studies.identity import digest, what_matters
from mcl.studies.study import Budget

_COUNTED: dict[str, int] = {}  # identity of a step -> its FLOPs: counting takes seconds


@dataclass(frozen=True)
class Length:
    """A pre-training's length.

    Attributes:
        flops: of all steps, forward and backward.
    """

    steps: int
    images: int
    flops: int


class Budgets:
    """Lengths by a study's budget.

    Args:
        settings_of: gives a start's settings by its name, for ``budget.like``.
    """

    def __init__(self, budget: Budget, settings_of: Callable[[str], PretrainSettings]) -> None:
        self.budget, self.settings_of = budget, settings_of

    def length(self, settings: PretrainSettings, amount: int, share: float = 1.0) -> Length:
        """Of the method with these settings, for a share of the budget's amount at this place.

        Raises:
            UserError: the budget does not pay for one step.
        """
        cost = self._cost(settings)
        steps = round(share * self.total(amount) / cost)
        if steps < 1:
            raise UserError(
                f"budget.amounts: {share * self.total(amount):.3g} {self.budget.equal} are less than half a step of "
                f"{settings.method.name}, which takes {cost:.3g}"
            )
        return self.of_steps(settings, steps)

    def of_steps(self, settings: PretrainSettings, steps: int) -> Length:
        """So many steps of a method."""
        return Length(steps, steps * settings.batch, steps * self.flops(settings))

    def total(self, amount: int) -> float:
        """FLOPs, images or steps that every method gets."""
        given = self.budget.amounts[amount]
        return given * self._cost(self.settings_of(self.budget.like)) if self.budget.like else given

    def flops(self, settings: PretrainSettings) -> int:
        """Of one step, counted on tensors without data."""
        key = digest(what_matters(settings, {"data": None, "schedule": None, "seed": None, "views": None, "optim": None}))
        if key not in _COUNTED:
            _COUNTED[key] = sum(step_flops(settings).values())
        return _COUNTED[key]

    def _cost(self, settings: PretrainSettings) -> float:
        """Of a step, in what is equal."""
        return {"flops": lambda: self.flops(settings), "images": lambda: settings.batch, "steps": lambda: 1}[self.budget.equal]()
