"""Reversible Runge-Kutta: wrap any explicit method so that its steps can be inverted."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from odegrad.contracts import Bytes, Calls, Sizes, SolverT, StepCounts, Tap, Traits
from odegrad.errors import UnsupportedError, UsageError
from odegrad.methods.backward.entry import NEEDS_TABLEAU
from odegrad.methods.backward.products import add_to
from odegrad.methods.backward.step_ends import StepEnd
from odegrad.methods.backward.stepwise import InvertedNode, WalkBack
from odegrad.methods.backward.tappable import TappableMethod
from odegrad.methods.solvers.dynamics import FlatField
from odegrad.methods.solvers.schemes import Reversible
from odegrad.methods.solvers.solver import NO_ONE_STEP_SOLVER, OneStepSolver
from odegrad.methods.solvers.step import GraphStages
from odegrad.methods.solvers.stepper import GridStep
from odegrad.methods.solvers.steppers import ReversibleStepper
from odegrad.methods.solvers.tableau import Tableau


@dataclass(frozen=True)
class ReversibleRK(TappableMethod):
    """Solve with the reversible wrapper of the solver's method, keep the end, invert it (McCallum and Foster 2024).

    The inverse of a step evaluates f where the step did, so the calls that invert it also carry the graphs that pull
    back through it. The gradient is exact for the wrapped method's solution, up to rounding in the reconstruction.

    Parameters
    ----------
    coupling
        How y and z are held together, in (0, 1].

    Raises
    ------
    UsageError
        If ``coupling`` is out of range.
    """

    coupling: float = 0.99

    traits: ClassVar[Traits] = Traits(
        name="reversible_rk",
        summary="inverts a Runge-Kutta method made reversible: memory free of the number of steps",
        paper="McCallum and Foster, Efficient, Accurate and Stable Gradients for Neural ODEs, 2024",
        exact=True,
        keeps="the last carried vector",
        memory="2d + A s, independent of N",
        cost_forward="2s(N+R)+2 F",
        cost_backward="2sN F + 2sN B",
        backward_phase="recompute",
        state_from="inverse",
        taps="step ends",
    )

    def __post_init__(self) -> None:
        """Check the option."""
        if not 0.0 < self.coupling <= 1.0:
            raise UsageError(f"coupling: expected a number in (0, 1], got {self.coupling!r}; 0.99 is usual")

    def cannot_use(self, solver: OneStepSolver) -> str | None:
        """Return why this method cannot take the steps of ``solver``, or None if it can."""
        if isinstance(solver.scheme, Reversible):
            return "it wraps the solver itself; leave out the solver's coupling, which is an option of this method"
        if solver.implicit:
            return "an implicit step has no inverse step; use aca, or an explicit solver such as dopri5"
        if not isinstance(solver.scheme, Tableau):
            return NEEDS_TABLEAU
        if solver.outputs == "dense":
            return "the wrapped method has no dense output; use outputs = 'step_ends'"
        if solver.sees == "tangent":
            return "the wrapped method's steps carry no tangent; use sees = 'state', and max_step to bound the steps"
        return None

    def predicted_calls(self, steps: StepCounts) -> Calls:
        """Return the f calls and vector-Jacobian products that these steps cost."""
        s, back = 2 * steps.evaluations, 2 * steps.evaluations * steps.accepted
        return Calls(s * (steps.accepted + steps.rejected) + (steps.start if steps.adaptive else 0), back, back)

    def equivalent_solver(self, solver: SolverT) -> SolverT:
        """Return the wrapped solver, on which naive backprop gives this method's gradient."""
        if not isinstance(solver, OneStepSolver):
            raise UnsupportedError(f"{self.traits.name} cannot use solver {solver.name}: {NO_ONE_STEP_SOLVER}")
        return solver.reversible(self.coupling)

    def predicted_bytes(self, steps: StepCounts, sizes: Sizes) -> Bytes:
        """Return the bytes that these steps cost."""
        saved = (2 + sizes.outputs) * sizes.state_bytes
        return Bytes(saved, saved + steps.evaluations * sizes.graph_bytes + sizes.parameter_bytes)

    def solve(self, field: FlatField, solver: OneStepSolver, y0: Tensor, times: Sequence[float]) -> Tensor:
        """Return the states ``[K, d]`` with one node that inverts the steps."""
        return _InvertedRungeKutta(field, self.equivalent_solver(solver), times, self.tap, self.coupling).apply(y0)


class _InvertedRungeKutta(InvertedNode):
    """Runs the wrapped method back."""

    def __init__(
        self, field: FlatField, solver: OneStepSolver, times: Sequence[float], tap: Tap | None, coupling: float
    ) -> None:
        super().__init__(field, solver, times, tap)
        self.coupling = coupling

    def walk_back(self, grads: Tensor, kept: tuple[Tensor, ...]) -> WalkBack:
        """Invert and pull back from the last step to the first."""
        total = [torch.zeros_like(p) for p in self.parameters]
        y, z = kept[0].tensor_split(2)
        a_y, a_z = torch.zeros_like(y), torch.zeros_like(z)
        for n, step in self.backwards():
            a_y = a_y + grads[step.at_end].sum(0)
            # z' = z + back(y'): the second half of the step
            moved, pulled = self._half(step, y, a_z, total, there=False)
            z, a_y = z - moved, a_y + pulled
            # y' = l y + (1 - l) z + there(z): the first half
            moved, pulled = self._half(step, z, a_y, total, there=True)
            y = (y - (1.0 - self.coupling) * z - moved) / self.coupling
            a_z = a_z + (1.0 - self.coupling) * a_y + pulled
            a_y = self.coupling * a_y
            yield StepEnd(n, y, a_y, a_z)
        self.arrive(y, kept)
        # Both copies begin as y0.
        return a_y + a_z + grads[0], total

    def _half(
        self, step: GridStep, at: Tensor, a: Tensor, total: list[Tensor], *, there: bool
    ) -> tuple[Tensor, Tensor]:
        """Return what half a step adds, and ``a`` pulled back through it to the state that it starts from, ``[d]``."""
        scheme = self.solver.scheme
        if not isinstance(scheme, Reversible):
            raise TypeError(f"expected the reversible wrapper, got {scheme!r}")
        with torch.enable_grad():
            # The increment alone, onto zero: its value undoes the step, its graph pulls back, by the same f calls.
            leaf = at.detach().requires_grad_()
            stages = GraphStages(self.field, scheme.tableau, at)
            ends = (step.t, step.h, step.t_next) if there else (step.t_next, -step.h, step.t)
            half = ReversibleStepper(scheme, stages, stages).increment
            moved = half(stages, *ends, leaf, torch.zeros_like(at), sign=1.0 if there else -1.0)
        of_state, *of_parameters = self.field.pulled_through([moved], (leaf, *self.parameters), [a])
        add_to(total, of_parameters)
        return moved.detach(), torch.zeros_like(at) if of_state is None else of_state
