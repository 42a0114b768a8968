"""A gradient method bound to its solver, with or without the tap that an optimizer wants."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

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
    pass_on,
    taking_jumps,
)
from odegrad.errors import UnsupportedError, UsageError
from odegrad.event import Event
from odegrad.states import mapped, parts, sent_to


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
        to the last time of any; each is then handed out at its own. Where they start apart, all count their times from
        their own starts.
        """
        if ts.dim() != 2 or gives_samples_steps(self.solver):
            return self.solved(field, self.solver, y0, ts)
        union = UnionOfTimes.of(ts, field)
        return union.picked(self.solved(union.seen(field), self.solver, y0, union.times))

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


class _FromOwnStarts(nn.Module):
    """A field whose samples start at times of their own, as one of the time since: ``f(t_i0 + t, y)``."""

    def __init__(self, inner: VectorField, starts: Tensor) -> None:
        super().__init__()
        self.inner = inner
        self.starts = starts
        pass_on(inner, self)

    def forward(self, t: Tensor, y: StateT) -> StateT:
        """Return ``dy/dt`` at a time ``t``, 0-d or ``[batch, 1, ..., 1]``, since each sample's start."""
        first = parts(y)[0]
        own = sent_to(first.device, self.starts, first.dtype).view(-1, *[1] * (first.dim() - 1))
        return self.inner(own + t, y)


@dataclass(frozen=True)
class UnionOfTimes:
    """The times of all samples, each once."""

    times: Tensor
    """``[U]``, in the order in which they are solved; since the samples' own starts where these are apart."""
    places: Tensor
    """``[batch, K]``: where each sample's own times are among them."""
    starts: Tensor | None = None
    """``[batch]``: the samples' starts where these are apart."""

    @classmethod
    def of(cls, ts: Tensor, field: VectorField) -> "UnionOfTimes":
        """Return the union of ``ts [batch, K]``, whose rows may repeat their last times, for a solve of ``field``.

        Raises
        ------
        UsageError
            If the samples do not start at one time and the field takes one time for all, or ``ts`` requires a gradient.
        """
        if ts.requires_grad:
            raise UsageError(
                "ts: a gradient by times [batch, K] of each sample's own needs the solver option batch = 'per_sample'; "
                "expected times without requires_grad where samples share their steps"
            )
        own, starts = ts, None
        if own.numel() and not bool((own[:, 0] == own[0, 0]).all()):
            if not getattr(field, "sample_time", False):
                row = int((own[:, 0] != own[0, 0]).nonzero()[0])
                raise UsageError(
                    f"ts: expected rows [batch, K] that start at one time where samples share their steps, as they do "
                    f"in the reference, got {float(own[0, 0])!r} in row 0 and {float(own[row, 0])!r} in row {row}; let "
                    "the field take t as [batch, 1, ...] and set sample_time = True on it, or count each sample's time "
                    "from its own start"
                )
            # In float64, or equal times since unlike starts would come out unlike.
            starts = own[:, 0].double()
            own = (own.double() - starts[:, None]).to(own.dtype)
        times, places = torch.unique(own, return_inverse=True)
        if own.numel() and bool(own[0, 0] > own[0, -1]):
            times, places = times.flip(0), len(times) - 1 - places
        return cls(times, places, starts)

    def seen(self, field: VectorField) -> VectorField:
        """Return ``field`` as it is solved at ``times``."""
        return field if self.starts is None else _FromOwnStarts(field, self.starts)

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
