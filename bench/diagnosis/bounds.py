"""Bounds (A) to (E) of ``growth`` on one problem, each beside what is observed: does it hold, and how tight.

Observed is the interpolation alone: node states, costates and integrals are solved near rounding.
"""

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from odegrad.diagnosis.costates import TOLERANCE, BatchedField, Segment, interpolated, solved
from odegrad.diagnosis.growth import (
    accumulated_backward,
    costate_defect,
    costate_sandwich,
    interpolation_error_bound,
    lipschitz_costate_bound,
    lipschitz_of_jacobian,
    parameter_gradient_bound,
    parameter_sensitivity,
)
from odegrad.diagnosis.trajectory import TrajectoryNorms, log_norms
from odegrad.methods.gradients.naive import Naive
from odegrad.methods.solvers.chebyshev import ChebyshevNodes
from odegrad.methods.solvers.solver import make_solver

Letter = Literal["A", "B", "C", "D", "E"]
MEANINGS: dict[Letter, str] = {
    "A": "error of the costate at the start, by the defect along the interpolant",
    "B": "size of the costate at the start",
    "C": "error of the costate at the start, by Lipschitz constants",
    "D": "error of the gradient by the parameters",
    "E": "error of the interpolated state, by its Chebyshev coefficients",
}
SENSITIVITY_NUMBERS = 1 << 25
"""(D) forms ``df/dtheta`` of every sample and time in turn; above so many numbers it is left out."""
STATE_INTERVALS = 4
"""(E) is taken in so many intervals at the most, evenly spread: each needs the trajectory at many more times."""
LOOSE = 1e-3
"""Relative accuracy of logarithmic norms that are found from products."""
ROUNDING = 1e3 * TOLERANCE
"""An observed error below this is that of the reference, not of the interpolation."""


@dataclass(frozen=True)
class Bound:
    """One bound: the figures of the sample at which it is tightest, relative to the exact quantity's size."""

    letter: Letter
    num_nodes: int
    """0 for (B), which knows of none."""
    bound: float
    observed: float
    holds: bool
    """For every sample, and for (B) at every time, from below and from above."""

    @property
    def ratio(self) -> float:
        """Return how many times the bound is as large as what is observed."""
        return self.bound / self.observed if self.observed > 0 else float("inf")


class _Costate(nn.Module):
    """``da/ds = J(z^(t))^T a`` backward in ``s = t1 - t``, along an interpolant."""

    def __init__(self, field: BatchedField, nodes: ChebyshevNodes, values: Tensor) -> None:
        super().__init__()
        self.field, self.nodes, self.values = field, nodes, values

    def forward(self, s: Tensor, a: Tensor) -> Tensor:
        """Return the derivative of ``a [batch, n]``."""
        t = self.nodes.t1 - float(s) * (1.0 if self.nodes.t1 > self.nodes.t0 else -1.0)
        z = self.nodes.evaluate(self.values, [t])[0].reshape(a.shape).detach().requires_grad_()
        with torch.enable_grad():
            dy = self.field(torch.as_tensor(t, dtype=a.dtype, device=a.device), z)
            (pulled,) = torch.autograd.grad(dy, z, a, materialize_grads=True)
        return torch.as_tensor(pulled)


def interpolation_bounds(
    field: BatchedField, pieces: Sequence[Segment], norms: Sequence[TrajectoryNorms], num_nodes: int
) -> tuple[Bound, ...]:
    """Return (A), (C), (D) and (E) on one problem with ``num_nodes`` Chebyshev extrema in every output interval.

    (C) needs a single interval, (C), (D) and (E) a state small enough for dense matrices; what does not apply is left
    out.

    Parameters
    ----------
    field
        The dynamics on flat states.
    pieces
        States and exact costates of every interval, at no fewer than twice as many times as nodes.
    norms
        Of every interval, at the same times.
    num_nodes
        At least 2.
    """
    near = [interpolated(field, piece, num_nodes) for piece in pieces]
    mu = [log_norms(field, p.times, z, tolerance=LOOSE).mu_2 for p, z in zip(pieces, near, strict=True)]
    costates = _interpolated_costates(field, pieces, num_nodes)
    out = [_of_costate(field, pieces, near, mu, costates, num_nodes)]
    if norms[0].dense:
        if len(pieces) == 1:
            mu_max = torch.maximum(mu[0], norms[0].mu_2).amax(0)
            out.append(_by_lipschitz(field, pieces[0], near[0], mu_max, costates[0], num_nodes))
        parameters = sum(p.numel() for p in field.parameters() if p.requires_grad)
        if 0 < parameters * pieces[0].states[0].numel() <= SENSITIVITY_NUMBERS:
            out.append(_of_parameters(field, pieces, near, costates, num_nodes))
        out.append(_of_states(field, pieces, near, num_nodes))
    return tuple(out)


