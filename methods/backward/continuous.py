"""What the continuous methods share: their options, and the backward solve interval by interval."""

import abc
import copy
import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from odegrad.contracts import Calls, Sizes, StepCounts
from odegrad.errors import UnknownNameError, UnsupportedError
from odegrad.methods.backward.costate import (
    CostateDynamics,
    Parameters,
    TapSampler,
    Trajectory,
    check_parameters_option,
    costate_scale,
    solve_back,
)
from odegrad.methods.backward.costs import costate_calls, forward_calls
from odegrad.methods.backward.entry import NEEDS_TABLEAU, SPLIT
from odegrad.methods.backward.limits import check_positive
from odegrad.methods.backward.node import Gradients, SolveNode
from odegrad.methods.backward.per_sample.continuous import BackwardSteps
from odegrad.methods.backward.per_sample.cost import solved_back_calls
from odegrad.methods.backward.reconstruction import Limits
from odegrad.methods.backward.tappable import TappableMethod
from odegrad.methods.solvers.control import StepSize
from odegrad.methods.solvers.dynamics import FlatField
from odegrad.methods.solvers.implicit.tableau import Implicit, ImplicitTableau
from odegrad.methods.solvers.solver import OneStepSolver
from odegrad.methods.solvers.tableau import Tableau
from odegrad.methods.solvers.tableaus import TABLEAUS


