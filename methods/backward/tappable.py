"""A method that offers taps, on the shared loop."""

import copy
import dataclasses
from dataclasses import dataclass
from typing import Self

from odegrad.contracts import Tap
from odegrad.methods.backward.entry import SharedLoopMethod
from odegrad.methods.solvers.solver import OneStepSolver

ONE_TIME = "a tap is shown one time for the whole batch, and with batch = 'per_sample' each sample has its own"
"""Why a method does not go with a tap there."""


@dataclass(frozen=True)
class TappableMethod(SharedLoopMethod):
    """A method that offers taps: where, ``traits.taps`` says. A tap is an object, so it is none of the options."""

    tap: Tap | None = dataclasses.field(default=None, compare=False, init=False)

    def refuses_rows(self, solver: OneStepSolver) -> str | None:
        """Return why this method cannot give every sample steps of its own, or None if it can."""
        return f"{ONE_TIME}; use batch = 'joint'" if self.tap is not None else self.refuses_rows_untapped(solver)

    def refuses_rows_untapped(self, solver: OneStepSolver) -> str | None:
        """Return the same where nothing watches."""
        return super().refuses_rows(solver)

    def with_tap(self, tap: Tap) -> Self:
        """Return the same method with ``tap`` watching its backward pass."""
        watched = copy.copy(self)
        object.__setattr__(watched, "tap", tap)
        return watched


@dataclass(frozen=True)
class TappableRowsMethod(TappableMethod):
    """A method that offers taps, and gives every sample steps of its own where nothing watches."""

    def refuses_rows_untapped(self, solver: OneStepSolver) -> str | None:  # noqa: ARG002
        """Return None: every sample may have steps of its own."""
        return None
