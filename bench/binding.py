"""A gradient method bound to its solver, with or without the tap that an optimizer wants."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from odegrad.contracts import (
    CurvatureConsumer,
    CurvaturePasses,
    Ending,
    EventSolve,
    GradientMethod,
    Solve,
    Solver,
    StateT,
    Tap,
    Tappable,
    VectorField,
    ending_at_events,
    gives_samples_steps,
    taking_jumps,
)
from odegrad.errors import UnsupportedError, UsageError
from odegrad.event import Event
from odegrad.states import mapped, sent_to


def _as_it_is(field: VectorField) -> VectorField:
    return field


@dataclass(frozen=True)
class BoundSolve:
    """A gradient method bound to its solver: an ``EventSolve``, whose every solve goes through ``solved`` or ``until``.

    ``seen`` is what each field is wrapped in. Who listens, or puts other solves in the place of these, overrides
    ``solved`` and ``until``.
    """

    method: GradientMethod
    solver: Solver
    seen: Callable[[VectorField], VectorField] = _as_it_is

    def __call__(self, field: VectorField, y0: StateT, ts: Tensor, /) -> StateT:
        """Return the solution at ``ts``, ``[K]`` or ``[batch, K]``.

        Samples that share their steps are solved for at the union of all their times, by which every sample is carried
        to the last time of any; each is then handed out at its own.
        """
        if ts.dim() != 2 or gives_samples_steps(self.solver):
            return self.solved(field, self.solver, y0, ts)
        union = UnionOfTimes.of(ts)
        return union.picked(self.solved(field, self.solver, y0, union.times))

    def solved(self, field: VectorField, solver: Solver, y0: StateT, ts: Tensor) -> StateT:
        """Return one solve to known times, without a jump inside of them."""
        return self.method(self.seen(field), solver, y0, ts)

    def until(
        self, field: VectorField, y0: StateT, t0: Tensor, event: Event, /, *, reverse: bool = False
    ) -> Ending[StateT]:
        """Return where ``event`` is, from ``t0`` on: an ``Ending``.

        Raises
        ------
        UnsupportedError
            If the method or its solver cannot end at an event.
        """
        return ending_at_events(self.method).until(self.seen(field), self.solver, y0, t0, event, reverse=reverse)

    def across(self, field: VectorField, y0: StateT, ts: Tensor, jump_t: Sequence[float], /) -> StateT:
        """Return the solution at ``ts`` of a field that jumps at ``jump_t``: a solve from each to the next.

        Raises
        ------
        UnsupportedError
            If the method or its solver does not see the limits of the field there.
        """
        return taking_jumps(self.method).across(field, self.solver, y0, ts, jump_t, self.solved)


def solve_with(method: GradientMethod, solver: Solver) -> EventSolve:
    """Return the method bound to its solver."""
    return BoundSolve(method, solver)


@dataclass(frozen=True)
class UnionOfTimes:
    """The times of all samples, each once."""

    times: Tensor
    """``[U]``, in the order in which they are solved."""
    places: Tensor
    """``[batch, K]``: where each sample's own times are among them."""

    @classmethod
    def of(cls, ts: Tensor) -> "UnionOfTimes":
        """Return the union of ``ts [batch, K]``, whose rows may repeat their last times.

        Raises
        ------
        UsageError
            If the samples do not start at one time, or ``ts`` requires a gradient.
        """
        own = ts.detach()
        if own.numel() and not bool((own[:, 0] == own[0, 0]).all()):
            row = int((own[:, 0] != own[0, 0]).nonzero()[0])
            raise UsageError(
                f"ts: expected rows [batch, K] that start at one time where samples share their steps, got "
                f"{float(own[0, 0])!r} in row 0 and {float(own[row, 0])!r} in row {row}; count each sample's time from "
                "its own start, or give samples steps of their own by the solver option batch = 'per_sample'"
            )
        if ts.requires_grad:
            raise UsageError(
                "ts: a gradient by times [batch, K] of each sample's own needs the solver option batch = 'per_sample'; "
                "expected times without requires_grad where samples share their steps"
            )
        times, places = torch.unique(own, return_inverse=True)
        if own.numel() and bool(own[0, 0] > own[0, -1]):
            times, places = times.flip(0), len(times) - 1 - places
        return cls(times, places)

    def picked(self, ys: StateT) -> StateT:
        """Return a solution ``[U, batch, *state]`` at each sample's own times, ``[K, batch, *state]``."""

        def of_part(part: Tensor) -> Tensor:
            rows = sent_to(part.device, self.places).t()
            return part[rows, torch.arange(rows.shape[1], device=part.device)]

        return mapped(ys, of_part)


def tapped(method: GradientMethod, tap: Tap | None) -> GradientMethod:
    """Return ``method`` with ``tap`` watching, or as it is if there is none.

    Raises
    ------
    UnsupportedError
        If the method offers no taps.
    """
    if tap is None:
        return method
    if not isinstance(method, Tappable):
        raise UnsupportedError(
            f"gradient method {method.traits.name} offers no curvature samples, which this optimizer needs; "
            "use adjoint or interpolation with it, or a first-order optimizer"
        )
    return method.with_tap(tap)


def next_tap(optimizer: torch.optim.Optimizer) -> Tap | None:
    """Return the tap that the optimizer wants for the coming iteration, if any."""
    return optimizer.next_tap() if isinstance(optimizer, CurvatureConsumer) else None


def next_solve(optimizer: torch.optim.Optimizer, method: GradientMethod, solver: Solver, batch: object) -> Solve:
    """Return the solve of the coming iteration, with the tap that the optimizer wants.

    Where the optimizer takes its samples by passes of its own, it does so here, and the solve has no tap.

    Raises
    ------
    UnsupportedError
        If the optimizer needs curvature samples and the method offers none.
    """
    tap = next_tap(optimizer)
    solve = solve_with(tapped(method, tap), solver)
    if tap is not None and samples_by_itself(optimizer, solve, batch):
        solve = solve_with(method, solver)
    return solve


def samples_by_itself(optimizer: torch.optim.Optimizer, solve: Solve, batch: object) -> bool:
    """Let the optimizer take the samples of the tap on ``solve``, if it does so by passes of its own; say whether."""
    return isinstance(optimizer, CurvaturePasses) and optimizer.sample(solve, batch)
