"""torchdiffeq's own ``odeint`` and ``odeint_adjoint`` as gradient methods, as published: for rows and cross-checks.

They use torchdiffeq's solver loop: it steps past the output times and interpolates, and calls f with its own clock.
"""

import dataclasses
import functools
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
import torchdiffeq
from torch import Tensor, nn

from odegrad.contracts import Solver, State, StateT, StepObserver, Traits, VectorField, unjudged_parts
from odegrad.errors import UnsupportedError
from odegrad.methods.solvers.dynamics import trained_parameters
from odegrad.methods.solvers.solver import NO_ONE_STEP_SOLVER, OneStepSolver
from odegrad.methods.solvers.times import checked_times

NAMES = {n: n for n in ("euler", "midpoint", "rk4", "bosh3", "dopri5", "dopri8")}
"""Our solvers' names -> torchdiffeq's. Its ``rk4`` is Kutta's 3/8 rule: the same order and cost, other digits."""


def _refuses(solver: Solver) -> str | None:
    if not isinstance(solver, OneStepSolver):
        return NO_ONE_STEP_SOLVER
    if solver.name not in NAMES:
        return f"torchdiffeq has no such method; use one of {sorted(NAMES)}"
    if not solver.adaptive and solver.estimates_error:
        return "torchdiffeq takes fixed steps with its fixed-step methods only; leave out num_steps and step_size"
    if solver.compile:
        return "torchdiffeq's steps are run as published; leave out compile"
    if solver.sees != "state":
        return "torchdiffeq's step control sees the state; use sees = 'state', and max_step to bound the steps"
    return None


class _Observed(nn.Module):
    """A field whose torchdiffeq callbacks tell an observer of its steps, forward and backward."""

    def __init__(self, field: VectorField, observer: StepObserver, *, adaptive: bool) -> None:
        super().__init__()
        self.field = field
        self.observer = observer
        if adaptive:
            self.callback_accept_step = self.callback_accept_step_adjoint = self._accept
            self.callback_reject_step = self.callback_reject_step_adjoint = self._reject
        else:
            self.callback_step = self.callback_step_adjoint = self._accept

    def forward(self, t: Tensor, y: State) -> State:
        return self.field(t, y)

    def _accept(self, t: Tensor, y: Tensor, h: Tensor) -> None:  # noqa: ARG002
        self.observer.accepted(float(t.detach()), float(h.detach()))

    def _reject(self, t: Tensor, y: Tensor, h: Tensor) -> None:  # noqa: ARG002
        self.observer.rejected(float(t.detach()), float(h.detach()))


def _arguments(field: VectorField, solver: Solver, ts: Tensor) -> dict[str, object]:
    reason = _refuses(solver)
    if reason is not None or not isinstance(solver, OneStepSolver):
        raise UnsupportedError(f"torchdiffeq cannot use solver {solver.name}: {reason or NO_ONE_STEP_SOLVER}")
    checked_times(ts)
    trained_parameters(field)
    options: dict[str, object] = {}
    if solver.adaptive and solver.first_step is not None:
        options["first_step"] = solver.first_step
    if solver.adaptive and solver.max_step is not None:
        options["max_step"] = solver.max_step
    if not solver.adaptive:
        options["grid_constructor"] = lambda _f, _y0, t: _fixed_grid(solver, t)
    unjudged = unjudged_parts(field)
    if solver.adaptive and unjudged:
        options["norm"] = functools.partial(_norm_of_judged, unjudged)
    func = field
    if solver.observer is not None:
        func = _Observed(field, solver.observer, adaptive=solver.adaptive)
    return {
        "func": func,
        "rtol": solver.controller.rtol,
        "atol": solver.controller.atol,
        "method": NAMES[solver.name],
        "options": options,
    }


def _norm_of_judged(unjudged: int, state: Sequence[Tensor]) -> Tensor:
    """Return torchdiffeq's norm of a tuple, the largest root mean square, of all but the last ``unjudged`` parts."""
    return torch.stack([part.square().mean().sqrt() for part in state[:-unjudged]]).amax()


