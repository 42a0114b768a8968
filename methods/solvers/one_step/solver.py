"""A one-step solver: what its options say of order, dense output, steps and f calls."""

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from odegrad.contracts import ImplicitWork, RowCounts, Solver, StepCounts, StepObserver, gives_samples_steps
from odegrad.errors import UnsupportedError
from odegrad.methods.solvers.implicit.additive import Imex
from odegrad.methods.solvers.implicit.tableau import Implicit
from odegrad.methods.solvers.one_step.options import SolverOptions
from odegrad.methods.solvers.rosenbrock.tableau import NO_ROSENBROCK, Rosenbrock
from odegrad.methods.solvers.schemes import ExtendedTableau, Leapfrog, Reversible
from odegrad.methods.solvers.switching.scheme import NO_SWITCHING, Switching
from odegrad.methods.solvers.tableau import Tableau

NO_ONE_STEP_SOLVER = "it takes the steps itself, with a solver of this package; make one with make_solver"
"""Why a method refuses a solver that is no ``OneStepSolver``."""


@dataclass(frozen=True)
class OneStepSolver(SolverOptions, Solver):
    """A one-step solver that lands on every output time, or on the last one only.

    Adaptive where the scheme estimates its error and neither ``num_steps`` nor ``step_size`` is given; otherwise each
    interval between two landings is divided evenly: into ``num_steps`` steps, or the fewest of at most ``step_size``.
    The parameters are those of ``SolverOptions``.
    """

    @property
    def per_sample(self) -> bool:
        """Return whether every sample has its own steps."""
        return gives_samples_steps(self)

    @property
    def refuses_per_sample(self) -> str | None:
        """Return why samples cannot have steps of their own, None if they can."""
        if not isinstance(self.scheme, Tableau | Implicit) or self.takes_halves:
            return f"samples have steps of their own on Runge-Kutta methods, which {self.name} is not"
        if not self.adaptive:
            return f"the steps of solver {self.name} are fixed here, and the same for every sample"
        linear = self.scheme.linear if isinstance(self.scheme, Implicit) else "auto"
        if linear not in ("auto", "blocks"):
            return f"each sample has a system of its own there, so not linear = {linear!r}; leave that out"
        return self._option_against_own_steps()

    def _option_against_own_steps(self) -> str | None:
        for option, others in (("compile", (False,)), ("sees", ("state",))):
            if getattr(self, option) not in others:
                return f"steps of each sample's own do not go with {option} = {getattr(self, option)!r}; leave that out"
        if self.outputs == "dense" and self.implicit:
            return "implicit steps of single samples are not read inside; leave outputs = 'dense' out"
        named = {"tolerances": "tolerances by part or number of the state (rtol, atol): give one number each"}
        for option in ("step_t", "norm", "tolerances", "min_step"):
            if getattr(self, option):
                what = named.get(option, f"{option}; leave that out")
                return f"steps of each sample's own do not go with {what}"
        if self.one_sided:
            return "samples with steps of their own do not end one where the field jumps; use batch = 'joint'"
        return None

    @property
    def refuses_precision(self) -> str | None:
        """Return why the field cannot compute in a low type, None if it can."""
        if self.precision and self.implicit:
            return (
                f"precision = {self.precision!r}: its stages are solved for by the field's Jacobian, to a hundredth of "
                "the tolerance, which a field in 16 bits cannot tell; use an explicit solver such as dopri5, or leave "
                "precision out"
            )
        return None

    @property
    def order(self) -> int:
        """Return the scheme's order."""
        return self.scheme.order

    @property
    def implicit(self) -> bool:
        """Return whether a step solves linear systems with the field's Jacobian."""
        return isinstance(self.scheme, Implicit | Rosenbrock | Switching)

    @property
    def switches(self) -> bool:
        """Return whether each step is one of an explicit or of an implicit method."""
        return isinstance(self.scheme, Switching)

    @property
    def takes_halves(self) -> bool:
        """Return whether it steps with the two halves of a field that is split."""
        return isinstance(self.scheme, Imex)

    @property
    def only_redone(self) -> str | None:
        """Return why only methods that redo steps or keep their graph know the way back through them; None if others.

        Of a split field ``takes_halves`` says that there are others, but few.
        """
        if isinstance(self.scheme, Rosenbrock):
            return NO_ROSENBROCK
        return NO_SWITCHING if self.switches else None

    @property
    def control_order(self) -> int:
        """Return the power of the step that the error estimate goes with."""
        scheme = self.scheme
        if isinstance(scheme, Implicit | Rosenbrock | Switching) and scheme.tableau.embedded_order:
            return min(scheme.order, scheme.tableau.embedded_order) + 1
        return scheme.order

    @property
    def tableau(self) -> Tableau:
        """Return the Butcher tableau.

        Raises
        ------
        UnsupportedError
            If the scheme is no plain Runge-Kutta method.
        """
        if not isinstance(self.scheme, Tableau):
            raise UnsupportedError(
                f"solver {self.name}: expected an explicit Runge-Kutta method; use one such as dopri5"
            )
        return self.scheme

    @property
    def reads_inside_steps(self) -> bool:
        """Return whether outputs inside the interval are read from the dense output, and end no steps.

        ``auto`` does so with adaptive steps if the dense output's polynomial has at least the degree of the result
        whose error the step control holds: both errors then have at least that power of the step, plus one. Samples
        with steps of their own end one at each output. So do implicit steps: on a fast mode, which follows the slow
        ones at the stages however long the step, the estimate says nothing of what a polynomial does in between.
        """
        if self.outputs == "auto":
            apart = self.per_sample or self.implicit
            return self.adaptive and not apart and self.dense_degree >= self._judged_order
        return self.outputs == "dense"

    @property
    def _judged_order(self) -> int:
        """Return the order of the result whose error the step control estimates."""
        scheme = self.scheme
        if isinstance(scheme, Implicit | Rosenbrock | Switching) and scheme.tableau.embedded_order:
            return min(scheme.order, scheme.tableau.embedded_order)
        return scheme.order - 1

    @property
    def dense_degree(self) -> int:
        """Return the degree of the dense output's polynomial; 0 if there is none."""
        if isinstance(self.scheme, Implicit | Switching):
            return self.scheme.dense_degree
        dense = self._stepped.dense if self._stepped is not None else None
        return len(dense[0]) if dense else 0

    def counted(
        self,
        intervals: int,
        forward: tuple[int, int] = (0, 0),
        backward: tuple[int, int] = (0, 0),
        works: Sequence[ImplicitWork] = (),
        rounds: tuple[Sequence[RowCounts], Sequence[RowCounts]] = ((), ()),
    ) -> StepCounts:
        """Return the step counts of a solve over ``intervals`` with these accepted and rejected steps each way.

        ``works`` is what an observer has heard of the forward pass's implicit steps, in its order; ``rounds`` of the
        rounds each way where samples have steps of their own.
        """
        scheme = self.scheme
        carries_rate = isinstance(scheme, Implicit | Switching) and scheme.carries_rate
        return StepCounts(
            evaluations=self.scheme.evaluations,
            adaptive=self.adaptive,
            start=self.start_calls,
            restart=self.restart_calls,
            carried=int(isinstance(scheme, Leapfrog) or carries_rate),
            dense_degree=self.dense_degree,
            intervals=intervals,
            accepted=forward[0],
            rejected=forward[1],
            accepted_backward=backward[0],
            rejected_backward=backward[1],
            carried_states=2 if isinstance(scheme, Leapfrog | Reversible) or carries_rate else 1,
            implicit=self.implicit,
            linear_stages=scheme.evaluations if isinstance(scheme, Rosenbrock) else 0,
            explicit_evaluations=scheme.explicit.evaluations if isinstance(scheme, Switching) else 0,
            node_states=scheme.node_states if isinstance(scheme, Implicit | Rosenbrock | Switching) else 0,
            rest_stages=scheme.rest_stages if isinstance(scheme, Implicit) else 0,
            work=sum(works, ImplicitWork()),
            newton_by_step=tuple(work.newton for work in works if work.newton or work.explicit_steps),
            weights=scheme.b if isinstance(scheme, Tableau) else (),
            known_stages=self.known_stages,
            rounds_forward=tuple(rounds[0]),
            rounds_backward=tuple(rounds[1]),
        )

    @property
    def estimates_error(self) -> bool:
        """Return whether a step comes with an estimate of its error."""
        if isinstance(self.scheme, Leapfrog):
            return True
        tableau = self.scheme if isinstance(self.scheme, Tableau) else self.scheme.tableau
        return tableau.error is not None

    @property
    def adaptive(self) -> bool:
        """Return whether steps are chosen from an error estimate."""
        return self.estimates_error and self.num_steps is None and self.step_size is None and self.grid is None

    @property
    def restart_calls(self) -> int:
        """Return the f calls that stand on a new state cost before the first step: the reused first stage."""
        scheme = self.scheme
        if isinstance(scheme, Implicit | Switching):
            return scheme.restart_calls
        tableau = self._stepped
        return 1 if isinstance(scheme, Leapfrog) or (tableau is not None and tableau.fsal) else 0

    @property
    def start_calls(self) -> int:
        """Return the f calls of a solve beside those of its attempts: those that choose the first step's size."""
        if not self.adaptive:
            return self.restart_calls
        if isinstance(self.scheme, Rosenbrock):
            # The first rate is told by the call that linearises the field for the first step.
            return 0 if self.first_step is not None else 1
        # The first of them is the first stage of the first attempt, if that would be a call of its own.
        return (1 if self.first_step is not None else 2) - self.known_stages

    @property
    def known_stages(self) -> int:
        """Return the f calls that a further attempt from the same state saves."""
        tableau = self._stepped
        return int(tableau is not None and not tableau.fsal)

    def observed_by(self, observer: StepObserver) -> Self:
        """Return the same solver with ``observer`` hearing of its steps."""
        return dataclasses.replace(self, observer=observer)

    def uncompiled(self) -> Self:
        """Return the same solver without compiled steps, whose function calls can be counted."""
        return dataclasses.replace(self, compile=False)

    def with_tolerances(self, rtol: float | None, atol: float | None) -> Self:
        """Return the same solver with other tolerances; None keeps one."""
        rtol = self.controller.rtol if rtol is None else rtol
        atol = self.controller.atol if atol is None else atol
        return dataclasses.replace(self, controller=dataclasses.replace(self.controller, rtol=rtol, atol=atol))

    def reversible(self, coupling: float) -> Self:
        """Return the same solver with its Runge-Kutta method in the reversible wrapper."""
        return dataclasses.replace(self, scheme=Reversible(self.tableau, coupling))

    def extended(self, scheme: ExtendedTableau) -> Self:
        """Return the same solver with steps that do more; ``scheme`` extends its Runge-Kutta method."""
        return dataclasses.replace(self, scheme=scheme)

    def grid_ends(self, t: float, t_end: float) -> list[float]:
        """Return the ends of the steps from ``t`` to ``t_end`` on the given grid."""
        low, high = min(t, t_end), max(t, t_end)
        return [*sorted((g for g in self.grid or () if low < g < high), reverse=t > t_end), t_end]

    def output_ends(self, times: Sequence[float]) -> Sequence[float]:
        """Return the outputs that end a step, of a solve with outputs at ``times``."""
        return times[-1:] if self.reads_inside_steps else times[1:]

    def landings(self, times: Sequence[float]) -> list[float]:
        """Return the times that end a step whatever the step control says, of a solve with these outputs."""
        ends = set(self.output_ends(times))
        low, high = min(times[0], times[-1]), max(times[0], times[-1])
        return sorted(ends | {t for t in self.step_t if low < t < high}, reverse=times[-1] < times[0])

    def steps_between(self, t: float, t_end: float) -> int:
        """Return the number of fixed steps from ``t`` to ``t_end``."""
        if self.grid is not None:
            return len(self.grid_ends(t, t_end))
        if self.step_size is not None:
            # An interval of n whole steps must not become n + 1 of them because their quotient rounds up.
            return max(1, math.ceil(abs(t_end - t) / self.step_size * (1 - 1e-12)))
        return self.num_steps or 1
