"""What a number, a start or a tolerance must be before a solve begins."""

import math
import warnings

import torch
from torch import Tensor

from odegrad.errors import NonFiniteError, UsageError
from odegrad.methods.fields.precision import unit_roundoff
from odegrad.methods.solvers.solver import OneStepSolver


def check_positive(name: str, value: float | None) -> None:
    """Raise UsageError unless ``value`` is None or a positive finite number."""
    if value is not None and not (math.isfinite(value) and value > 0):
        raise UsageError(f"{name}: expected a positive number, got {value!r}")


def check_numbers(solver: OneStepSolver, y0: Tensor) -> None:
    """Refuse a start that is not finite (seen without a device read on a CPU only), warn of a hopeless tolerance."""
    # On a GPU this would be a read of its own; an adaptive solve's first norms find it out there.
    if y0.device.type == "cpu" and not bool(torch.isfinite(y0.detach()).all()):
        raise NonFiniteError("y0: expected finite numbers, got NaN or infinity; check what computes the initial state")
    warn_of_tolerance(solver, y0.dtype)


def warn_of_tolerance(solver: OneStepSolver, dtype: torch.dtype) -> None:
    """Warn of a tolerance that ``dtype`` cannot hold."""
    eps = torch.finfo(dtype).eps
    rtol = solver.controller.rtol
    if solver.adaptive and solver.implicit and 4 * eps <= rtol < 80 * eps:
        warnings.warn(
            f"rtol = {rtol:g}: the linear systems of solver {solver.name} are known to about {40 * eps:.1g} in "
            f"{dtype}, so a tolerance below {80 * eps:.1g} gains nothing: use float64 or loosen rtol",
            stacklevel=4,
        )
    if solver.adaptive and solver.precision and rtol < unit_roundoff(solver.precision):
        warnings.warn(
            f"rtol = {rtol:g} is below u_L = {unit_roundoff(solver.precision):.2g}, to which a field in "
            f"{solver.precision} rounds: steps become short and the result no more exact; loosen rtol, or leave "
            "precision out",
            stacklevel=4,
        )
    if solver.adaptive and rtol < 4 * eps:
        warnings.warn(
            f"rtol = {rtol:g} is below what {dtype} can hold (4 eps = {4 * eps:.2g}); "
            "the step size will collapse: use float64 or loosen rtol",
            stacklevel=4,
        )
