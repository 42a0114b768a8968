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
from odegrad.methods.peers.mapping import PeerMapping
from odegrad.methods.peers.method import PeerMethod, solved_back, through_steps
from odegrad.methods.solvers.dynamics import trained_parameters
from odegrad.methods.solvers.solver import OneStepSolver

TORCHDIFFEQ = PeerMapping(
    library="torchdiffeq",
    distribution="torchdiffeq",
    install="it is one of odegrad's own requirements: install odegrad again",
    adaptive={name: name for name in ("bosh3", "dopri5", "dopri8")},
    fixed={name: name for name in ("euler", "midpoint", "rk4")},
    options=frozenset({"first_step", "max_step", "factors"}),
    norm="largest root mean square over the parts of the state",
    times_have_gradient=True,
    faults=(
        "its rk4 is Kutta's 3/8 rule: the same order and cost, other digits",
        "it steps past the last output too, and calls f there",
        "its adjoint holds the gradient of the parameters in state and norm, unless the seminorm is asked for",
    ),
)

_PEER = dataclasses.replace(TORCHDIFFEQ.named, optional=False, tells_steps=True, takes_norm=True)


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
    taken, method = TORCHDIFFEQ.taken(solver)
    TORCHDIFFEQ.times(ts)
    trained_parameters(field)
    unjudged = unjudged_parts(field)
    func = field
    if taken.observer is not None:
        func = _Observed(field, taken.observer, adaptive=taken.adaptive)
    control = taken.controller
    return {
        "func": func,
        "rtol": control.rtol,
        "atol": control.atol,
        "method": method,
        "options": _options(taken, unjudged),
    }


def _options(solver: OneStepSolver, unjudged: int) -> Mapping[str, object]:
    if not solver.adaptive:
        return {"grid_constructor": lambda _f, _y0, t: _fixed_grid(solver, t)}
    control = solver.controller
    told: dict[str, object] = {"first_step": solver.first_step, "max_step": solver.max_step}
    if unjudged:
        told["norm"] = functools.partial(_norm_of_judged, unjudged)
    factors = {"safety": control.safety, "ifactor": control.max_factor, "dfactor": control.min_factor}
    return factors | {option: value for option, value in told.items() if value is not None}


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


def _beside(y0: State, ts: Tensor) -> Tensor:
    """Return ``ts`` on the state's device, where torchdiffeq wants it."""
    return ts.to((y0 if isinstance(y0, Tensor) else y0[0]).device)


@dataclass(frozen=True)
class TorchdiffeqNaive(PeerMethod):
    """``torchdiffeq.odeint`` with autograd through it."""

    traits: ClassVar[Traits] = through_steps(
        "torchdiffeq_naive",
        "torchdiffeq.odeint, as published",
        "Chen, torchdiffeq, 2018-",
        _PEER,
        times="computed",
        twice=True,
    )
    mapping: ClassVar[PeerMapping] = TORCHDIFFEQ

    def solved(self, field: VectorField, solver: Solver, y0: StateT, ts: Tensor) -> StateT:
        """Return the library's solution at ``ts``."""
        out: StateT = torchdiffeq.odeint(y0=y0, t=_beside(y0, ts), **_arguments(field, solver, ts))
        return out


@dataclass(frozen=True)
class TorchdiffeqAdjoint(PeerMethod):
    """``torchdiffeq.odeint_adjoint``: state, costate and parameter gradient in one norm, at the solver's tolerances."""

    traits: ClassVar[Traits] = solved_back(
        "torchdiffeq_adjoint",
        "torchdiffeq.odeint_adjoint, as published",
        "Chen, torchdiffeq, 2018-",
        _PEER,
        times="continuous",
    )
    mapping: ClassVar[PeerMapping] = TORCHDIFFEQ
    adjoint_options: ClassVar[Mapping[str, str] | None] = None

    def solved(self, field: VectorField, solver: Solver, y0: StateT, ts: Tensor) -> StateT:
        """Return the library's solution at ``ts``."""
        arguments = _arguments(field, solver, ts)
        adjoint_options = None if self.adjoint_options is None else dict(self.adjoint_options)
        out: StateT = torchdiffeq.odeint_adjoint(
            y0=y0,
            t=_beside(y0, ts),
            adjoint_params=tuple(field.parameters()),
            adjoint_options=adjoint_options,
            **arguments,
        )
        return out


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
        return super().refuses(solver)