def costate_bound(pieces: Sequence[Segment], norms: Sequence[TrajectoryNorms]) -> Bound:
    """Return (B): in every interval, from its own end; the figures are the upper bound's at the start of the first."""
    holds = True
    for piece, of_piece in zip(pieces, norms, strict=True):
        size = _size(piece.costates).cpu()
        low, high = costate_sandwich(of_piece.times, of_piece.mu_2, of_piece.mu_2_minus, size[-1])
        slack = 1.0 + (1e-6 if of_piece.dense else LOOSE * abs(float(of_piece.times[-1] - of_piece.times[0])) * 10.0)
        holds &= bool(((low <= size * slack) & (size <= high * slack)).all())
    size = _size(pieces[0].costates).cpu()
    high = costate_sandwich(norms[0].times, norms[0].mu_2, norms[0].mu_2_minus, size[-1])[1]
    return dataclasses.replace(_tightest("B", 0, high[0], size[0], size[0]), holds=holds)


def _size(x: Tensor) -> Tensor:
    """Return the norm of each sample, ``[..., batch]``."""
    size: Tensor = torch.linalg.vector_norm(x, dim=-1)
    return size


def _tightest(letter: Letter, num_nodes: int, bound: Tensor, observed: Tensor, size: Tensor) -> Bound:
    """Return the bound at the sample where it is tightest; all ``[batch]``."""
    holds = bool((observed <= bound * (1 + 1e-6) + ROUNDING * size).all())
    size = size.clamp_min(torch.finfo(size.dtype).tiny)
    place = int((bound / observed.clamp_min(torch.finfo(size.dtype).tiny)).argmin())
    return Bound(letter, num_nodes, float((bound / size)[place]), float((observed / size)[place]), holds)


def _interpolated_costates(field: BatchedField, pieces: Sequence[Segment], num_nodes: int) -> list[Tensor]:
    """Return ``a^ [M, batch, n]`` of every interval, from the same end values as the exact costate."""
    solver = make_solver("dopri8", rtol=TOLERANCE, atol=TOLERANCE)
    found: list[Tensor] = []
    carried = torch.zeros_like(pieces[-1].costates[-1])
    later = torch.zeros_like(carried)
    for piece in reversed(pieces):
        end = carried + piece.costates[-1] - later
        nodes = ChebyshevNodes(float(piece.times[0]), float(piece.times[-1]), num_nodes)
        values = solved(field, piece.states[0], nodes.times).reshape(num_nodes, -1)
        s = (piece.times[-1] - piece.times).abs().flip(0)
        with torch.no_grad():
            a = torch.as_tensor(Naive()(_Costate(field, nodes, values), solver, end, s)).flip(0)
        found.append(a)
        carried, later = a[0], piece.costates[0]
    return found[::-1]


def _of_costate(
    field: BatchedField,
    pieces: Sequence[Segment],
    near: Sequence[Tensor],
    mu_near: Sequence[Tensor],
    costates: Sequence[Tensor],
    num_nodes: int,
) -> Bound:
    """Return (A): intervals add up, and what one adds grows through those before it."""
    total = torch.zeros(pieces[0].states.shape[1], dtype=torch.float64)
    for piece, z_near, mu in zip(reversed(pieces), reversed(near), reversed(mu_near), strict=True):
        rate = costate_defect(field, piece.times, piece.states, z_near, piece.costates).cpu()
        times = piece.times.cpu()
        grown = torch.exp(torch.trapezoid(mu, (times - times[0]).abs(), dim=0))
        total = accumulated_backward(times, mu, rate)[0] + grown * total
    error = _size(costates[0][0] - pieces[0].costates[0]).cpu()
    return _tightest("A", num_nodes, total, error, _size(pieces[0].costates[0]).cpu())


