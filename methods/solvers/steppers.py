"""Steppers: what makes the steps of one solve, for each scheme, on any kind of stages.

A stepper carries a vector ``x`` whose first ``d`` numbers are the state; a Runge-Kutta method carries nothing else.
"""

import abc
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from odegrad.errors import UnsupportedError
from odegrad.methods.solvers.compiled import StepCompiler
from odegrad.methods.solvers.dynamics import Dynamics, FlatField
from odegrad.methods.solvers.schemes import Leapfrog, Reversible, Scheme
from odegrad.methods.solvers.solver import OneStepSolver
from odegrad.methods.solvers.step import GraphStages, PlainStages, StageBuffer, Stages
from odegrad.methods.solvers.tableau import Tableau


@dataclass(frozen=True)
class GridStep:
    """An accepted step from ``t`` to ``t_next = t + h``."""

    t: float
    h: float
    t_next: float
    outputs: tuple[tuple[int, float], ...]
    """The outputs that it reaches: their index, and where they lie in the step (1.0 is its end)."""

    @property
    def thetas(self) -> list[float]:
        """Return where the outputs inside the step lie in it."""
        return [theta for _, theta in self.outputs if theta != 1.0]

    @property
    def inside(self) -> slice:
        """Return the indices of the outputs inside the step."""
        first = self.outputs[0][0] if self.outputs else 0
        return slice(first, first + len(self.thetas))

    @property
    def at_end(self) -> slice:
        """Return the index of the output at the step's end; empty if there is none."""
        return slice(self.inside.stop, self.inside.start + len(self.outputs))


class Stepper(abc.ABC):
    """Makes the steps of one solve."""

    @abc.abstractmethod
    def start(self, t: float, y0: Tensor) -> Tensor:
        """Return the carried vector that stands on ``y0 [d]``."""

    @abc.abstractmethod
    def rate(self, t: float, x: Tensor) -> Tensor:
        """Return ``f(t, y) [d]`` at the carried vector; what is known is not evaluated again."""

    @abc.abstractmethod
    def attempt(self, t: float, h: float, t_next: float, x: Tensor, *, whole: bool = True) -> Tensor:
        """Return the carried vector after a step from ``x``.

        ``whole=False`` leaves out the stage that only the next step and the dense output need.
        """

    @abc.abstractmethod
    def error(self, h: float) -> Tensor:
        """Return the estimate of the last attempt's error in the state, ``[d]``."""

    @abc.abstractmethod
    def accept(self) -> None:
        """Stand on the new state."""

    def dense(self, x: Tensor, h: float, thetas: Sequence[float]) -> Tensor:
        """Return the states ``[m, d]`` inside the last attempt; only a Runge-Kutta method knows them.

        Raises
        ------
        UnsupportedError
            If the scheme has no dense output.
        """
        raise no_dense_output(self, x, h, len(thetas))

    def polynomial(self, x: Tensor, h: float) -> Tensor:
        """Return the coefficients ``[q + 1, d]`` of the dense output in powers of theta.

        Raises
        ------
        UnsupportedError
            If the scheme has no dense output.
        """
        raise no_dense_output(self, x, h, 0)


def no_dense_output(stepper: Stepper, x: Tensor, h: float, count: int) -> UnsupportedError:
    """Return the error for a step that is known at its ends only."""
    name = type(stepper).__name__
    return UnsupportedError(
        f"{name}: expected a Runge-Kutta step for {count} states inside it, got one of size {h:g} from "
        f"{tuple(x.shape)}; use a solver with dense output such as dopri5"
    )


@dataclass(frozen=True)
class Step:
    """An accepted step, as seen while the loop stands on it: ``stepper`` moves on with the next one."""

    place: GridStep
    x: Tensor
    x_next: Tensor
    d: int
    stepper: Stepper

    @property
    def t(self) -> float:
        """Return the time at the start."""
        return self.place.t

    @property
    def h(self) -> float:
        """Return the signed size."""
        return self.place.h

    @property
    def t_next(self) -> float:
        """Return the time at the end."""
        return self.place.t_next

    @property
    def y(self) -> Tensor:
        """Return the state ``[d]`` at the start."""
        return self.x[: self.d]

    @property
    def y_next(self) -> Tensor:
        """Return the state ``[d]`` at the end."""
        return self.x_next[: self.d]

    def at(self, times: Sequence[float]) -> Tensor:
        """Return the solution at ``times`` inside the step, ``[m, d]``, from the continuous extension."""
        return self.stepper.dense(self.x, self.h, [(time - self.t) / self.h for time in times])

    def polynomial(self) -> Tensor:
        """Return the continuous extension's coefficients ``[q + 1, d]`` in powers of ``(time - t) / h``."""
        return self.stepper.polynomial(self.x, self.h)


