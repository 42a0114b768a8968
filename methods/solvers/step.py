"""One Runge-Kutta step on flat states: without a graph, or with one that autograd walks back."""

from collections.abc import Sequence
from dataclasses import dataclass
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

    def dense(self, y: Tensor, h: float, thetas: Sequence[float]) -> Tensor:
        """Return the continuous extension at ``thetas`` (fractions of the step), ``[m, d]``, in one product."""
        rows = [self.tableau.weights_at(theta) for theta in thetas]
        weights = torch.tensor(rows, dtype=torch.float64).mul_(h).to(y.dtype).to(y.device, non_blocking=True)
        return torch.addmm(y.expand(len(rows), -1), weights, self.k)

    def times(self, t: float, h: float, t_next: float) -> list[float]:
        """Return the stages' times; those at the step's end are exactly ``t_next``."""
        return [t_next if c == 1.0 else t + c * h for c in self.tableau.c]


@dataclass(frozen=True)
class Step:
    """An accepted step, as seen while the loop stands on it: ``stages`` are overwritten by the next one."""

    t: float
    h: float
    t_next: float
    y: Tensor
    y_next: Tensor
    stages: StageBuffer

    def at(self, times: Sequence[float]) -> Tensor:
        """Return the solution at ``times`` inside the step, ``[m, d]``, from the continuous extension."""
        return self.stages.dense(self.y, self.h, [(time - self.t) / self.h for time in times])


class Stepper(Protocol):
    """Makes the steps of one solve."""

    stages: StageBuffer

    def begin(self, t: float, y: Tensor) -> None:
        """Evaluate the first stage at ``(t, y [d])``, unless it is known."""
        ...

    def attempt(self, t: float, h: float, t_next: float, y: Tensor) -> Tensor:
        """Return the state ``[d]`` after a step from ``y``; the first stage is known or evaluated."""
        ...

    def accept(self) -> None:
        """Stand on the new state: its first stage is the last one just evaluated, or is not known yet."""
        ...


class PlainStepper:
    """Steps without a graph."""

    def __init__(self, dynamics: Dynamics, tableau: Tableau, like: Tensor) -> None:
        self.dynamics = dynamics
        self.stages = StageBuffer(tableau, like)
        self.fresh = True

    def begin(self, t: float, y: Tensor) -> None:
        """Evaluate the first stage."""
        if self.fresh:
            self.dynamics.prepare([t])
            self.dynamics.write(t, y, self.stages.k[0], 0)
            self.fresh = False

    def attempt(self, t: float, h: float, t_next: float, y: Tensor) -> Tensor:
        """Return the state after the step."""
        stages, tableau = self.stages, self.stages.tableau
        times = stages.times(t, h, t_next)
        self.dynamics.prepare(times)
        if self.fresh:
            self.dynamics.write(t, y, stages.k[0], 0)
            self.fresh = False
        z = y
        for i in range(1, tableau.stages):
            z = stages.combine(y, i - 1, h)
            self.dynamics.write(times[i], z, stages.k[i], i)
        return z if tableau.fsal else stages.combine(y, tableau.stages - 1, h)

    def accept(self) -> None:
        """Move the last stage to the front, or forget the first."""
        if self.stages.tableau.fsal:
            self.stages.k[0].copy_(self.stages.k[-1])
        else:
            self.fresh = True


class GraphStepper:
    """Steps with a graph; their values are those of ``PlainStepper`` bit for bit."""

    def __init__(self, field: FlatField, tableau: Tableau, like: Tensor) -> None:
        self.field = field
        self.stages = StageBuffer(tableau, like)
        self.first: Tensor | None = None
        self.last: Tensor | None = None

    def begin(self, t: float, y: Tensor) -> None:
        """Evaluate the first stage."""
        if self.first is None:
            self.first = self._evaluate(t, y, 0)

    def attempt(self, t: float, h: float, t_next: float, y: Tensor, *, evaluate_last: bool = True) -> Tensor:
        """Return the state after the step, with its graph.

        ``evaluate_last=False`` leaves out the stage that only the next step needs.
        """
        stages, tableau = self.stages, self.stages.tableau
        times = stages.times(t, h, t_next)
        self.begin(t, y)
        ks: list[Tensor] = [self.first]  # type: ignore[list-item]
        inner = tableau.stages - 1 if tableau.fsal else tableau.stages
        for i in range(1, inner):
            ks.append(self._evaluate(times[i], self._combine(y, i - 1, h, ks), i))
        if not tableau.fsal:
            return self._combine(y, tableau.stages - 1, h, ks)
        y_next = self._combine(y, tableau.stages - 2, h, ks)
        self.last = self._evaluate(t_next, y_next, tableau.stages - 1) if evaluate_last else None
        return y_next

    def accept(self) -> None:
        """Move the last stage to the front, or forget the first."""
        if self.last is not None:
            self.stages.k[0].copy_(self.stages.k[-1])
        self.first, self.last = self.last, None

    def _evaluate(self, t: float, y: Tensor, stage: int) -> Tensor:
        k = self.field(t, y)
        self.stages.k[stage].copy_(k.detach())
        return k

    def _combine(self, y: Tensor, row: int, h: float, ks: Sequence[Tensor]) -> Tensor:
        with torch.no_grad():
            value = self.stages.combine(y.detach(), row, h)
        used = [ks[j] for j in self.stages.used[row]]
        out: Tensor = _Combination.apply(value, self.stages.used_rows[row], h, y, *used)  # type: ignore[no-untyped-call]
        return out


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
