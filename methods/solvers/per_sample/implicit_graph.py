"""Implicit steps on rows with a graph: one node for the steps of a rank, whose values are known."""

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from odegrad.methods.fields.hooks import hooks_at_rest
from odegrad.methods.solvers.dynamics import trained_parameters
from odegrad.methods.solvers.implicit.graph import INSTEAD
from odegrad.methods.solvers.implicit.pullback import StagePullback
from odegrad.methods.solvers.implicit.tableau import Implicit
from odegrad.methods.solvers.opaque import Context, without_derivative
from odegrad.methods.solvers.per_sample.explicit_graph import TakenRows
from odegrad.methods.solvers.per_sample.implicit import ImplicitRowStepper, jacobians_of, refuse_lost
from odegrad.methods.solvers.per_sample.rows import RowField
from odegrad.methods.solvers.per_sample.stages import ReadInside, RowSteps
from odegrad.methods.solvers.per_sample.times import HostIntegers
from odegrad.methods.solvers.solver import OneStepSolver


class GraphImplicitRowStepper:
    """Takes the steps of ranks again; autograd learns how to go back through their converged stages.

    What it keeps of a rank are the stages: no graph of the field, no Jacobian and no Newton iteration.
    """

    def __init__(self, field: RowField, solver: OneStepSolver, scheme: Implicit) -> None:
        self.field, self.solver, self.scheme = field, solver, scheme
        differentiated = field.differentiated
        self.parameters = trained_parameters(field.field) if differentiated is None else differentiated

    def step(
        self,
        samples: HostIntegers,
        steps: RowSteps,
        x: Tensor,
        going_on: int,
        inside: ReadInside,  # noqa: ARG002
    ) -> TakenRows:
        """Take a step from the carried rows ``x``, ``(y, k)``; none is read inside."""
        stepper = ImplicitRowStepper(self.field, self.solver, self.scheme, x[:, : self.field.rows.n])
        value = stepper.attempt(samples, steps, x.detach())
        refuse_lost(stepper, samples, steps)
        stepper.judged(accepted=True)
        back = StagePullback(
            self.scheme.tableau, jacobians_of(self.field, len(x)), self.parameters, self.solver.observer
        )
        taken = _PulledRows(back, self.field, *stepper.sent(steps, x.detach()))
        # The last stage is the new state, which autograd keeps anyway.
        kept = stepper.stages[:-1]
        z: Tensor = _RowStep.apply(taken, value, x, len(kept), *kept, *self.parameters)  # type: ignore[no-untyped-call]
        return TakenRows(z, z if going_on == len(z) else z[:going_on].clone())


class _PulledRows:
    """Steps that were taken, and how to pull back through them."""

    def __init__(self, back: StagePullback, field: RowField, times: Tensor, h: float | Tensor) -> None:
        self.back = back
        self.field = field
        self.times = times
        self.h = h

    def pull_back(self, x_next: Tensor, kept: Sequence[Tensor], grad: Tensor) -> tuple[Tensor, list[Tensor | None]]:
        """Return the cotangents ``[rows, 2n]`` of the carried rows at the starts, and the parameters' gradients."""
        n = self.field.rows.n
        stages = [*kept, x_next[:, :n, None]]
        a, q = grad[:, :n, None].contiguous(), grad[:, n:, None].contiguous()
        of_state, of_rate, of_parameters = self.back.through(list(self.times.unbind(0)), self.h, stages, a, q)
        if of_rate is None:
            of_rate = torch.zeros_like(of_state)
        return torch.cat([of_state[..., 0], of_rate[..., 0]], dim=1), of_parameters


class _RowStepContext(Context, Protocol):
    taken: _PulledRows
    count: int


class _RowStep(torch.autograd.Function):
    """Steps whose values are already known: only the pull-back is left to do."""

    @staticmethod
    def forward(
        ctx: _RowStepContext, taken: _PulledRows, value: Tensor, x: Tensor, count: int, *rest: Tensor
    ) -> Tensor:
        ctx.taken, ctx.count = taken, count
        ctx.save_for_backward(x, value, *rest)
        return value

    @staticmethod
    def backward(ctx: _RowStepContext, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, x_next, *rest = ctx.saved_tensors
        taken, kept = ctx.taken, rest[: ctx.count]
        parameters, field = taken.back.parameters, taken.field
        # Inside of a method's own node that has been seen to.
        inside = field.held is None or field.differentiated is not None
        surroundings = hooks_at_rest(parameters) if inside else field.held.as_it_was({}, parameters)  # type: ignore[union-attr]
        with torch.no_grad(), field.undisturbed(), surroundings:
            of_x, pulled = taken.pull_back(x_next.detach(), kept, grads[0].contiguous())
        present = [torch.zeros_like(p) if g is None else g for p, g in zip(parameters, pulled, strict=True)]
        marked = without_derivative([of_x, *present], (grads[0], x, *parameters), "an implicit step", INSTEAD)
        return None, None, marked[0], None, *([None] * ctx.count), *marked[1:]
