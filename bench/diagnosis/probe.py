"""The growth of errors on a problem's probe batch in a few numbers: what a record keeps."""

from dataclasses import dataclass

import torch

from odegrad.contracts import Problem
from odegrad.diagnosis.costates import BatchedField
from odegrad.diagnosis.trajectory import log_norms
from odegrad.methods.gradients.naive import Naive
from odegrad.methods.solvers.solver import make_solver
from odegrad.states import flatten

TIMES = 5
"""Times along the trajectory, its ends among them."""
PROBE_TOLERANCE = 1e-6
NORM_TOLERANCE = 1e-3
"""Relative accuracy of norms that are found from products."""


@dataclass(frozen=True)
class LargestNorms:
    """The largest over times and samples, in 1/time, and the largest integral over samples."""

    mu_2: float
    mu_2_minus: float
    integral: float
    """``int mu_2(J) dt``: the exponent of what differences between solutions may grow to."""
    integral_minus: float
    """``int mu_2(-J) dt``: the same backward in time, as for an adjoint method that solves the state back at once."""


def _last(ts: torch.Tensor) -> float:
    """Return the last time of ``ts``, ``[K]`` or ``[batch, K]``: of all rows the one furthest from the start."""
    first = ts.flatten()[0]
    return float(ts.flatten()[(ts.flatten() - first).abs().argmax()])


def largest_norms(problem: Problem) -> LargestNorms:
    """Return the logarithmic norms along the first solve of a float64 problem's probe batch.

    Raises
    ------
    NonFiniteError
        If a Jacobian is not finite; the message names time and sample.
    """
    field, y0, ts = problem.dynamics(problem.probe_batch())
    flat = BatchedField(field, y0)  # type: ignore[arg-type]
    # Of times of each sample's own the first is where they all start, the last where the last one ends.
    times = torch.linspace(float(ts.flatten()[0]), _last(ts), TIMES, dtype=torch.float64, device=ts.device)
    solver = make_solver("dopri5", rtol=PROBE_TOLERANCE, atol=PROBE_TOLERANCE)
    with torch.no_grad():
        ys = Naive()(flat, solver, flatten(y0), times)
    norms = log_norms(flat, times, ys, tolerance=NORM_TOLERANCE, with_norm=False)
    return LargestNorms(
        mu_2=norms.largest(),
        mu_2_minus=float(norms.mu_2_minus.amax()),
        integral=float(norms.integral("mu_2").amax()),
        integral_minus=float(norms.integral("mu_2_minus").amax()),
    )