@dataclass(frozen=True)
class ContinuousMethod(TappableMethod):
    """A method that solves the costate equation backwards: the gradient of the continuous problem, off by O(tol).

    Parameters
    ----------
    rtol, atol
        Tolerances of the backward solve; None for the solver's.
    parameters
        ``quadrature``: the parameter gradient by the weights of the accepted steps, outside of state and error norm
        (Kidger et al. 2021 show that it need not be controlled). ``state``: in the solved state and its norm, as first
        published. ``seminorm``: in the state, outside of the norm.
    normalize_costate
        Solve for the costate scaled to a root mean square of 1, so that ``atol`` means the same under any scaling of
        the loss; undone at the end. False as published.
    solver
        Name of the Runge-Kutta method of the backward solve; None for the solver's.

    A tap is asked for its own sample times.

    Raises
    ------
    UsageError
        If an option is out of range.
    """

    rtol: float | None = None
    atol: float | None = None
    parameters: Parameters = "quadrature"
    normalize_costate: bool = True
    solver: str | None = None
    backward: OneStepSolver | None = dataclasses.field(default=None, compare=False, init=False)
    """The solver of the backward solve with all that it is told, in the place of these options; no option itself. Its
    ``norm`` is of the backward state: ``CostateDynamics.own_norm``."""

    def __post_init__(self) -> None:
        """Check the options."""
        check_positive("rtol", self.rtol)
        check_positive("atol", self.atol)
        check_parameters_option(self.parameters)
        if self.solver is not None and self.solver not in TABLEAUS:
            raise UnknownNameError("solver of the backward solve", self.solver, TABLEAUS)

    def cannot_use(self, solver: OneStepSolver) -> str | None:
        """Return why this method cannot take the steps of ``solver``, or None if it can."""
        if solver.implicit:
            reason = self._cannot_go_back(solver)
            if reason is not None or self.solver is None:
                return reason
        if not (solver.implicit or isinstance(solver.scheme, Tableau)):
            return NEEDS_TABLEAU
        if self.reads_inside_steps and (solver.tableau if self.solver is None else TABLEAUS[self.solver]).dense is None:
            return f"it reads the backward solve from dense output, which it does not have; use {EXPLICIT_AND_DENSE}"
        return None

    def _cannot_go_back(self, solver: OneStepSolver) -> str | None:
        """Return why no costate can be solved for along the steps of an implicit ``solver``, or None if it can."""
        if self.traits.state_from == "solve":
            too = "" if not solver.has_dense_output or self._no_costate(solver) else " or interpolation_dense"
            return f"an implicit solver is for contracting dynamics, whose state cannot be solved back; use aca{too}"
        if self._no_costate(solver) is not None:
            return self._no_costate(solver)
        if self.parameters != "quadrature":
            return "an implicit costate solve has the parameters outside of its state; use parameters = 'quadrature'"
        return None

    @staticmethod
    def _no_costate(solver: OneStepSolver) -> str | None:
        """Return why the steps of an implicit ``solver`` are none that a costate takes, or None if they are."""
        return solver.only_redone or (SPLIT if solver.takes_halves else None)

    def refuses_rows_untapped(self, solver: OneStepSolver) -> str | None:
        """Return why this method cannot give every sample steps of its own, or None if it can."""
        if solver.implicit:
            return (
                "it solves the costate back by implicit steps that all samples share; use aca, whose pull-back goes "
                "through each sample's own, or batch = 'joint'"
            )
        if self.parameters == "state":
            return (
                "with batch = 'per_sample' a parameter gradient in the solved state would be one for each sample, "
                "batch times p numbers; use parameters = 'quadrature'"
            )
        tableau = self.backward_steps(solver).tableau
        if tableau.error is None:
            return f"the backward solve by {tableau.name} has fixed steps, the same for every sample; use dopri5 for it"
        return None

    def backward_steps(self, solver: OneStepSolver) -> BackwardSteps:
        """Return how the backward solve of samples with steps of their own goes."""
        tableau = solver.tableau if self.solver is None else TABLEAUS[self.solver]
        return BackwardSteps(tableau, self.rtol, self.atol, self.normalize_costate)

    def solving_back_with(self, solver: OneStepSolver) -> Self:
        """Return the same method with a backward solver of its own.

        Raises
        ------
        UnsupportedError
            If it is no Runge-Kutta method.
        """
        if not isinstance(solver.scheme, Tableau):
            raise UnsupportedError(f"the backward solve cannot use solver {solver.name}: {NEEDS_TABLEAU}")
        told = copy.copy(self)
        object.__setattr__(told, "backward", solver)
        return told

    @property
    def reads_inside_steps(self) -> bool:
        """Return whether the backward solve is read between the ends of its steps."""
        return self.tap is not None

    def predicted_calls(self, steps: StepCounts) -> Calls:
        """Return the f calls and vector-Jacobian products that these steps cost."""
        if steps.rounds is not None:
            return self._calls_of_rows(steps, self._backward(steps).evaluations)
        backward = self._backward(steps)
        calls = costate_calls(backward)
        predicted = Calls(forward_calls(steps), calls, calls)
        if not backward.implicit:
            return predicted
        attempts = steps.accepted_backward + steps.rejected_backward
        systems = steps.evaluations * attempts
        return dataclasses.replace(
            predicted,
            vjps=calls + steps.products * systems,
            jacobians=systems,
            factorisations=systems,
            solves=systems + (attempts if steps.adaptive else 0),
        )

    def bytes_of_stages(self, steps: StepCounts, sizes: Sizes) -> int:
        """Return the bytes of the backward solve's stages where its state is read from a trajectory."""
        # Of f too, whose integral judges the steps beside the costate.
        stages = steps.evaluations + steps.restart
        return 2 * stages * sizes.state_bytes + (stages + 1) * sizes.parameter_bytes

    def _calls_of_rows(self, steps: StepCounts, s: int) -> Calls:
        """Return the calls where samples have steps of their own, ``s`` a backward step."""
        b = steps.weights if self.solver is None else TABLEAUS[self.solver].b
        return solved_back_calls(steps, s, sum(w != 0.0 for w in b))

    def _backward(self, steps: StepCounts) -> StepCounts:
        """Return ``steps`` as the backward solve takes them: it chooses its first step, and may have its own solver."""
        if self.solver is None:
            return dataclasses.replace(steps, start=2 - steps.known_stages if steps.adaptive else steps.start)
        tableau = TABLEAUS[self.solver]
        adaptive, restart = steps.adaptive and tableau.error is not None, int(tableau.fsal)
        return dataclasses.replace(
            steps,
            implicit=False,
            evaluations=tableau.evaluations,
            adaptive=adaptive,
            restart=restart,
            start=1 + restart if adaptive else restart,
            known_stages=1 - restart,
        )