class RungeKuttaStepper(Stepper):
    """The steps of an explicit Runge-Kutta method."""

    def __init__(self, stages: Stages) -> None:
        self.stages = stages
        self.tableau = stages.buffer.tableau
        self.fresh = True
        self.whole = False

    def start(self, t: float, y0: Tensor) -> Tensor:  # noqa: ARG002
        """Return ``y0`` itself."""
        self.fresh = True
        return y0

    def rate(self, t: float, x: Tensor) -> Tensor:
        """Return the first stage."""
        if self.fresh:
            self.stages.prepare([t])
            self.stages.evaluate(0, t, x)
            self.fresh = False
        return self.stages.buffer.k[0]

    def attempt(self, t: float, h: float, t_next: float, x: Tensor, *, whole: bool = True) -> Tensor:
        """Return the state after the step."""
        stages, tableau = self.stages, self.tableau
        times = tableau.times(t, h, t_next)
        stages.prepare(times)
        if self.fresh:
            stages.evaluate(0, t, x)
            self.fresh = False
        self.whole = whole
        z = x
        for i in range(1, tableau.stages):
            z = stages.combine(x, i - 1, h)
            if whole or not tableau.fsal or i < tableau.stages - 1:
                stages.evaluate(i, times[i], z)
        return z if tableau.fsal else stages.combine(x, tableau.stages - 1, h)

    def error(self, h: float) -> Tensor:
        """Return the embedded estimate."""
        return self.stages.buffer.error(h)

    def accept(self) -> None:
        """Move the last stage to the front, or forget the first."""
        if self.tableau.fsal and self.whole:
            self.stages.roll()
        else:
            self.fresh = True

    def dense(self, x: Tensor, h: float, thetas: Sequence[float]) -> Tensor:
        """Return the continuous extension."""
        return self.stages.dense(x, h, thetas)

    def polynomial(self, x: Tensor, h: float) -> Tensor:
        """Return the coefficients of the continuous extension."""
        return self.stages.buffer.polynomial(x, h)


class CompiledStepper(Stepper):
    """The steps of an explicit Runge-Kutta method without a graph, each one call of compiled code."""

    def __init__(self, field: FlatField, tableau: Tableau, like: Tensor) -> None:
        self.field = field
        self.tableau = tableau
        self.compiler = StepCompiler.of(field, tableau)
        self.buffer = StageBuffer(tableau, like)
        self.k0: Tensor | None = None
        self.change = like
        self.whole = False

    def start(self, t: float, y0: Tensor) -> Tensor:  # noqa: ARG002
        """Return ``y0`` itself."""
        self.k0 = None
        return y0

    def rate(self, t: float, x: Tensor) -> Tensor:
        """Return the first stage."""
        if self.k0 is None:
            self.k0 = torch.empty_like(x)
            self.field.write(t, x, self.k0, 0)
        return self.k0

    def attempt(self, t: float, h: float, t_next: float, x: Tensor, *, whole: bool = True) -> Tensor:
        """Return the state after the step."""
        step = self.compiler.step(fresh=self.k0 is None, whole=whole)
        times, size = self.compiler.place(t, h, t_next)
        given = x if self.k0 is None else self.k0
        x_next, self.buffer.k, self.change = step(x, given, times, size, *self.compiler.tensors)
        self.k0 = self.buffer.k[0]
        self.whole = whole
        return x_next

    def error(self, h: float) -> Tensor:  # noqa: ARG002
        """Return the embedded estimate."""
        return self.change

    def accept(self) -> None:
        """Move the last stage to the front, or forget the first."""
        self.k0 = self.buffer.k[-1] if self.tableau.fsal and self.whole else None

    def dense(self, x: Tensor, h: float, thetas: Sequence[float]) -> Tensor:
        """Return the continuous extension."""
        return self.buffer.dense(x, h, thetas)

    def polynomial(self, x: Tensor, h: float) -> Tensor:
        """Return the coefficients of the continuous extension."""
        return self.buffer.polynomial(x, h)