def _by_lipschitz(
    field: BatchedField, piece: Segment, near: Tensor, mu_max: Tensor, costates: Tensor, num_nodes: int
) -> Bound:
    """Return (C)."""
    eps = _size(near - piece.states).amax(0)
    duration = abs(float(piece.times[-1] - piece.times[0]))
    lipschitz = lipschitz_of_jacobian(field, piece.times, piece.states, near)
    bound = lipschitz_costate_bound(lipschitz.cpu(), eps.cpu(), duration, mu_max, _size(piece.costates[-1]).cpu())
    return _tightest(
        "C", num_nodes, bound, _size(costates[0] - piece.costates[0]).cpu(), _size(piece.costates[0]).cpu()
    )


def _of_parameters(
    field: BatchedField, pieces: Sequence[Segment], near: Sequence[Tensor], costates: Sequence[Tensor], num_nodes: int
) -> Bound:
    """Return (D): the batch's parameter gradient as a whole, intervals added up."""
    bound, exact, error = (torch.zeros(1, dtype=torch.float64) for _ in range(3))
    for piece, z_near, a_near in zip(pieces, near, costates, strict=True):
        norms, lipschitz = parameter_sensitivity(field, piece.times, piece.states, z_near)
        eps, off, size = (
            _size(z_near - piece.states).amax(0), _size(a_near - piece.costates), _size(piece.costates),
        )  # fmt: skip
        bound = bound + parameter_gradient_bound(piece.times, off, norms, size, lipschitz, eps).cpu()
        true = _parameter_integral(field, piece.times, piece.states, piece.costates)
        exact = exact + true
        error = error + _parameter_integral(field, piece.times, z_near, a_near) - true
    return _tightest("D", num_nodes, bound, error.norm()[None], exact.norm()[None])


def _parameter_integral(field: BatchedField, times: Tensor, states: Tensor, costates: Tensor) -> Tensor:
    """Return ``int f_theta^T a |dt|``, one vector on the CPU."""
    rows = torch.stack([_pulled(field, t, z, a) for t, z, a in zip(times, states, costates, strict=True)])
    return torch.trapezoid(rows, (times - times[0]).abs(), dim=0).cpu()


def _pulled(field: BatchedField, t: Tensor, z: Tensor, a: Tensor) -> Tensor:
    """Return ``f_theta^T a`` summed over samples, one vector."""
    parameters = [p for p in field.parameters() if p.requires_grad]
    with torch.enable_grad():
        grads = torch.autograd.grad(field(t, z), parameters, a, allow_unused=True, materialize_grads=True)
    return torch.cat([g.reshape(-1) for g in grads])


def _of_states(field: BatchedField, pieces: Sequence[Segment], near: Sequence[Tensor], num_nodes: int) -> Bound:
    """Return (E): the largest distance of interpolant and trajectory, the tightest interval of some."""
    found = []
    every = math.ceil(len(pieces) / STATE_INTERVALS)
    for piece, z_near in zip(pieces[::every], near[::every], strict=True):
        start, count = float(piece.times[0]), len(piece.states[0])

        def trajectory(at: np.ndarray, piece: Segment = piece, start: float = start) -> np.ndarray:
            order = np.argsort(np.abs(at - start))
            values = solved(field, piece.states[0], np.concatenate([[start], at[order][1:]]))
            out = np.empty((len(at), piece.states[0].numel()))
            out[order] = values.reshape(len(at), -1).cpu().numpy()
            return out

        each = interpolation_error_bound(trajectory, start, float(piece.times[-1]), num_nodes)
        bound = torch.from_numpy(each).reshape(count, -1).norm(dim=1)
        eps = _size(z_near - piece.states).amax(0).cpu()
        found.append(_tightest("E", num_nodes, bound, eps, _size(piece.states).amax(0).cpu()))
    tightest = min(found, key=lambda b: b.ratio)
    return Bound("E", num_nodes, tightest.bound, tightest.observed, all(b.holds for b in found))