EXPLICIT_AND_DENSE = "dopri5, bosh3 or rk4"
"""Explicit solvers with dense output."""


def with_dense_output(solver: OneStepSolver) -> str:
    """Return which solvers to take instead of ``solver``, which has no dense output."""
    return "kvaerno3 or kencarp4" if solver.implicit else EXPLICIT_AND_DENSE


def stages_of(solver: OneStepSolver) -> Tableau | ImplicitTableau:
    """Return the Butcher tableau of ``solver``, explicit or implicit."""
    return solver.scheme.tableau if isinstance(solver.scheme, Implicit) else solver.tableau


class BackwardSolveNode(SolveNode):
    """The pull-back that solves the costate equation from each output to the one before."""

    def __init__(
        self, field: FlatField, solver: OneStepSolver, times: Sequence[float], options: ContinuousMethod
    ) -> None:
        super().__init__(field, solver, times)
        self.options = options
        self.tap = options.tap

    @abc.abstractmethod
    def state(self, k: int, kept: tuple[Tensor, ...]) -> Tensor | Trajectory:
        """Return how ``y`` is known between outputs k - 1 and k: ``y(t_k) [d]`` to solve it back, or a trajectory."""

    def arrive(self, k: int, y: Tensor, kept: tuple[Tensor, ...]) -> None:
        """Hear that the state has been solved back to ``y [d]`` at output k."""

    def arrived(self, kept: tuple[Tensor, ...]) -> None:
        """Hear that the start is reached: tell how far the state of this pass was from the forward pass's."""

    def limits(self) -> Limits:
        """Return how far it may be."""
        back = self.options.backward.controller if self.options.backward is not None else self.options
        return Limits.of(self.solver, back.rtol, back.atol)

    def dynamics(self, solver: OneStepSolver) -> CostateDynamics:
        """Return the right-hand side of the backward solve."""
        return CostateDynamics(self.field, self.parameters, stages_of(solver), self.options.parameters)

    def pull_back(self, grads: Tensor, kept: tuple[Tensor, ...]) -> Gradients:
        """Solve back interval by interval."""
        options = self.options
        solver = dataclasses.replace(
            self.solver.with_tolerances(options.rtol, options.atol),
            scheme=self.solver.scheme if options.solver is None else TABLEAUS[options.solver],
            first_step=None,
            carried=None,
            outputs="step_ends",
        )
        if options.backward is not None:
            solver = dataclasses.replace(options.backward, outputs="step_ends", observer=self.solver.observer)
        # The costate's equation is linear: solved for a / scale, tolerances are relative to the loss's gradient, and a
        # loss in other units takes the same steps. The first output is the initial state itself: nothing to solve.
        scale = costate_scale(grads[1:]) if options.normalize_costate else torch.ones_like(grads[0, 0])
        dynamics = self.dynamics(solver)
        dynamics.own_norm = None if options.backward is None else options.backward.norm
        dynamics.own_tolerances = any(x is not None for x in (options.rtol, options.atol, options.backward))
        a, size = torch.zeros_like(grads[0]), StepSize()
        for k in range(len(grads) - 1, 0, -1):
            # The costate jumps at an output, so the solve starts anew there, from the stored state: the error of the
            # reversed state does not pass from interval to interval. The step size does, for the dynamics are the same.
            interval = (self.times[k], self.times[k - 1])
            state = self.state(k, kept)
            dynamics.trajectory = None if isinstance(state, Tensor) else state
            tap = TapSampler(options.tap, dynamics, *interval, scale) if options.tap is not None else None
            y = state if isinstance(state, Tensor) else None
            x = solve_back(dynamics, solver, interval, y, a + grads[k] / scale, tap, size)
            a = dynamics.costate(x)
            if y is not None:
                self.arrive(k - 1, x[: dynamics.d], kept)
        self.arrived(kept)
        return a * scale + grads[0], [g * scale for g in dynamics.total]