class ReversibleStepper(Stepper):
    """The steps of the reversible wrapper; ``there`` holds the stages from z, ``back`` those from y'."""

    def __init__(self, scheme: Reversible, there: Stages, back: Stages) -> None:
        self.scheme = scheme
        self.there, self.back = there, back
        self.tableau = there.buffer.tableau

    def start(self, t: float, y0: Tensor) -> Tensor:  # noqa: ARG002
        """Return ``(y0, y0)``."""
        return torch.cat([y0, y0])

    def rate(self, t: float, x: Tensor) -> Tensor:
        """Return f at the state, which is also z where a solve starts."""
        self.there.evaluate(0, t, x[: x.numel() // 2])
        return self.there.buffer.k[0]

    def attempt(self, t: float, h: float, t_next: float, x: Tensor, *, whole: bool = True) -> Tensor:  # noqa: ARG002
        """Return ``(y', z')``."""
        y, z = x.tensor_split(2)
        mixed = torch.lerp(z, y, self.scheme.coupling)
        moved = self.increment(self.there, t, h, t_next, z, mixed)
        if self.tableau.fsal:
            self.back.evaluate(0, t_next, moved)
            self.there.buffer.k[-1].copy_(self.back.buffer.k[0])
        known = self.tableau.fsal
        return torch.cat([moved, self.increment(self.back, t_next, -h, t, moved, z, sign=-1.0, known=known)])

    def increment(
        self,
        stages: Stages,
        t: float,
        h: float,
        t_next: float,
        z: Tensor,
        onto: Tensor,
        *,
        sign: float = 1.0,
        known: bool = False,
    ) -> Tensor:
        """Return ``onto + sign Psi_h(t, z)``, ``[d]``; ``known``: the first stage has been evaluated."""
        tableau = self.tableau
        times = tableau.times(t, h, t_next)
        if not known:
            stages.evaluate(0, t, z)
        for i in range(1, tableau.evaluations):
            stages.evaluate(i, times[i], stages.combine(z, i - 1, h))
        last = tableau.stages - 2 if tableau.fsal else tableau.stages - 1
        return stages.combine(onto, last, sign * h)

    def error(self, h: float) -> Tensor:
        """Return the base method's estimate."""
        return self.there.buffer.error(h)

    def accept(self) -> None:
        """Forget every stage."""


class LeapfrogStepper(Stepper):
    """The steps of the asynchronous leapfrog; ``field`` is asked with or without a graph, as the caller has it."""

    def __init__(self, scheme: Leapfrog, field: Dynamics, *, with_graph: bool) -> None:
        self.eta = scheme.eta
        self.field = field
        self.with_graph = with_graph
        self.change = torch.zeros(())

    def start(self, t: float, y0: Tensor) -> Tensor:
        """Return ``(y0, f(t0, y0))``."""
        return torch.cat([y0, self.evaluate(t, y0)])

    def rate(self, t: float, x: Tensor) -> Tensor:  # noqa: ARG002
        """Return the velocity, which is f at the start."""
        return x[x.numel() // 2 :].detach()

    def attempt(self, t: float, h: float, t_next: float, x: Tensor, *, whole: bool = True) -> Tensor:  # noqa: ARG002
        """Return ``(y', v')``."""
        y, v = x.tensor_split(2)
        middle = torch.add(y, v, alpha=0.5 * h)
        moved = torch.lerp(v, self.evaluate(t + 0.5 * h, middle), 2.0 * self.eta)
        self.change = (moved - v).detach()
        return torch.cat([torch.add(middle, moved, alpha=0.5 * h), moved])

    def error(self, h: float) -> Tensor:
        """Return the distance to the embedded Euler step."""
        return self.change.mul(0.5 * h)

    def accept(self) -> None:
        """Need nothing: the velocity is carried."""

    def evaluate(self, t: float, y: Tensor) -> Tensor:
        """Return ``f(t, y) [d]``."""
        if self.with_graph and isinstance(self.field, FlatField):
            return self.field(t, y)
        out = torch.empty_like(y)
        self.field.prepare([t])
        self.field.write(t, y, out, 0)
        return out


def plain_stepper(solver: OneStepSolver, dynamics: Dynamics, like: Tensor) -> Stepper:
    """Return a stepper without a graph for states like ``like [d]``."""
    scheme = solver.scheme
    if isinstance(scheme, Tableau):
        if solver.compile and isinstance(dynamics, FlatField):
            return CompiledStepper(dynamics, scheme, like)
        return RungeKuttaStepper(PlainStages(dynamics, scheme, like))
    if isinstance(scheme, Reversible):
        there, back = (PlainStages(dynamics, scheme.tableau, like) for _ in range(2))
        return ReversibleStepper(scheme, there, back)
    return LeapfrogStepper(scheme, dynamics, with_graph=False)


def graph_stepper(scheme: Scheme, field: FlatField, like: Tensor) -> Stepper:
    """Return a stepper with a graph for states like ``like [d]``; its values are the plain one's bit for bit."""
    if isinstance(scheme, Tableau):
        return RungeKuttaStepper(GraphStages(field, scheme, like))
    if isinstance(scheme, Reversible):
        there, back = (GraphStages(field, scheme.tableau, like) for _ in range(2))
        return ReversibleStepper(scheme, there, back)
    return LeapfrogStepper(scheme, field, with_graph=True)