def _fixed_grid(solver: OneStepSolver, ts: Tensor) -> Tensor:
    times: Sequence[float] = ts.tolist()
    grid = [times[0]]
    for t, t_end in itertools.pairwise(times):
        n = solver.steps_between(t, t_end)
        grid += [t + i * (t_end - t) / n for i in range(1, n)] + [t_end]
    return torch.tensor(grid, dtype=ts.dtype, device=ts.device)


@dataclass(frozen=True)
class TorchdiffeqNaive:
    """``torchdiffeq.odeint`` with autograd through it."""

    traits: ClassVar[Traits] = Traits(
        name="torchdiffeq_naive",
        summary="torchdiffeq.odeint, as published",
        paper="Chen, torchdiffeq, 2018-",
        exact=True,
        keeps="the graph of every accepted step",
        memory="A s N + K d",
        cost_forward="s(N+R)+2 F",
        cost_backward="sN B",
        backward_phase="recompute",
        double_backward=True,
        shared_loop=False,
    )

    def __call__(self, field: VectorField, solver: Solver, y0: StateT, ts: Tensor) -> StateT:
        """Solve; see ``odegrad.contracts.GradientMethod``.

        Raises
        ------
        UnsupportedError
            If torchdiffeq has no such solver.
        """
        out: StateT = torchdiffeq.odeint(y0=y0, t=ts, **_arguments(field, solver, ts))
        return out

    def refuses(self, solver: Solver) -> str | None:
        """Return why this method cannot use ``solver``, or None if it can."""
        return _refuses(solver)


@dataclass(frozen=True)
class TorchdiffeqAdjoint:
    """``torchdiffeq.odeint_adjoint``: state, costate and parameter gradient in one norm, at the solver's tolerances."""

    traits: ClassVar[Traits] = Traits(
        name="torchdiffeq_adjoint",
        summary="torchdiffeq.odeint_adjoint, as published",
        paper="Chen, torchdiffeq, 2018-",
        exact=False,
        keeps="the outputs",
        memory="A + (2d+p) stages + K d",
        cost_forward="s(N+R)+2 F",
        cost_backward="per output s(N'+R')+2 of (F+B)",
        backward_phase="adjoint",
        state_from="solve",
        shared_loop=False,
    )
    adjoint_options: ClassVar[Mapping[str, str] | None] = None

    def __call__(self, field: VectorField, solver: Solver, y0: StateT, ts: Tensor) -> StateT:
        """Solve; see ``odegrad.contracts.GradientMethod``.

        Raises
        ------
        UnsupportedError
            If torchdiffeq has no such solver.
        """
        arguments = _arguments(field, solver, ts)
        adjoint_options = None if self.adjoint_options is None else dict(self.adjoint_options)
        out: StateT = torchdiffeq.odeint_adjoint(
            y0=y0, t=ts, adjoint_params=tuple(field.parameters()), adjoint_options=adjoint_options, **arguments
        )
        return out

    def refuses(self, solver: Solver) -> str | None:
        """Return why this method cannot use ``solver``, or None if it can."""
        return _refuses(solver)


@dataclass(frozen=True)
class TorchdiffeqSeminorm(TorchdiffeqAdjoint):
    """``torchdiffeq.odeint_adjoint`` with its own seminorm: the parameter gradient is outside of the error norm."""

    traits: ClassVar[Traits] = dataclasses.replace(
        TorchdiffeqAdjoint.traits,
        name="torchdiffeq_seminorm",
        summary="torchdiffeq.odeint_adjoint with the seminorm, as published",
        paper='Kidger et al., "Hey, that\'s not an ODE": Faster ODE Adjoints via Seminorms, ICML 2021',
    )
    adjoint_options: ClassVar[Mapping[str, str] | None] = {"norm": "seminorm"}

    def refuses(self, solver: Solver) -> str | None:
        """Return why this method cannot use ``solver``, or None if it can."""
        if not solver.adaptive:
            return "a norm needs adaptive steps; use dopri5, bosh3 or dopri8 without num_steps and step_size"
        return _refuses(solver)
