"""Stages of a Runge-Kutta step on flat states: without a graph, or with one that autograd walks back."""

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from odegrad.methods.solvers.dynamics import Dynamics, FlatField
from odegrad.methods.solvers.tableau import Tableau

CHAIN_ABOVE = 65_536
"""On a CPU, above this many floats a chain of ``add_`` is faster than one matrix-vector product over the stages."""


class StageBuffer:
    """The stages ``k [s, d]`` of a step, stage by stage in memory, and their combinations.

    Every method combines stages here, with or without a graph, so that all of them compute the same bits.
    """

    def __init__(self, tableau: Tableau, like: Tensor) -> None:
        self.tableau = tableau
        self.k = like.new_empty((tableau.stages, like.numel()))
        self.chained = like.device.type == "cpu" and like.numel() > CHAIN_ABOVE
        rows = [*tableau.a[1:], tableau.b]
        self.rows = [torch.tensor(r, dtype=like.dtype, device=like.device) for r in rows]
        self.error_row = None
        if tableau.error is not None:
            self.error_row = torch.tensor(tableau.error, dtype=like.dtype, device=like.device)
        self._weights = rows
        self.used = [[j for j, w in enumerate(r) if w != 0.0] for r in rows]
        self.used_rows = [r[u] for r, u in zip(self.rows, self.used, strict=True)]

    def combine(self, y: Tensor, row: int, h: float) -> Tensor:
        """Return ``y + h sum_j w_j k_j [d]``; ``row`` i is the input of stage i + 1, the last one the new state."""
        weights = self._weights[row]
        if not self.chained:
            return torch.addmv(y, self.k[: len(weights)].t(), self.rows[row], alpha=h)
        out = None
        for j in self.used[row]:
            step = h * weights[j]
            out = torch.add(y, self.k[j], alpha=step) if out is None else out.add_(self.k[j], alpha=step)
        return y.clone() if out is None else out

    def error(self, h: float) -> Tensor:
        """Return the estimate of the step's error ``h sum_i e_i k_i [d]``."""
        return torch.mv(self.k.t(), self.error_row).mul_(h)  # type: ignore[arg-type]

    def dense_weights(self, h: float, thetas: Sequence[float]) -> Tensor:
        """Return ``h b_i(theta)`` of the continuous extension, ``[m, s]``."""
        rows = [self.tableau.weights_at(theta) for theta in thetas]
        weights = torch.tensor(rows, dtype=torch.float64).mul_(h).to(self.k.dtype)
        return weights.to(self.k.device, non_blocking=True)

    def dense(self, y: Tensor, h: float, thetas: Sequence[float]) -> Tensor:
        """Return the continuous extension at ``thetas`` (fractions of the step), ``[m, d]``, in one product."""
        weights = self.dense_weights(h, thetas)
        return torch.addmm(y.expand(len(weights), -1), weights, self.k)

    def polynomial(self, y: Tensor, h: float) -> Tensor:
        """Return the coefficients ``[q + 1, d]`` of the continuous extension in powers of theta.

        Raises
        ------
        UsageError
            If the tableau has no continuous extension.
        """
        self.tableau.weights_at(1.0)
        weights = torch.tensor(self.tableau.dense, dtype=torch.float64).mul_(h).t()
        return torch.cat([y[None], weights.to(y.dtype).to(y.device, non_blocking=True) @ self.k])

    def times(self, t: float, h: float, t_next: float) -> list[float]:
        """Return the stages' times; those at the step's end are exactly ``t_next``."""
        return [t_next if c == 1.0 else t + c * h for c in self.tableau.c]


