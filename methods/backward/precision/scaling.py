"""Backward passes through float16: again with smaller cotangents where the field's own pull-back has overflowed."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from odegrad.contracts import ScaleObserver
from odegrad.errors import NonFiniteError, SolverError
from odegrad.methods.fields.precision import LowField
from odegrad.methods.solvers.solver import OneStepSolver

LOWER = 4
"""By how many powers of two cotangents are smaller in each further pass."""
MAX_PASSES = 4
"""Further passes at most: the target is then below 1, and what overflows is no matter of the scale."""


def pulled_until_finite(
    pull: Callable[[], Sequence[Tensor | None]],
    grad: Tensor,
    low: LowField | None,
    solver: OneStepSolver,
    *,
    watched: bool = False,
) -> Sequence[Tensor | None]:
    """Return the gradients that ``pull`` gives, by smaller cotangents of a float16 field where they are not finite.

    One read of the device per backward pass tells, and only with float16.

    Parameters
    ----------
    pull
        Goes back through the solve; may be called again.
    grad
        The cotangent of the solution.
    low, solver
        What calls the field, and whose observer hears of the scale.
    watched
        Whether somebody sees what ``pull`` does on its way, and must not see it twice.

    Raises
    ------
    NonFiniteError
        If they are not finite at any scale though ``grad`` is.
    """
    scale = None if low is None else low.scale
    if scale is None:
        return pull()
    scale.lowered, retries = 0, 0
    while (found := _finite(pull, last=watched or retries == MAX_PASSES)) is None:
        if not _all_finite([grad]):
            return pull()
        if watched or retries == MAX_PASSES:
            raise NonFiniteError(
                "gradient: the pull-back through the field overflows in float16, whose largest number is 65504"
                + (", and what watches it cannot see it twice" if watched else " whatever its scale")
                + "; take precision = 'bfloat16', or let the field compute its largest layers in float32"
            )
        retries += 1
        scale.lowered += LOWER
    observer: object = solver.observer
    if isinstance(observer, ScaleObserver):
        observer.scaled(scale.log2 or 0, retries)
    return found


def _finite(pull: Callable[[], Sequence[Tensor | None]], *, last: bool) -> Sequence[Tensor | None] | None:
    """Return what ``pull`` gives if it is finite; None if it is not, or if its own solve has failed before the last."""
    try:
        found = pull()
    except SolverError:  # of a backward solve, whose steps meet the infinite cotangent
        if last:
            raise
        return None
    return found if _all_finite(found) else None


def _all_finite(found: Sequence[Tensor | None]) -> bool:
    """Return whether all numbers are finite: one read of the device."""
    norms = [torch.linalg.vector_norm(x.detach(), torch.inf) for x in found if x is not None and x.numel()]
    return not norms or bool(torch.isfinite(torch.stack([n.to(norms[0]) for n in norms])).all())
