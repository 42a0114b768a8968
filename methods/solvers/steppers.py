"""The steppers of each scheme, on any kind of stages."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from odegrad.errors import UnsupportedError
from odegrad.methods.solvers.compiled import StepCompiler
from odegrad.methods.solvers.dynamics import Dynamics, FlatField
from odegrad.methods.solvers.implicit.additive import Imex
from odegrad.methods.solvers.implicit.additive_graph import GraphPairStepper
from odegrad.methods.solvers.implicit.additive_stepper import PairStepper
from odegrad.methods.solvers.implicit.graph import GraphImplicitStepper
from odegrad.methods.solvers.implicit.stepper import ImplicitStepper
from odegrad.methods.solvers.implicit.tableau import Implicit
from odegrad.methods.solvers.rosenbrock.graph import GraphRosenbrockStepper
from odegrad.methods.solvers.rosenbrock.stepper import RosenbrockStepper
from odegrad.methods.solvers.rosenbrock.tableau import Rosenbrock
from odegrad.methods.solvers.schemes import ExtendedTableau, Leapfrog, Reversible
from odegrad.methods.solvers.solver import OneStepSolver
from odegrad.methods.solvers.step import GraphStages, PlainStages, RatedStages, StageBuffer, Stages
from odegrad.methods.solvers.stepper import Stepper
from odegrad.methods.solvers.switching.scheme import Switching
from odegrad.methods.solvers.switching.stepper import SwitchingStepper
from odegrad.methods.solvers.tableau import Tableau


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
            stages.evaluate(0, times[0], x)
            self.fresh = False
        self.whole = whole
        z = x
        for i in range(1, tableau.stages):
            z = stages.combine(x, i - 1, h)
            if whole or not tableau.fsal or i < tableau.stages - 1:
                stages.evaluate(i, times[i], z)
        # With first same as last the last stage stands at the new state: its input is the solution already.
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
        times, size = self.compiler.times_and_size(t, h, t_next)
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
        # Row i is the input of stage i + 1; that of a last stage at the new state has the weights b.
        last = tableau.stages - 2 if tableau.fsal else tableau.stages - 1
        return stages.combine(onto, last, sign * h)

    def error(self, h: float) -> Tensor:
        """Return the base method's estimate."""
        return self.there.buffer.error(h)

    def accept(self) -> None:
        """Forget every stage."""
        # The last one stands at y', the next step begins at z'.


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
        # For eta = 1 it is v' = 2 u - v, the mirror image of v in f: so the step can be run back without a solve.
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


@runtime_checkable
class StepsImplicitly(Protocol):
    """Dynamics that are no user's field and make implicit steps of their own."""

    def implicit_stepper(self, solver: OneStepSolver, scheme: Implicit, like: Tensor) -> Stepper:
        """Return what makes them, for states like ``like``."""
        ...


def plain_stepper(solver: OneStepSolver, dynamics: Dynamics, like: Tensor, *, first: bool = False) -> Stepper:
    """Return a stepper without a graph for states like ``like [d]``.

    ``first``: it makes the steps for the first time, and is no replay. Then an implicit one also checks once that the
    samples do not depend on each other.
    """
    scheme = solver.scheme
    if isinstance(scheme, Implicit | Rosenbrock | Switching):
        return _implicit_stepper(solver, scheme, dynamics, like, first=first)
    if isinstance(scheme, Tableau):
        if solver.compile and isinstance(dynamics, FlatField):
            return CompiledStepper(dynamics, scheme, like)
        return RungeKuttaStepper(PlainStages(dynamics, scheme, like))
    if isinstance(scheme, ExtendedTableau):
        return scheme.stepper(PlainStages(dynamics, scheme.tableau, like), dynamics)
    if isinstance(scheme, Reversible):
        there, back = (PlainStages(dynamics, scheme.tableau, like) for _ in range(2))
        return ReversibleStepper(scheme, there, back)
    return LeapfrogStepper(scheme, dynamics, with_graph=False)


def graph_stepper(solver: OneStepSolver, field: FlatField, like: Tensor, *, first: bool = False) -> Stepper:
    """Return a stepper with a graph for states like ``like [d]``; its values are the plain one's bit for bit.

    ``first``: see ``plain_stepper``.
    """
    scheme = solver.scheme
    if isinstance(scheme, Implicit | Rosenbrock | Switching):
        return _implicit_graph_stepper(solver, scheme, field, like, first=first)
    if isinstance(scheme, Tableau):
        return RungeKuttaStepper(GraphStages(field, scheme, like))
    if isinstance(scheme, ExtendedTableau):
        return scheme.stepper(GraphStages(field, scheme.tableau, like), field)
    if isinstance(scheme, Reversible):
        there, back = (GraphStages(field, scheme.tableau, like) for _ in range(2))
        return ReversibleStepper(scheme, there, back)
    return LeapfrogStepper(scheme, field, with_graph=True)


def _switching(solver: OneStepSolver, scheme: Switching, stages: RatedStages, implicit: Stepper) -> Stepper:
    if not isinstance(implicit, ImplicitStepper):
        raise UnsupportedError(f"solver {scheme.name}: it takes the steps of a user's field; use dopri5 or kencarp4")
    return SwitchingStepper(scheme, RungeKuttaStepper(stages), stages, implicit, solver.observer)


def _implicit_stepper(
    solver: OneStepSolver, scheme: Implicit | Rosenbrock | Switching, dynamics: Dynamics, like: Tensor, *, first: bool
) -> Stepper:
    if isinstance(scheme, Switching):
        implicit = _implicit_stepper(solver, scheme.implicit, dynamics, like, first=first)
        return _switching(solver, scheme, PlainStages(dynamics, scheme.explicit, like), implicit)
    if isinstance(scheme, Implicit) and isinstance(dynamics, StepsImplicitly):
        return dynamics.implicit_stepper(solver, scheme, like)
    if not isinstance(dynamics, FlatField):
        raise UnsupportedError(
            f"solver {scheme.name}: expected a user's field, got {type(dynamics).__name__}, which has no Jacobian; use "
            "an explicit solver such as dopri5 for it"
        )
    if isinstance(scheme, Imex):
        return PairStepper(solver, scheme, dynamics, like, refuse_mixing=first)
    if isinstance(scheme, Implicit):
        return ImplicitStepper(solver, scheme, dynamics, like, refuse_mixing=first)
    return RosenbrockStepper(solver, scheme, dynamics, like, refuse_mixing=first)


def _implicit_graph_stepper(
    solver: OneStepSolver, scheme: Implicit | Rosenbrock | Switching, field: FlatField, like: Tensor, *, first: bool
) -> Stepper:
    if isinstance(scheme, Switching):
        implicit = _implicit_graph_stepper(solver, scheme.implicit, field, like, first=first)
        return _switching(solver, scheme, GraphStages(field, scheme.explicit, like), implicit)
    if isinstance(scheme, Imex):
        return GraphPairStepper(solver, scheme, field, like, refuse_mixing=first)
    if isinstance(scheme, Implicit):
        return GraphImplicitStepper(solver, scheme, field, like, refuse_mixing=first)
    return GraphRosenbrockStepper(solver, scheme, field, like, refuse_mixing=first)
