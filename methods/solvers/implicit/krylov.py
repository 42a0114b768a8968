"""Restarted GMRES (Saad and Schultz 1986) for systems too large for a matrix: products only, memory linear in them."""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

RESTART = 20
"""Vectors in a Krylov space before it is given up for a new one."""


class Found(NamedTuple):
    """What GMRES has come to."""

    x: Tensor
    products: int
    converged: bool


def gmres(apply: Callable[[Tensor], Tensor], r: Tensor, tolerance: float, cycles: int) -> Found:
    """Solve ``A x = r`` from ``x = 0`` until the residual's Euclidean norm is at most ``tolerance``.

    Parameters
    ----------
    apply
        ``v -> A v`` for vectors ``[d]``.
    r
        The right-hand side, ``[d]``.
    tolerance
        Absolute, in the units of ``r``.
    cycles
        Most spaces of ``RESTART`` vectors.
    """
    x, residual, products = torch.zeros_like(r), r, 0
    size = float(torch.linalg.vector_norm(r))
    for cycle in range(cycles):
        if not size > tolerance:
            return Found(x, products, converged=size <= tolerance)
        step, used, estimate = _cycle(apply, residual, size, tolerance)
        x, products = x + step, products + used
        if estimate <= tolerance and cycle == 0:
            # The recurrence holds the residual to rounding in the first space, where it starts from r itself.
            return Found(x, products, converged=True)
        residual, products = r - apply(x), products + 1
        size = float(torch.linalg.vector_norm(residual))
    return Found(x, products, converged=size <= tolerance)


def _cycle(
    apply: Callable[[Tensor], Tensor], residual: Tensor, size: float, tolerance: float
) -> tuple[Tensor, int, float]:
    """Return the correction of one space, its products, and the residual's norm by recurrence."""
    space = residual.new_empty((RESTART + 1, residual.numel()))
    torch.div(residual, size, out=space[0])
    columns: list[list[float]] = []
    rotations: list[tuple[float, float]] = []
    rhs = [size]
    for j in range(RESTART):
        w = apply(space[j])
        basis = space[: j + 1]
        # Gram-Schmidt twice: once is not orthogonal to rounding, and a third time changes nothing (Giraud et al. 2005).
        first = torch.mv(basis, w)
        w = torch.addmv(w, basis.t(), first, alpha=-1.0)
        second = torch.mv(basis, w)
        w = torch.addmv(w, basis.t(), second, alpha=-1.0)
        *column, height = torch.cat([first.add_(second), torch.linalg.vector_norm(w)[None]]).tolist()
        diagonal = _rotated(column, height, rotations)
        columns.append(column)
        cosine, sine = rotations[-1]
        rhs += [-sine * rhs[j]]
        rhs[j] *= cosine
        if not math.isfinite(diagonal) or height == 0.0 or abs(rhs[-1]) <= tolerance:
            break
        torch.div(w, height, out=space[j + 1])
    weights = _back_substituted(columns, rhs)
    step = torch.mv(space[: len(weights)].t(), residual.new_tensor(weights))
    return step, len(columns), abs(rhs[-1])


def _rotated(column: list[float], height: float, rotations: list[tuple[float, float]]) -> float:
    """Apply the rotations to a new column of the Hessenberg matrix in place, add one, return the new diagonal."""
    for i, (cosine, sine) in enumerate(rotations):
        column[i], column[i + 1] = (
            cosine * column[i] + sine * column[i + 1],
            cosine * column[i + 1] - sine * column[i],
        )
    length = math.hypot(column[-1], height)
    rotations.append((column[-1] / length, height / length) if length > 0.0 else (1.0, 0.0))
    column[-1] = length
    return length


def _back_substituted(columns: list[list[float]], rhs: list[float]) -> list[float]:
    """Return the solution of the upper triangular system."""
    m = len(columns)
    out = [0.0] * m
    for i in range(m - 1, -1, -1):
        total = rhs[i] - sum(columns[j][i] * out[j] for j in range(i + 1, m))
        out[i] = total / columns[i][i] if columns[i][i] != 0.0 else math.inf
    return out
