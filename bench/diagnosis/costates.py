"""The exact costate along a trajectory, and the trajectory's interpolant: what the bounds on errors compare.

Everything in float64, solved at a tolerance near rounding, output interval by output interval.
"""

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from odegrad.contracts import State
from odegrad.methods.gradients.naive import Naive
from odegrad.methods.solvers.chebyshev import ChebyshevNodes
from odegrad.methods.solvers.solver import make_solver
from odegrad.states import flatten, parts

TOLERANCE = 1e-11
"""Of what counts as exact here."""


@dataclass(frozen=True)
class Segment:
    """One interval between two outputs: times ``[M]``, and what there is at each, flat ``[M, batch, n]``."""

    times: Tensor
    states: Tensor
    costates: Tensor
    """``dL/dy`` just before the output at the end adds its own part, at the last time with it."""


class BatchedField(nn.Module):
    """A field on states ``[batch, n]``: the parts of a tuple side by side."""

    def __init__(self, field: nn.Module, like: State) -> None:
        super().__init__()
        self.field = field
        self._single = isinstance(like, Tensor)
        self._shapes = [p.shape[1:] for p in parts(like)]
        self._flat = self._single and len(self._shapes[0]) == 1

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        """Return ``dy/dt [batch, n]``."""
        dy = self.field(t, self.unflatten(y))
        return torch.as_tensor(dy) if self._flat else flatten(dy)

    def unflatten(self, y: Tensor) -> object:
        """Return ``y [..., n]`` as the field's own state ``[..., *state]``."""
        if self._flat:
            return y
        pieces = torch.split(y, [shape.numel() for shape in self._shapes], dim=-1)
        out = tuple(p.reshape(*y.shape[:-1], *shape) for p, shape in zip(pieces, self._shapes, strict=True))
        return out[0] if self._single else out


def segments(field: BatchedField, y0: Tensor, ts: Tensor, loss: Callable[[Any], Tensor], points: int) -> list[Segment]:
    """Return states and costates of ``y' = field(t, y)``, ``y(ts[0]) = y0 [batch, n]`` in every output interval.

    Parameters
    ----------
    field, y0, ts
        The problem, float64; outputs at ``ts [K]``.
    loss
        From the solution, as the inner field has it, to a scalar.
    points
        Times ``M`` in an interval, at least 2.

    Raises
    ------
    SolverError
        If it cannot be solved at tight tolerance.
    """
    solver = make_solver("dopri8", rtol=TOLERANCE, atol=TOLERANCE)
    pieces: list[list[tuple[Tensor, Tensor]]] = []
    outputs, start = [y0], y0.detach()
    for t0, t1 in itertools.pairwise(ts.tolist()):
        times = torch.linspace(t0, t1, points, dtype=torch.float64, device=y0.device)
        piece = []
        for a, b in itertools.pairwise(times):
            leaf = start.detach().requires_grad_()
            with torch.enable_grad():
                end = Naive()(field, solver, leaf, torch.stack([a, b]))[-1]
            piece.append((leaf, end))
            start = end.detach()
        pieces.append(piece)
        outputs.append(start)
    solution = torch.stack(outputs).detach().requires_grad_()
    with torch.enable_grad():
        (cotangents,) = torch.autograd.grad(loss(field.unflatten(solution)), solution)
    out: list[Segment] = []
    costate = torch.zeros_like(y0)
    for k in range(len(pieces) - 1, -1, -1):
        costate = costate + cotangents[k + 1]
        costates = [costate]
        for leaf, end in reversed(pieces[k]):
            (costate,) = torch.autograd.grad(end, leaf, costate)
            costates.append(costate)
        times = torch.linspace(float(ts[k]), float(ts[k + 1]), points, dtype=torch.float64, device=y0.device)
        states = torch.stack([leaf.detach() for leaf, _ in pieces[k]] + [outputs[k + 1]])
        out.append(Segment(times, states, torch.stack(costates[::-1])))
    return out[::-1]


def interpolated(field: BatchedField, segment: Segment, num_nodes: int) -> Tensor:
    """Return the interpolant in Chebyshev extrema of the segment's trajectory at its times, ``[M, batch, n]``.

    The interpolation method's ``z^``, from exact node states.
    """
    times = segment.times.cpu().numpy()
    nodes = ChebyshevNodes(float(times[0]), float(times[-1]), num_nodes)
    at_nodes = solved(field, segment.states[0], nodes.times)
    values = nodes.evaluate(at_nodes.reshape(num_nodes, -1), times.tolist())
    return values.reshape(segment.states.shape)


def solved(field: BatchedField, y0: Tensor, times: np.ndarray[Any, np.dtype[np.float64]]) -> Tensor:
    """Return the solution ``[m, batch, n]`` from ``y0`` at ``times [m]``, without a graph."""
    solver = make_solver("dopri8", rtol=TOLERANCE, atol=TOLERANCE)
    with torch.no_grad():
        ys = Naive()(field, solver, y0, torch.as_tensor(times, dtype=torch.float64, device=y0.device))
    return torch.as_tensor(ys)
