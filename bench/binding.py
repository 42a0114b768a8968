"""A gradient method bound to its solver, with or without the tap that an optimizer wants."""

import torch
from torch import Tensor

from odegrad.contracts import (
    CurvatureConsumer,
    CurvaturePasses,
    GradientMethod,
    Solve,
    Solver,
    StateT,
    Tap,
    Tappable,
    VectorField,
)
from odegrad.errors import UnsupportedError


def solve_with(method: GradientMethod, solver: Solver) -> Solve:
    """Return the method bound to its solver."""

    def solve(field: VectorField, y0: StateT, ts: Tensor) -> StateT:
        return method(field, solver, y0, ts)

    return solve


def tapped(method: GradientMethod, tap: Tap | None) -> GradientMethod:
    """Return ``method`` with ``tap`` watching, or as it is if there is none.

    Raises
    ------
    UnsupportedError
        If the method offers no taps.
    """
    if tap is None:
        return method
    if not isinstance(method, Tappable):
        raise UnsupportedError(
            f"gradient method {method.traits.name} offers no curvature samples, which this optimizer needs; "
            "use adjoint or interpolation with it, or a first-order optimizer"
        )
    return method.with_tap(tap)


def next_tap(optimizer: torch.optim.Optimizer) -> Tap | None:
    """Return the tap that the optimizer wants for the coming iteration, if any."""
    return optimizer.next_tap() if isinstance(optimizer, CurvatureConsumer) else None


def next_solve(optimizer: torch.optim.Optimizer, method: GradientMethod, solver: Solver, batch: object) -> Solve:
    """Return the solve of the coming iteration, with the tap that the optimizer wants.

    Where the optimizer takes its samples by passes of its own, it does so here, and the solve has no tap.

    Raises
    ------
    UnsupportedError
        If the optimizer needs curvature samples and the method offers none.
    """
    tap = next_tap(optimizer)
    solve = solve_with(tapped(method, tap), solver)
    if tap is not None and samples_by_itself(optimizer, solve, batch):
        solve = solve_with(method, solver)
    return solve


def samples_by_itself(optimizer: torch.optim.Optimizer, solve: Solve, batch: object) -> bool:
    """Let the optimizer take the samples of the tap on ``solve``, if it does so by passes of its own; say whether."""
    return isinstance(optimizer, CurvaturePasses) and optimizer.sample(solve, batch)
