"""The count pass: f calls, products, steps, operators and host waits of one forward and one backward pass.

All at the parameters as they are, with an uncompiled solver.
"""

import dataclasses
import itertools
import math
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Any

import torch
from torch import Tensor

from odegrad.binding import BoundSolve, solve_with, tapped
from odegrad.contracts import (
    HALVES,
    Ending,
    GradientMethod,
    ImplicitWork,
    RowCounts,
    Solve,
    Solver,
    State,
    StateT,
    Tap,
    Traits,
    VectorField,
)
from odegrad.event import Event
from odegrad.measuring.cost import SolveCost, graph_sizes, predicted_columns, sizes_of
from odegrad.measuring.counting import CountedField, CountedTap, Counts
from odegrad.measuring.meters import HostWaits
from odegrad.measuring.operators import OperatorCount
from odegrad.methods.solvers.solver import OneStepSolver
from odegrad.reference.subject import Subject
from odegrad.states import parts

OF_TORCH = ("operators_forward", "operators_backward", "flops_forward", "flops_backward", "host_syncs")
"""Columns that only torch's own work has."""

Sample = Callable[[Solve], bool]
"""Takes curvature samples by a solve, and says whether it has."""


@dataclass
class SolveLog:
    """One solve of a loss; observes its own steps by phase, and tells ``counts`` of them."""

    counts: Counts
    vector_field: VectorField
    y0: State
    ts: Tensor
    accepted_steps: Counter[str] = field(default_factory=Counter)
    rejected_steps: Counter[str] = field(default_factory=Counter)
    works: dict[str, list[ImplicitWork]] = field(default_factory=dict)
    rounds: dict[str, list[RowCounts]] = field(default_factory=dict)
    pulled_back: bool = False
    landings: int = 0
    size_known: bool = False
    """Whether the solve goes on with the step size of the one before it, over a jump."""
    time_calls: int = 0
    """f calls for gradients by times."""
    starts: list[float] = field(default_factory=list)
    """Where the accepted steps of the forward pass begin."""

    @property
    def outputs(self) -> int:
        """Return K, the output times."""
        return self.ts.shape[-1]

    def reached(self) -> tuple[tuple[int, bool], ...]:
        """Return the outputs inside of every accepted step of samples that share them, and whether one ends it."""
        times = self.ts.tolist()
        # A step begins where the one before it has ended, and the last one ends at the last output.
        steps = itertools.pairwise([*self.starts, times[-1]])
        return tuple((sum(min(a, b) < t < max(a, b) for t in times), b in times) for a, b in steps)

    def solved_in_rounds(self, counts: RowCounts) -> None:
        """Note the rounds of a solve whose samples have steps of their own."""
        self.counts.solved_in_rounds(counts)
        self.rounds.setdefault(self.counts.phase, []).append(counts)

    def worked(self, work: ImplicitWork) -> None:
        """Note the work of an implicit step."""
        self.counts.worked(work)
        self.works.setdefault(self.counts.phase, []).append(work)

    def accepted(self, t: float, h: float) -> None:
        """Count an accepted step."""
        self.counts.accepted(t, h)
        self.accepted_steps[self.counts.phase] += 1
        if self.counts.phase == "forward":
            self.starts.append(t)

    def rejected(self, t: float, h: float) -> None:
        """Count a rejected step."""
        self.counts.rejected(t, h)
        self.rejected_steps[self.counts.phase] += 1

    def ended(self, landings: int, evaluations: int) -> None:
        """Note that the solve has landed on its event."""
        self.counts.ended(landings, evaluations)
        self.landings += landings

    def reconstructed(self, error: float) -> None:
        """Hear how far the state of the backward pass was off."""
        self.counts.reconstructed(error)

    def scaled(self, log2: int, retries: int) -> None:
        """Hear how the cotangents of a float16 field were scaled."""
        self.counts.scaled(log2, retries)

    def watch(self, ys: State) -> None:
        """Note whether a gradient arrives at the solution ``ys``."""
        for part in parts(ys):
            if part.requires_grad:
                part.register_hook(self._note)  # type: ignore[no-untyped-call]

    def _note(self, _grad: Tensor) -> None:
        self.pulled_back = True


