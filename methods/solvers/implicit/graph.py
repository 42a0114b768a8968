"""The steps of a diagonally implicit Runge-Kutta method with a graph: one node for each step, whose value is known."""

import abc
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any, ClassVar, Generic, Protocol, TypeVar

import torch
from torch import Tensor

from odegrad.methods.fields.hooks import hooks_at_rest
from odegrad.methods.fields.surroundings import out_of_inference, usable
from odegrad.methods.solvers.dynamics import FlatField, trained_parameters
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
        self.first = refuse_mixing
        self.back = StagePullback(self.tableau, self.jacobians, differentiated_by(field), self.observer)

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
        step = _Taken(self.back, self.field, self.tableau.times(t, h, t_next), h)
        # Of a stiffly accurate method the last stage is the new state, which autograd keeps anyway.
        kept = self.stages[:-1] if self.tableau.stiffly_accurate else self.stages
        (self.x_next,) = KnownStep.through(step, x, (value,), kept)
        return self.x_next


def differentiated_by(field: FlatField) -> tuple[Tensor, ...]:
    """Return what the pull-backs through steps on ``field`` differentiate by."""
    if field.differentiated is not None:
        return field.differentiated
    return trained_parameters(field.field) if torch.is_grad_enabled() else ()


class Pullback(Protocol):
    """Pulls back through steps."""

    @property
    def parameters(self) -> tuple[Tensor, ...]:
        """What it differentiates by."""
        ...


BackT = TypeVar("BackT", bound=Pullback)


class StepTaken(abc.ABC, Generic[BackT]):
    """A step of size ``h`` that was taken, with its stages at ``times``, and how to pull back through it."""

    saves_outputs: ClassVar[bool] = False
    """Whether the pull-back needs the step's outputs too, before the stages."""

    def __init__(self, back: BackT, field: FlatField, times: Sequence[float], h: float) -> None:
        self.back = back
        self.field = field
        self.times = times
        self.h = h

    @abc.abstractmethod
    def pull_back(self, saved: Sequence[Tensor], grads: Sequence[Tensor | None]) -> tuple[Tensor, list[Tensor | None]]:
        """Return the cotangent of the step's start and the parameters' gradients.

        ``saved`` are the start, the outputs where they are saved, and what was kept; ``grads`` the outputs' cotangents.
        """


class _Taken(StepTaken[StagePullback]):
    """A step of an implicit method."""

    saves_outputs = True

    def pull_back(self, saved: Sequence[Tensor], grads: Sequence[Tensor | None]) -> tuple[Tensor, list[Tensor | None]]:
        """Return the cotangent of the carried vector at the start and the parameters' gradients."""
        _, x_next, *stages = saved
        samples = self.back.jacobians.samples
        d = samples.batch * samples.n
        grad = torch.zeros_like(x_next) if grads[0] is None else grads[0].contiguous()
        if self.back.tableau.stiffly_accurate:
            stages.append(samples.of(x_next[:d]))
        a, q = samples.of(grad[:d]), samples.of(grad[d:]) if grad.numel() > d else None
        of_state, of_rate, of_parameters = self.back.through(self.times, self.h, stages, a, q)
        flat = samples.flat(of_state)
        return flat if of_rate is None else torch.cat([flat, samples.flat(of_rate)]), of_parameters


def _as_it_was(field: FlatField, parameters: Sequence[Tensor]) -> AbstractContextManager[None]:
    """Let the field hold inside what it held in the solve, and leave the parameters' hooks for the whole gradient."""
    # Inside of a method's own node that has been seen to.
    if field.held is None or field.differentiated is not None:
        return hooks_at_rest(parameters)
    return field.held.as_it_was({}, parameters)


class _StepContext(Context, Protocol):
    step: StepTaken[Pullback]
    others: int

    def set_materialize_grads(self, value: bool) -> None: ...


class KnownStep(torch.autograd.Function):
    """A step whose values are already known: only the pull-back is left to do."""

    @classmethod
    def through(
        cls, step: StepTaken[Any], x: Tensor, outputs: Sequence[Tensor], kept: Sequence[Tensor]
    ) -> tuple[Tensor, ...]:
        """Return ``outputs``, which autograd sees as made from ``x`` and the step's parameters."""
        found: tuple[Tensor, ...] = cls.apply(step, x, len(outputs), *outputs, *kept, *step.back.parameters)  # type: ignore[no-untyped-call]
        return found

    @staticmethod
    def forward(ctx: _StepContext, step: StepTaken[Any], x: Tensor, count: int, *rest: Tensor) -> tuple[Tensor, ...]:
        """Return the first ``count`` of ``rest``, the outputs; the stages and the parameters follow."""
        ctx.step = step
        ctx.others = len(rest) - len(step.back.parameters)
        ctx.set_materialize_grads(False)
        # The parameters too, since autograd knows whether one has been changed in place when it hands them out again.
        ctx.save_for_backward(x, *(rest if step.saves_outputs else rest[count:]))
        return rest[:count]

    @staticmethod
    def backward(ctx: _StepContext, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        """Pull back through the step's stages."""
        step = ctx.step
        parameters = step.back.parameters
        saved = ctx.saved_tensors[: len(ctx.saved_tensors) - len(parameters)]
        x = saved[0]
        held = _as_it_was(step.field, parameters)
        with out_of_inference(), torch.no_grad(), step.field.undisturbed(), held:
            given_here = [None if g is None else usable(g) for g in grads]
            of_x, pulled = step.pull_back([one.detach() for one in saved], given_here)
        present = [torch.zeros_like(p) if g is None else g for p, g in zip(parameters, pulled, strict=True)]
        given = [g for g in grads if g is not None]
        marked = without_derivative([of_x, *present], (*given, x, *parameters), "an implicit step", INSTEAD)
        return None, marked[0], None, *([None] * ctx.others), *marked[1:]


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
