"""The rounds of steps of many samples, each at its own pace; one read of the device per round.

In a round every row attempts one step. Rows of samples that have come to their end are dropped by gathers, never masked
out of an arithmetic: a graph is made of accepted steps alone, so that no rejected attempt, which may overflow, is ever
pulled back.
"""

import math
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from odegrad.contracts import RowCounts, RowObserver
from odegrad.methods.solvers.per_sample.accepted import AcceptedRows, chosen_rows
from odegrad.methods.solvers.per_sample.control import (
    changes,
    error_ratios,
    first_steps,
    next_steps,
    starting_norms,
    trial_steps,
)
from odegrad.methods.solvers.per_sample.failures import Failures
from odegrad.methods.solvers.per_sample.stages import ReadInside, RowDynamics, RowStepper, RowSteps
from odegrad.methods.solvers.per_sample.steppers import row_stepper
from odegrad.methods.solvers.per_sample.times import HostFloats, HostIntegers, SampleTimes, Truths
from odegrad.methods.solvers.solver import OneStepSolver
from odegrad.states import sent_to


class Rounds:
    """A solve of samples, each from its own time to its own, without a graph.

    Parameters
    ----------
    dynamics, solver
        The right-hand side, and the explicit adaptive solver.
    x0
        Where they start, ``[m, n]``.
    times
        Their output times.
    samples
        What to call them, ``[m]``; 0, 1, ... if None.
    sizes
        Signed sizes of the first steps by these names, NaN where not known; those after the last steps are left in it.
    """

    def __init__(
        self,
        dynamics: RowDynamics,
        solver: OneStepSolver,
        x0: Tensor,
        times: SampleTimes,
        samples: HostIntegers | None = None,
        sizes: HostFloats | None = None,
    ) -> None:
        count = len(x0)
        self.dynamics, self.solver, self.times, self.x0 = dynamics, solver, times, x0
        self.samples = np.arange(count) if samples is None else samples
        self.sizes = np.full(count, math.nan) if sizes is None else sizes
        self.failures = Failures(solver, self.samples)
        self.t = times.start.copy()
        self.h = self.sizes[self.samples]
        self.at = np.ones(count, dtype=np.int64)
        """The next output of each."""
        self.previous: list[float | None] = [None] * count
        self.accepted = np.zeros((times.outputs - 1, count), dtype=np.int64)
        self.attempts = np.zeros(count, dtype=np.int64)
        self.widths: list[int] = []
        self.accepting: list[int] = []
        self.start: tuple[int, int] = (0, 0)
        self.systems: tuple[int, int] | None = None
        self._heard: object = solver.observer
        self.newton: list[list[tuple[int, ...]]] = [[] for _ in range(count)]
        """Newton's iterations of every accepted implicit step, where somebody listens to the rounds."""
        self.read: list[list[int]] = [[] for _ in range(count)]
        """The outputs inside of every accepted step, where they are read there and somebody listens."""

    @torch.no_grad()
    def walk(self) -> Iterator[AcceptedRows]:
        """Yield the accepted steps of every round that accepts any.

        Raises
        ------
        SolverError
            If no sample can be solved; ``failures`` tells of those that could not.
        """
        rows = np.arange(len(self.x0))
        stepper = row_stepper(self.dynamics, self.solver, self.x0)
        x = self._begin(stepper)
        going = self.failures.none_of(rows)
        while True:
            steps = self._planned(rows, going)
            if not going.any():
                break
            x_next = stepper.attempt(self.samples[rows], steps, x)
            ends = stepper.state(x), stepper.state(x_next)
            ratios = error_ratios(self.solver.controller, self.dynamics.norms, stepper.error(), *ends)
            failed = stepper.failed
            accepted = going & (ratios <= 1.0) & ~failed
            stepper.judged(accepted=bool(accepted.any()))
            self.widths.append(len(rows))
            if accepted.any():
                self.accepting.append(int(accepted.sum()))
                self._note_iterations(rows, accepted, stepper)
                yield self._seen(rows, steps, accepted, stepper, x, x_next)
            if stepper.singular.any():
                for row in np.flatnonzero(going & stepper.singular):
                    self.failures.singular(rows[row], steps.t[row])
            self._judge(rows, steps, going, accepted, failed, ratios)
            x, rows, going = self._moved(rows, going, accepted, stepper, x, x_next)
        if stepper.systems is not None:
            self.systems = stepper.systems.calls, stepper.systems.rows
        self._end()

    def _note_iterations(self, rows: HostIntegers, accepted: Truths, stepper: RowStepper) -> None:
        """Keep what the accepted steps will cost where they are taken again."""
        if stepper.systems is None or not isinstance(self._heard, RowObserver):
            return
        at = np.flatnonzero(accepted)
        for sample, taken in zip(rows[at].tolist(), stepper.systems.iterations[:, at].T.tolist(), strict=True):
            self.newton[sample].append(tuple(taken))

    def _begin(self, stepper: RowStepper) -> Tensor:
        """Return what is carried of the rows at their starts, and choose the first steps that are not known."""
        x, f0 = stepper.start(self.samples, self.t, self.x0)
        self.start = 1, len(x)
        unknown = np.flatnonzero(np.isnan(self.h))
        spans = self.times.end - self.t
        if self.solver.first_step is not None:
            self.h[unknown] = np.copysign(self.solver.first_step, spans[unknown])
        elif len(unknown):
            self._choose(unknown, spans[unknown], self.x0, f0)
        return x

    def _choose(self, unknown: HostIntegers, spans: HostFloats, x: Tensor, f0: Tensor) -> None:
        control, norms, order = self.solver.controller, self.dynamics.norms, self.solver.control_order
        x, f0 = chosen_rows(x, unknown), chosen_rows(f0, unknown)
        scale, d0, d1 = starting_norms(control, norms, x, f0)
        finite = np.isfinite(d0) & np.isfinite(d1)
        for row in np.flatnonzero(~finite):
            sample = unknown[row]
            self.failures.not_finite_at_start(sample, self.t[sample], "y0" if not np.isfinite(d0[row]) else "f(t0, y0)")
        good = np.flatnonzero(finite)
        if not len(good):
            return
        h0 = trial_steps(d0[good], d1[good], spans[good])
        signed = np.copysign(h0, spans[good])
        x, f0, scale, unknown = chosen_rows(x, good), chosen_rows(f0, good), chosen_rows(scale, good), unknown[good]
        f1, moved = torch.empty_like(f0), sent_to(x.device, torch.from_numpy(signed), x.dtype)[:, None]
        trial = self.t[unknown] + signed
        self.dynamics.prepare(self.samples[unknown], trial[None])
        ahead = torch.add(x[0], f0[0], alpha=float(signed[0]))[None] if len(x) == 1 else torch.addcmul(x, f0, moved)
        self.dynamics.write(sent_to(x.device, torch.from_numpy(trial), x.dtype), ahead, f1, TRIAL_STAGE)
        self.start = 2, self.start[1] + len(good)
        sizes = first_steps(order, h0, d1[good], changes(norms, f1, f0, scale))
        self.h[unknown] = np.copysign(sizes, spans[good])

    def _planned(self, rows: HostIntegers, going: Truths) -> RowSteps:
        """Return the steps of all rows, cut to end at the next outputs; rows that rest have steps of size 0.

        A sample whose step no longer moves the time fails, and goes no further.
        """
        t, h = self.t[rows], self.h[rows]
        if self.solver.max_step is not None:
            h = np.copysign(np.minimum(np.abs(h), self.solver.max_step), h)
        end = self._ends(rows)
        lands = np.abs(h) >= np.abs(end - t)
        h = np.where(lands, end - t, h)
        t_next = np.where(lands, end, t + h)
        for row in np.flatnonzero(going & (t_next == t)):
            self.failures.underflow(rows[row], t[row], h[row])
            going[row] = False
        return RowSteps(t, np.where(going, h, 0.0), np.where(going, t_next, t))

    def _ends(self, samples: HostIntegers) -> HostFloats:
        """Return where steps of these samples must end: at their next outputs, or their last ones."""
        last = self.times.last[samples]
        ends: HostFloats = self.times.table[
            samples, last if self.solver.reads_inside_steps else np.minimum(self.at[samples], last)
        ]
        return ends

    def _seen(
        self, rows: HostIntegers, steps: RowSteps, accepted: Truths, stepper: RowStepper, x: Tensor, x_next: Tensor
    ) -> AcceptedRows:
        """Return the accepted steps, and note that they are."""
        at = np.flatnonzero(accepted)
        samples = rows[at]
        towards = self.at[samples]
        place = None if len(at) == len(rows) else sent_to(x.device, torch.from_numpy(at))
        own = RowSteps(steps.t[at], steps.h[at], steps.t_next[at])
        outputs, inside = self._reached(samples, own, towards)
        if self.solver.reads_inside_steps and isinstance(self._heard, RowObserver):
            for sample, count in zip(samples.tolist(), inside.before(1.0, len(at)).tolist(), strict=True):
                self.read[sample].append(count)
        self.accepted[towards - 1, samples] += 1
        return AcceptedRows(samples, own, outputs, towards, inside, x, x_next, stepper, at, place)

    def _reached(
        self, samples: HostIntegers, steps: RowSteps, towards: HostIntegers
    ) -> tuple[HostIntegers, ReadInside]:
        """Return the outputs ``[a]`` that end these steps, -1 where none does, and those inside of them."""
        if not self.solver.reads_inside_steps:
            landed = steps.t_next == self.times.table[samples, towards]
            return np.where(landed, towards, -1), ReadInside.none()
        table = self.times.table[samples]
        behind = self._behind(samples, steps.t_next)
        inside = (np.arange(table.shape[1]) >= towards[:, None]) & (np.arange(table.shape[1]) < behind[:, None])
        at_end = inside & (table == steps.t_next[:, None])
        rows, outputs = np.nonzero(inside & ~at_end)
        thetas = (table[rows, outputs] - steps.t[rows]) / steps.h[rows]
        return np.where(at_end.any(1), behind - 1, -1), ReadInside(rows, outputs, thetas)

    def _behind(self, samples: HostIntegers, t: HostFloats) -> HostIntegers:
        """Return the next outputs of samples that have come to ``t``, past their last ones where they are there."""
        table = self.times.table[samples]
        way = np.sign(self.times.end[samples] - self.times.start[samples])
        behind = (way[:, None] * (table - t[:, None]) <= 0) & (
            np.arange(table.shape[1]) <= self.times.last[samples][:, None]
        )
        count: HostIntegers = np.count_nonzero(behind, axis=1)
        return count

    def _judge(
        self, rows: HostIntegers, steps: RowSteps, going: Truths, accepted: Truths, failed: Truths, ratios: HostFloats
    ) -> None:
        """Move the accepted samples on, choose all next steps, and find samples that cannot go on or have ended."""
        solver, live = self.solver, np.flatnonzero(going)
        samples = rows[live]
        self.attempts[samples] += 1
        if solver.observer is not None:
            for row in live[~failed[live]]:
                told = solver.observer.accepted if accepted[row] else solver.observer.rejected
                told(float(steps.t[row]), float(steps.h[row]))
        ends = self._ends(samples)
        moved = rows[np.flatnonzero(accepted)]
        self.t[moved] = steps.t_next[accepted]
        if solver.reads_inside_steps:
            self.at[moved] = self._behind(moved, self.t[moved])
        else:
            self.at[moved] += self.t[moved] == self.times.table[moved, self.at[moved]]
        # A step that could not be solved has no error, so no power of one: a quarter of it comes next.
        sizes, errors, unsolved = steps.h[live], np.where(failed, 0.0, ratios)[live], failed[live]
        following = next_steps(
            solver.controller, sizes, errors, solver.control_order, [self.previous[i] for i in samples]
        )
        self.h[samples] = np.where(unsolved, UNSOLVED_FACTOR * sizes, following)
        for i, error, good in zip(samples.tolist(), errors.tolist(), accepted[live].tolist(), strict=True):
            self.previous[i] = error if good else None
        self.failures.look_at(samples, self.t[samples], sizes, ends, errors, self.attempts[samples])
        going[live] = (self.at[samples] <= self.times.last[samples]) & self.failures.none_of(samples)

    def _moved(
        self, rows: HostIntegers, going: Truths, accepted: Truths, stepper: RowStepper, x: Tensor, x_next: Tensor
    ) -> tuple[Tensor, HostIntegers, Truths]:
        """Return the states of the coming round, its samples, and which of them have steps to take."""
        live = int(going.sum())
        drops = {"none": False, "each": live < len(rows), "halving": 2 * live <= len(rows)}[self.solver.compaction]
        if not live:
            return x, rows, going
        if not drops and accepted.all():
            stepper.roll()
            return x_next, rows, going
        keeps = np.flatnonzero(going) if drops else np.arange(len(rows))
        if not drops and not accepted.any():
            return x, rows, going
        # One gather takes the new state where the step is good, the old one where it is not, and drops what has ended.
        chosen = keeps + len(rows) * accepted[keeps]
        source = sent_to(x.device, torch.from_numpy(chosen))
        x = torch.cat([x, x_next]).index_select(0, source)
        stepper.take(chosen, source, x)
        return x, rows[keeps], going[keeps]

    def _end(self) -> None:
        self.sizes[self.samples] = self.h
        if isinstance(self._heard, RowObserver):
            self._heard.solved_in_rounds(self.counts())
        self.failures.raise_if_all()

    def counts(self) -> RowCounts:
        """Return what the rounds were."""
        return RowCounts(
            start_calls=self.start[0],
            start_rows=self.start[1],
            widths=tuple(self.widths),
            accepting=tuple(self.accepting),
            accepted=tuple(map(tuple, self.accepted.tolist())),
            attempted=tuple(self.attempts.tolist()),
            systems=self.systems,
            newton=() if self.systems is None else tuple(map(tuple, self.newton)),
            read=tuple(map(tuple, self.read)) if self.solver.reads_inside_steps else (),
        )


UNSOLVED_FACTOR = 0.25
"""Of a step whose stages could not be solved; the joint loop's."""

TRIAL_STAGE = -1
"""The stage of the f call that chooses the first steps."""