def count_columns(
    subject: Subject,
    method: GradientMethod,
    solver: OneStepSolver,
    tap: Tap | None = None,
    sample: Sample | None = None,
) -> dict[str, object]:
    """Return every column of the count pass but the certificate; the subject is left as it was.

    Parameters
    ----------
    subject, method, solver
        What is counted; the solver uncompiled.
    tap
        The optimizer's tap for this iteration, whose f calls count apart; the operators are counted without it.
    sample
        Takes the tap's samples by passes of its own, if the optimizer does so.
    """
    with subject.left_as_it_was():
        counts, solves = counted_iteration(subject, method, solver, tap, sample)
    columns = _calls(counts, method.traits)
    columns |= _systems(counts, method.traits.backward_phase, implicit=solver.implicit)
    columns |= _explicit_steps(counts, solver)
    columns |= _halves(counts, method.traits.backward_phase, solver)
    columns |= _rows(counts, method.traits.backward_phase, solver)
    columns |= {"event_landings": counts.landings, "event_evaluations": counts.event_evaluations}
    columns |= {"scale_log2": counts.scale_log2, "scale_retries": counts.scale_retries}
    with subject.left_as_it_was():
        columns |= _operators(subject, method, solver)
    if method.traits.peer is not None and not method.traits.peer.seen:
        columns |= dict.fromkeys(OF_TORCH)
    with subject.left_as_it_was():
        costs = solve_costs(solves, solver, method.traits.backward_phase)
    # a backward pass that was done again, as its cotangents overflowed, is no part of the model
    unmodelled = bool(counts.scale_retries)
    # nor are the products of GMRES, which go by its inner iterations
    unmodelled |= any(cost.steps.work.jacobians > 0 and cost.steps.products == 0 for cost in costs)
    return columns | predicted_columns(method, [] if unmodelled else costs)


def calls_of_an_iteration(subject: Subject, method: GradientMethod, solver: OneStepSolver) -> tuple[int, int]:
    """Return the f calls forward and backward of one iteration; the subject is left as it was."""
    with subject.left_as_it_was():
        counts, _ = counted_iteration(subject, method, solver)
    return counts.calls["forward"], counts.calls[method.traits.backward_phase]


def counted_iteration(
    subject: Subject,
    method: GradientMethod,
    solver: OneStepSolver,
    tap: Tap | None = None,
    sample: Sample | None = None,
) -> tuple[Counts, list[SolveLog]]:
    """Return the counts of one forward and one backward pass, and the solves of the loss.

    ``sample`` is given a solve that ``tap`` watches, and says whether it has taken the tap's samples by itself.
    """
    counts = Counts()
    solves: list[SolveLog] = []
    watched = tapped(method, None if tap is None else CountedTap(tap, counts))

    def counted(method: GradientMethod) -> Solve:
        return _Counted(method, solver, counts=counts, solves=solves)

    with counts.during("tap"):
        if tap is not None and sample is not None and sample(counted(watched)):
            watched = method
    solves.clear()
    loss = subject.loss(counted(watched))
    with counts.during(method.traits.backward_phase):
        subject.pull_back(loss)
    return counts, solves


@dataclass(frozen=True)
class _Counted(BoundSolve):
    """A solve that is counted, and noted in ``solves``."""

    counts: Counts = field(default_factory=Counts)
    solves: list[SolveLog] = field(default_factory=list)

    def solved(self, field: VectorField, solver: Solver, y0: StateT, ts: Tensor) -> StateT:
        log = SolveLog(self.counts, field, y0, ts)
        carried = solver.carried if isinstance(solver, OneStepSolver) else None
        log.size_known = carried is not None and carried.h is not None
        log.time_calls = log.outputs if ts.requires_grad and torch.is_grad_enabled() else 0
        counted = CountedField(field, self.counts, ts[..., :: ts.shape[-1] - 1])
        ys = super().solved(counted, solver.observed_by(log), y0, ts)
        log.watch(ys)
        self.solves.append(log)
        return ys

    def until(
        self, field: VectorField, y0: StateT, t0: Tensor, event: Event, /, *, reverse: bool = False
    ) -> Ending[StateT]:
        # Where the solve ends is not known before: it may be anywhere up to the limit.
        never = -math.inf if reverse else math.inf
        limit = t0.new_tensor(never if event.t_max is None else event.t_max)
        interval = torch.stack([t0.detach().reshape(()), limit])
        log = SolveLog(self.counts, field, y0, interval)
        able = BoundSolve(self.method, self.solver.observed_by(log))
        end = able.until(CountedField(field, self.counts, interval), y0, t0, event, reverse=reverse)
        moves = any(part.requires_grad for part in parts(end.states)) and event.differentiated
        by_limit = event.limit is not None and event.limit.requires_grad
        log.time_calls = int(t0.requires_grad and torch.is_grad_enabled()) + int(moves and (end.found or by_limit))
        log.watch(end.states)
        log.watch(end.time)
        self.solves.append(log)
        return end


def _calls(counts: Counts, traits: Traits) -> dict[str, object]:
    back, told = traits.backward_phase, traits.peer is None or traits.peer.tells_steps
    steps = {
        "accepted_steps": counts.accepted_steps["forward"],
        "rejected_steps": counts.rejected_steps["forward"],
        "accepted_steps_backward": counts.accepted_steps[back],
        "rejected_steps_backward": counts.rejected_steps[back],
    }
    return {
        "nfe_forward": counts.calls["forward"],
        "nfe_backward": counts.calls[back],
        "nfe_tap": counts.calls["tap"],
        "nfe_outside": None if counts.times_hidden else counts.outside.total(),
        "vjps": counts.vjps[back],
        **(steps if told else dict.fromkeys(steps)),
        "reconstruction_error": counts.reconstruction_error,
    }