class Stages(Protocol):
    """Evaluates the stages of a step and combines them."""

    buffer: StageBuffer

    def prepare(self, times: Sequence[float]) -> None:
        """Hear of the times of the coming stages."""
        ...

    def evaluate(self, stage: int, t: float, y: Tensor) -> None:
        """Evaluate the stage at ``(t, y [d])``."""
        ...

    def combine(self, y: Tensor, row: int, h: float) -> Tensor:
        """Return ``y + h sum_j w_j k_j [d]``."""
        ...

    def dense(self, y: Tensor, h: float, thetas: Sequence[float]) -> Tensor:
        """Return the continuous extension at ``thetas``, ``[m, d]``."""
        ...

    def roll(self) -> None:
        """Make the last stage the first."""
        ...


class PlainStages:
    """Stages without a graph."""

    def __init__(self, dynamics: Dynamics, tableau: Tableau, like: Tensor) -> None:
        self.dynamics = dynamics
        self.buffer = StageBuffer(tableau, like)
        self.prepare = dynamics.prepare
        self.combine = self.buffer.combine
        self.dense = self.buffer.dense

    def evaluate(self, stage: int, t: float, y: Tensor) -> None:
        """Evaluate the stage at ``(t, y [d])``."""
        self.dynamics.write(t, y, self.buffer.k[stage], stage)

    def roll(self) -> None:
        """Make the last stage the first."""
        self.buffer.k[0].copy_(self.buffer.k[-1])


class GraphStages:
    """Stages with a graph; their values are those of ``PlainStages`` bit for bit."""

    def __init__(self, field: FlatField, tableau: Tableau, like: Tensor) -> None:
        self.field = field
        self.buffer = StageBuffer(tableau, like)
        self.ks: list[Tensor | None] = [None] * tableau.stages

    def prepare(self, times: Sequence[float]) -> None:
        """Need nothing before a step."""

    def evaluate(self, stage: int, t: float, y: Tensor) -> None:
        """Evaluate the stage at ``(t, y [d])`` and keep its graph."""
        k = self.field(t, y)
        self.buffer.k[stage].copy_(k.detach())
        self.ks[stage] = k

    def combine(self, y: Tensor, row: int, h: float) -> Tensor:
        """Return ``y + h sum_j w_j k_j [d]``."""
        with torch.no_grad():
            value = self.buffer.combine(y.detach(), row, h)
        used = [self.ks[j] for j in self.buffer.used[row]]
        weights = self.buffer.used_rows[row]
        out: Tensor = _Combination.apply(value, weights, h, y, *used)  # type: ignore[no-untyped-call]
        return out

    def dense(self, y: Tensor, h: float, thetas: Sequence[float]) -> Tensor:
        """Return the continuous extension at ``thetas``, ``[m, d]``."""
        weights = self.buffer.dense_weights(h, thetas)
        with torch.no_grad():
            values = torch.addmm(y.detach().expand(len(weights), -1), weights, self.buffer.k)
        out: Tensor = _DenseOutput.apply(values, weights, y, *self.ks)  # type: ignore[no-untyped-call]
        return out

    def roll(self) -> None:
        """Make the last stage the first; the others' graphs are let go."""
        self.buffer.k[0].copy_(self.buffer.k[-1])
        self.ks = [self.ks[-1], *([None] * (len(self.ks) - 1))]


class _Combination(torch.autograd.Function):
    """``y + h sum_j w_j k_j`` whose value is already known: only the pull-back is left to do."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, row: Tensor, h: float, y: Tensor, *ks: Tensor) -> Tensor:  # noqa: ARG004
        ctx.row, ctx.h = row, h
        return value

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grad,) = grads
        pulled = torch.outer(ctx.row * ctx.h, grad).unbind(0)
        return None, None, None, grad, *pulled


class _DenseOutput(torch.autograd.Function):
    """``y + sum_i w_mi k_i`` for rows m, whose values are already known."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, weights: Tensor, y: Tensor, *ks: Tensor) -> Tensor:  # noqa: ARG004
        ctx.weights = weights
        return values

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grad,) = grads
        return None, None, grad.sum(0), *(ctx.weights.t() @ grad).unbind(0)
