"""How far the state that a backward pass uses is from the forward pass's, and what is said where it is too far.

A method that keeps or replays the steps has the state itself. One that solves it back, inverts the steps or reads an
interpolant has another, and may have lost it: the figure here tells, without a reference and without an f call.
"""

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from odegrad.contracts import ReconstructionObserver
from odegrad.errors import InaccurateGradientWarning, MissedToleranceWarning
from odegrad.methods.solvers.solver import OneStepSolver

WARNED_ERRORS = (0.01, 0.1)
"""The figures between which the limit lies: the first at tight tolerances, the second at loose ones and fixed steps."""
TOLERANCES_OFF = 1000.0
"""A state that is off by so many times the tolerance is worth a word, however small it is."""


@dataclass(frozen=True)
class Limits:
    """What a figure may be: above ``inaccurate`` the gradient is not to be trusted, above ``tolerance`` it misses that.

    ``tolerance`` is infinite on fixed steps, which ask for none.
    """

    inaccurate: float
    tolerance: float

    @classmethod
    def of(cls, solver: OneStepSolver, rtol: float | None = None, atol: float | None = None) -> "Limits":
        """Return those of ``solver``; ``rtol``, ``atol`` are a backward solve's own, of which the looser counts."""
        low, high = WARNED_ERRORS
        if not solver.adaptive:
            return cls(high, math.inf)
        control = solver.controller
        asked = max(control.rtol, control.atol, rtol or 0.0, atol or 0.0)
        return cls(min(high, max(low, TOLERANCES_OFF * asked)), TOLERANCES_OFF * asked)


def smallest_size(solver: OneStepSolver, d: int) -> float:
    """Return the norm of a state ``[d]`` below which ``atol`` alone allows an error that would be warned of."""
    # A state that is zero, or passes through it, has no relative error: what is left is what atol calls small.
    return solver.controller.atol / WARNED_ERRORS[0] * math.sqrt(d)


def relative_error(errors: Tensor, sizes: Tensor, smallest: float) -> Tensor:
    """Return the largest of ``errors [m]`` relative to ``sizes [m]``, a 0-d tensor; NaN if one of them is."""
    return (errors / sizes.clamp_min(smallest)).amax()


@torch.no_grad()
def start_error(found: Tensor, y0: Tensor, end: Tensor, smallest: float) -> Tensor:
    """Return how far ``found [d]`` is from the start ``y0``, relative to the larger of the ends, a 0-d tensor."""
    sizes = torch.maximum(torch.linalg.vector_norm(y0), torch.linalg.vector_norm(end))
    return relative_error(torch.linalg.vector_norm(found - y0), sizes, smallest)


def tell(figure: Tensor, solver: OneStepSolver, limits: Limits, remedy: Callable[[float, float], str]) -> None:
    """Read the figure, the one read of a backward pass; tell the solver's observer, and warn above a limit.

    ``remedy`` is given the figure and the limit that it passes, and returns what to do.
    """
    error = float(figure)
    listener: object = solver.observer
    if isinstance(listener, ReconstructionObserver):
        listener.reconstructed(error)
    told = f"the state that the backward pass used is off by {error:.1e} of its size"
    if not error <= limits.inaccurate:  # NaN is not
        warnings.warn(
            f"{told} (warned of above {limits.inaccurate:.1e}), so this gradient is not to be trusted: "
            f"{remedy(error, limits.inaccurate)}",
            InaccurateGradientWarning,
            stacklevel=2,
        )
    elif error > limits.tolerance:
        warnings.warn(
            f"{told}, more than {TOLERANCES_OFF:g} times the tolerance (warned of above {limits.tolerance:.1e}), so "
            f"this gradient misses that: {remedy(error, limits.tolerance)}",
            MissedToleranceWarning,
            stacklevel=2,
        )
