"""Simplified Newton iteration on one stage (Hairer and Wanner, Solving ODEs II, IV.8)."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from odegrad.methods.solvers.implicit.linear import Jacobians, System

MAX_NEWTON = 10
AT_ONCE = 1e-3
"""Part of the tolerance at which the first correction ends the iteration, whose rate is not known yet."""
DIVERGED = 2.0
"""Rate above which the iteration is given up."""
ROUNDING_FLOOR = 32.0
"""Machine epsilons of the stage below which a correction may be rounding: 8 are less than what the sums inside of a
neural field leave, and in float32 with a tight atol such a stage is then never solved, however short the step."""
STALLED = 1e3
"""Machine epsilons of the stage up to which corrections that stand still are told to be rounding of the field."""
STANDS_STILL_RATE = 0.25
"""Rate from which on such a correction is: a correction of the iteration's own would get smaller."""
LINEAR_PART = 1e-2
"""Part of Newton's tolerance to which GMRES solves for a correction."""


class Stage(NamedTuple):
    """A stage as the iteration has left it."""

    y: Tensor
    """``Y [batch, n, 1]``."""
    iterations: int
    """f calls, and solves."""
    converged: bool
    finite: bool
    stalled: float | None = None
    """Where the corrections of an unsolved stage stand still at the field's rounding: at how many of ``kappa``."""


class Newton:
    """The iteration ``dY = W^-1 (B + h gamma f(Y) - Y)`` with the ``W`` of the step's start.

    It ends when ``theta / (1 - theta) |dY|`` is at most ``kappa``, where ``theta`` is the rate of the last two
    corrections and the norm the largest sample's root mean square over ``atol + rtol |y|``; it is the same number of
    iterations for the whole batch, and a function of time, size and start alone.

    Parameters
    ----------
    jacobians
        Of the solve, with the field and how its states divide.
    y
        The state ``[batch, n, 1]`` at the start of the step.
    tolerances
        ``rtol`` and ``atol``.
    kappa
        The tolerance.
    """

    def __init__(self, jacobians: Jacobians, y: Tensor, tolerances: tuple[float, float], kappa: float) -> None:
        rtol, atol = tolerances
        self.jacobians = jacobians
        self.field, self.samples = jacobians.field, jacobians.samples
        self.scale = y.abs().mul_(rtol).add_(atol)
        self.kappa = kappa
        self._y, self._atol = y, atol
        self._suspect: float | None = None

    def solve(self, time: Tensor, base: Tensor, z: Tensor, system: System, hg: float) -> Stage:
        """Return the stage ``Y = base + z`` with ``z = hg f(t, Y)``; ``z`` is the first guess, and written over by it.

        ``time`` is the 0-d tensor that the field sees.
        """
        before, finite = math.inf, True
        for iteration in range(1, MAX_NEWTON + 1):
            y = torch.add(base, z)
            # Corrections go to z, not to Y: k = z / (h gamma) then keeps its digits where h is small.
            change = system.solve(torch.sub(z, self.samples.call(self.field, time, y), alpha=hg))
            z.sub_(change)
            size = self._norm(change)
            finite, rate, before = math.isfinite(size), size / before, size
            if not finite:
                break
            # Small beside the largest number of the state may be large beside another: rounding is what stands still.
            stands = iteration > 1 and rate >= STANDS_STILL_RATE
            if stands and self._is_suspect(size) and self._is_rounding(change, y):
                return Stage(torch.add(base, z), iteration, converged=True, finite=True)
            if iteration > 1 and rate >= DIVERGED:
                break
            # The rate is known from the second correction on; of the first it is 0 by the infinite one before.
            small = iteration > 1 and rate < 1.0 and rate / (1.0 - rate) * size <= self.kappa
            if small or size <= AT_ONCE * self.kappa:
                return Stage(torch.add(base, z), iteration, converged=True, finite=True)
        # Of rounding no rate can be known, below or above the one that is given up at.
        near = finite and iteration > 1 and rate >= STANDS_STILL_RATE and self._is_rounding(change, y, STALLED)
        return Stage(y, iteration, converged=False, finite=finite, stalled=size / self.kappa if near else None)

    def _norm(self, change: Tensor) -> float:
        """Return the largest root mean square of a sample, in units of the scale: a read of the device."""
        return self.jacobians.largest_sample(torch.div(change, self.scale))

    def _is_suspect(self, size: float) -> bool:
        """Return whether a correction may be rounding; whether it is costs a look at the stage itself."""
        if self._suspect is None:
            rounding = ROUNDING_FLOOR * torch.finfo(self._y.dtype).eps
            self._suspect = 100.0 * rounding * (1.0 + float(torch.linalg.vector_norm(self._y, torch.inf))) / self._atol
        return size <= self._suspect

    def _is_rounding(self, change: Tensor, y: Tensor, epsilons: float = ROUNDING_FLOOR) -> bool:
        of_change, of_stage = (torch.linalg.vector_norm(x, torch.inf) for x in (change, y))
        return float(of_change) <= epsilons * torch.finfo(y.dtype).eps * float(of_stage)
