"""The steps of a diagonally implicit Runge-Kutta method with a graph: one node for each step, whose value is known."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Protocol

import torch
from torch import Tensor

from odegrad.methods.fields.held import hooks_at_rest
from odegrad.methods.fields.surroundings import out_of_inference, usable
from odegrad.methods.solvers.dynamics import FlatField, trained_parameters
from odegrad.methods.solvers.implicit.linear import Jacobians
from odegrad.methods.solvers.implicit.pullback import StagePullback
from odegrad.methods.solvers.implicit.stepper import ImplicitStepper
from odegrad.methods.solvers.implicit.tableau import Implicit
from odegrad.methods.solvers.opaque import Context, without_derivative
from odegrad.methods.solvers.solver import OneStepSolver

INSTEAD = "use an explicit solver such as dopri5"
"""What has a second derivative."""


class GraphImplicitStepper(ImplicitStepper):
    """The same steps, bit for bit; autograd learns how to go back through the converged stages.

    What it keeps of a step are the stages: no graph of the field, no Jacobian and no Newton iteration. So a gradient
    goes to the field's parameters only, and another tensor that it depends on is refused.
    """

    def __init__(
        self, solver: OneStepSolver, scheme: Implicit, field: FlatField, like: Tensor, *, refuse_mixing: bool = False
    ) -> None:
        super().__init__(solver, scheme, field, like, refuse_mixing=refuse_mixing)
        parameters = field.differentiated
        if parameters is None:
            parameters = trained_parameters(field.field) if torch.is_grad_enabled() else ()
        self.first = refuse_mixing
        self.back = StagePullback(self.tableau, self.jacobians, parameters, self.observer)

    def start(self, t: float, y0: Tensor) -> Tensor:
        """Return ``(y0, f(t0, y0))`` with its graph; in a first solve that of the rate is a call of the way back."""
        x = y0
        if self.scheme.carries_rate:
            x = torch.cat([y0, self._first_rate(t, y0) if self.first else self.field(t, y0)])
        # From here on, and not before: the history of y0 holds the caller's tensors.
        if torch.is_grad_enabled() and self.field.known is None:
            self.field.refuse_closures_at_first_call(self.back.parameters)
        return x

    def _first_rate(self, t: float, y0: Tensor) -> Tensor:
        """Return ``f(t, y0)``, with no graph of the field to outlive what the steps' pull-backs do to its buffers."""
        with torch.no_grad():
            value = self.field(t, y0.detach())
        out: Tensor = _Rate.apply(self.field, t, value, y0, *self.back.parameters)  # type: ignore[no-untyped-call]
        return out

    def attempt(self, t: float, h: float, t_next: float, x: Tensor, *, whole: bool = True) -> Tensor:
        """Return the carried vector after a step from ``x``; see ``ImplicitStepper``."""
        value = super().attempt(t, h, t_next, x, whole=whole)
        step = _Taken(self.back, self.field, self.d, self.tableau.times(t, h, t_next), h)
        # Of a stiffly accurate method the last stage is the new state, which autograd keeps anyway.
        kept = self.stages[:-1] if self.tableau.stiffly_accurate else self.stages
        self.x_next = _Step.apply(step, value, x, len(kept), *kept, *self.back.parameters)  # type: ignore[no-untyped-call]
        return self.x_next


class _Taken:
    """A step that was taken, and how to pull back through it."""

    def __init__(self, back: StagePullback, field: FlatField, d: int, times: Sequence[float], h: float) -> None:
        self.back = back
        self.field = field
        self.d = d
        self.times = times
        self.h = h

    def pull_back(self, x_next: Tensor, kept: Sequence[Tensor], grad: Tensor) -> tuple[Tensor, list[Tensor | None]]:
        """Return the cotangent of the carried vector at the start and the parameters' gradients."""
        samples, d = self.jacobians.samples, self.d
        stages = list(kept)
        if self.back.tableau.stiffly_accurate:
            stages.append(samples.of(x_next[:d]))
        a, q = samples.of(grad[:d]), samples.of(grad[d:]) if grad.numel() > d else None
        of_state, of_rate, of_parameters = self.back.through(self.times, self.h, stages, a, q)
        flat = samples.flat(of_state)
        return flat if of_rate is None else torch.cat([flat, samples.flat(of_rate)]), of_parameters

    @property
    def jacobians(self) -> Jacobians:
        """Return what forms the Jacobians."""
        return self.back.jacobians


def _as_it_was(field: FlatField, parameters: Sequence[Tensor]) -> AbstractContextManager[None]:
    """Let the field hold inside what it held in the solve, and leave the parameters' hooks for the whole gradient."""
    # Inside of a method's own node that has been seen to.
    if field.held is None or field.differentiated is not None:
        return hooks_at_rest(parameters)
    return field.held.as_it_was({}, parameters)


class _StepContext(Context, Protocol):
    step: _Taken
    count: int


class _Step(torch.autograd.Function):
    """A step whose value is already known: only the pull-back is left to do."""

    @staticmethod
    def forward(ctx: _StepContext, step: _Taken, value: Tensor, x: Tensor, count: int, *rest: Tensor) -> Tensor:
        ctx.step = step
        ctx.count = count
        # The parameters too, since autograd knows whether one has been changed in place when it hands them out again.
        ctx.save_for_backward(x, value, *rest)
        return value

    @staticmethod
    def backward(ctx: _StepContext, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, x_next, *rest = ctx.saved_tensors
        step, kept = ctx.step, rest[: ctx.count]
        held = _as_it_was(step.field, step.back.parameters)
        with out_of_inference(), torch.no_grad(), step.field.undisturbed(), held:
            of_x, pulled = step.pull_back(x_next.detach(), kept, usable(grads[0]).contiguous())
        parameters = step.back.parameters
        present = [torch.zeros_like(p) if g is None else g for p, g in zip(parameters, pulled, strict=True)]
        marked = without_derivative([of_x, *present], (grads[0], x, *parameters), "an implicit step", INSTEAD)
        return None, None, marked[0], None, *([None] * ctx.count), *marked[1:]


class _RateContext(Context, Protocol):
    field: FlatField
    t: float


class _Rate(torch.autograd.Function):
    """``f(t, y)`` whose value is already known: one f call and one product on the way back."""

    @staticmethod
    def forward(ctx: _RateContext, field: FlatField, t: float, value: Tensor, y: Tensor, *parameters: Tensor) -> Tensor:
        ctx.field, ctx.t = field, t
        ctx.save_for_backward(y, *parameters)
        return value

    @staticmethod
    def backward(ctx: _RateContext, *grads: Tensor) -> tuple[Tensor | None, ...]:
        y, *parameters = ctx.saved_tensors
        field = ctx.field
        with out_of_inference(), torch.enable_grad(), field.undisturbed(), _as_it_was(field, parameters):
            leaf = y.detach().requires_grad_()
            rate = field(ctx.t, leaf)
            pulled: Sequence[Tensor | None] = [None] * (1 + len(parameters))
            if rate.requires_grad:
                pulled = field.pulled_through([rate], (leaf, *parameters), [usable(grads[0]).detach()])
        present = [torch.zeros_like(x) if g is None else g for x, g in zip((y, *parameters), pulled, strict=True)]
        marked = without_derivative(present, (grads[0], y, *parameters), "an implicit step", INSTEAD)
        return None, None, None, *marked