def _systems(counts: Counts, back: str, *, implicit: bool) -> dict[str, object]:
    """Return the columns of Newton's iterations and linear systems; None where no step is implicit."""
    forward, backward = (counts.work.get(phase, ImplicitWork()) for phase in ("forward", back))
    columns: dict[str, object] = {
        "newton_iterations": forward.newton,
        "newton_iterations_lost": forward.newton_lost,
        "newton_failures": forward.failures,
        "newton_iterations_backward": backward.newton,
        "jacobians_forward": forward.jacobians,
        "jacobians_backward": backward.jacobians,
        "factorisations_forward": forward.factorisations,
        "factorisations_backward": backward.factorisations,
        "linear_solves_forward": forward.solves,
        "linear_solves_backward": backward.solves,
    }
    return columns if implicit else dict.fromkeys(columns)


def _explicit_steps(counts: Counts, solver: OneStepSolver) -> Mapping[str, int | None]:
    """Return the columns of a switching solver's explicit steps; None of others."""
    work = counts.work.get("forward", ImplicitWork())
    columns = {"explicit_steps": work.explicit_steps, "explicit_steps_lost": work.explicit_steps_lost}
    return columns if solver.switches else dict.fromkeys(columns)


def _halves(counts: Counts, back: str, solver: OneStepSolver) -> Mapping[str, int | None]:
    """Return the columns of calls to one half of a split field; None where the solver takes it whole."""
    columns = {
        f"nfe_{half}_{name}": counts.halves[phase, half]
        for name, phase in (("forward", "forward"), ("backward", back))
        for half in HALVES
    }
    return columns if solver.takes_halves else dict.fromkeys(columns)


def _rows(counts: Counts, back: str, solver: OneStepSolver) -> dict[str, Any]:
    """Return the columns of samples with steps of their own; None where they share them."""
    there, again = counts.rounds.get("forward", []), counts.rounds.get(back, [])
    s = solver.scheme.evaluations
    made = sum(each.rows(s) for each in there)
    columns: dict[str, object] = {
        "sample_evaluations": counts.rows["forward"],
        "sample_evaluations_backward": counts.rows[back],
        # Of implicit steps rows leave each Newton iteration, too: all that are called are of use.
        "useful_fraction": sum(each.useful_rows(s) for each in there) / made if made and not solver.implicit else None,
        # Solves of one loss are of one batch, or of the first samples of it.
        "sample_steps": [sum(steps) for steps in zip_longest(*(each.steps for each in there), fillvalue=0)],
        "rounds": sum(each.rounds for each in there),
        "rounds_backward": sum(each.rounds for each in again),
    }
    return columns if solver.per_sample else dict.fromkeys(columns)


def _operators(subject: Subject, method: GradientMethod, solver: OneStepSolver) -> dict[str, object]:
    """Return the columns of operators and host waits, with the bare field, after one iteration has warmed up."""
    with HostWaits(subject.device) as waits:
        with OperatorCount() as forward:
            loss = subject.loss(solve_with(method, solver))
        with OperatorCount() as backward:
            subject.pull_back(loss)
    return {
        "operators_forward": forward.operators,
        "operators_backward": backward.operators,
        "flops_forward": forward.flops,
        "flops_backward": backward.flops,
        "host_syncs": waits.count,
    }


def solve_costs(solves: list[SolveLog], solver: OneStepSolver, back: str) -> list[SolveCost]:
    """Return what the cost of each solve depends on; calls each field once for every shape of its state."""
    known: dict[object, tuple[int | tuple[int, int], int]] = {}
    costs = []
    for log in solves:
        pieces = parts(log.y0)
        kind = (id(log.vector_field), *(p.shape for p in pieces))
        if kind not in known:
            known[kind] = graph_sizes(
                log.vector_field, log.ts, log.y0, per_sample=solver.per_sample, precision=solver.precision
            )
        steps = solver.counted(
            log.outputs - 1,
            (log.accepted_steps["forward"], log.rejected_steps["forward"]),
            (log.accepted_steps[back], log.rejected_steps[back]),
            log.works.get("forward", ()),
            (log.rounds.get("forward", ()), log.rounds.get(back, ())),
        )
        steps = dataclasses.replace(
            steps,
            start=solver.restart_calls if log.size_known else steps.start,
            landings=log.landings,
            time_calls=log.time_calls,
            reached=log.reached() if solver.reads_inside_steps and not solver.per_sample else (),
        )
        costs.append(SolveCost(steps, sizes_of(log.vector_field, log.y0, log.outputs, *known[kind]), log.pulled_back))
    return costs
