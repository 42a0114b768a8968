"""The loops that every gradient method stands on: adaptive or fixed steps, and the replay of recorded ones.

A loop yields the accepted steps; who walks it takes from each what is wanted, before asking for the next.

Times and step sizes are Python floats: one read of the device per attempted step. The last output time is the end of a
step, and so is every other one unless the solver reads them from its dense output. The field is never called outside
the interval.
"""

import abc
import math
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from odegrad.errors import NewtonError, NonFiniteError, StepSizeUnderflowError, TooManyStepsError
from odegrad.methods.fields.callbacks import StepCallbacks
from odegrad.methods.solvers.control import StepSize
from odegrad.methods.solvers.dynamics import Dynamics, FlatField
from odegrad.methods.solvers.ends.landing import Landing, OpenTimes, begin, landed, open_grid
from odegrad.methods.solvers.solver import OneStepSolver
from odegrad.methods.solvers.stepper import AcceptedStep, GridStep, Stepper
from odegrad.methods.solvers.steppers import graph_stepper, plain_stepper
from odegrad.methods.solvers.tangent import controlled_stepper


def integrate(dynamics: Dynamics, solver: OneStepSolver, y0: Tensor, ts: Sequence[float]) -> Tensor:
    """Solve without a graph and return the states ``[K, d]`` at ``ts``, the first of which is ``y0``."""
    with torch.no_grad():
        return _walked(y0, steps(dynamics, solver, y0, ts))


def integrate_with_graph(field: FlatField, solver: OneStepSolver, y0: Tensor, ts: Sequence[float]) -> Tensor:
    """Solve with the graph of every accepted step and return ``[K, d]``; step sizes are constants to autograd.

    Where autograd is off there is no graph, and nothing is done for one.
    """
    if not torch.is_grad_enabled():
        return integrate(field, solver, y0, ts)
    return _walked(y0, steps_with_graph(field, solver, y0, ts))


def _walked(y0: Tensor, walk: Iterator[AcceptedStep]) -> Tensor:
    ys = [y0[None]]
    for step in walk:
        ys += step.ys
    return torch.cat(ys)


@torch.no_grad()
def steps(
    dynamics: Dynamics, solver: OneStepSolver, y0: Tensor, ts: Sequence[float], size: StepSize | None = None
) -> Iterator[AcceptedStep]:
    """Solve without a graph from ``y0 [d]`` and yield the accepted steps; each holds the outputs that it reaches.

    A known ``size`` is taken for the first step; the one after the last step is left in it.
    """
    if isinstance(dynamics, FlatField):
        stepper = controlled_stepper(solver, dynamics, y0, with_graph=False)
    else:
        stepper = plain_stepper(solver, dynamics, y0)
    yield from _loop(stepper, dynamics, solver, y0, ts, size)


def steps_with_graph(
    field: FlatField, solver: OneStepSolver, y0: Tensor, ts: Sequence[float]
) -> Iterator[AcceptedStep]:
    """Solve from ``y0 [d]`` and yield the accepted steps with their graph."""
    stepper = controlled_stepper(solver, field, y0.detach(), with_graph=True)
    return _loop(stepper, field, solver, y0, ts, None)


def replay(field: FlatField, solver: OneStepSolver, x: Tensor, grid: Sequence[GridStep], d: int) -> Tensor:
    """Redo the steps of ``grid`` from the carried vector ``x`` and return the last one; s f calls per step."""
    for x_next in replayed(field, solver, x, grid, d):
        x = x_next
    return x


def replayed(field: FlatField, solver: OneStepSolver, x: Tensor, grid: Sequence[GridStep], d: int) -> Iterator[Tensor]:
    """Redo the steps of ``grid`` from the carried vector ``x`` and yield it after each; s f calls per step."""
    stepper = plain_stepper(solver, field, x[:d])
    for i, step in enumerate(grid):
        x = stepper.attempt(step.t, step.h, step.t_next, x, whole=i < len(grid) - 1)
        stepper.accept()
        yield x


def replayed_with_graph(
    field: FlatField, solver: OneStepSolver, x: Tensor, grid: Sequence[GridStep], d: int
) -> Iterator[tuple[Tensor, Tensor | None]]:
    """Redo the steps of ``grid`` from the carried vector ``x`` with a graph; s f calls per step.

    Yield the carried vector after each, and the outputs ``[m, d]`` inside of it if there are any.
    """
    stepper = graph_stepper(solver, field, x[:d].detach())
    for step in grid:
        x_next = stepper.attempt(step.t, step.h, step.t_next, x, whole=bool(step.thetas))
        inside = stepper.dense(x, step.h, step.thetas) if step.thetas else None
        stepper.accept()
        x = x_next
        yield x, inside


def _loop(
    stepper: Stepper,
    dynamics: Dynamics,
    solver: OneStepSolver,
    y0: Tensor,
    ts: Sequence[float],
    size: StepSize | None,
) -> Iterator[AcceptedStep]:
    kind = _AdaptiveLoop if solver.adaptive else _FixedLoop
    return kind(stepper, dynamics, solver, y0.numel(), ts, size or solver.carried or StepSize()).steps(y0)


@dataclass
class _Loop(abc.ABC):
    """What adaptive and fixed stepping share."""

    stepper: Stepper
    dynamics: Dynamics
    solver: OneStepSolver
    d: int
    ts: Sequence[float]
    size: StepSize
    reached: int = 1
    """Outputs behind the loop, the initial state among them."""

    def __post_init__(self) -> None:
        """Find the callbacks of a user's field; a backward solve has none."""
        self.callbacks: StepCallbacks | None = getattr(self.dynamics, "callbacks", None)

    def steps(self, y0: Tensor) -> Iterator[AcceptedStep]:
        """Yield the accepted steps from ``y0`` to the last output time."""
        t, x = self.ts[0], self.stepper.start(self.ts[0], y0)
        if isinstance(self.ts, OpenTimes):
            begin(self.ts, self.stepper, x, self.d)
        for t_end in self.solver.landings(self.ts) if self.solver.step_t else self.solver.output_ends(self.ts):
            x = yield from self.advance(t, t_end, x)
            t = t_end

    @abc.abstractmethod
    def advance(self, t: float, t_end: float, x: Tensor) -> Generator[AcceptedStep, None, Tensor]:
        """Step from ``t`` to ``t_end``, the end of a step, and return the carried vector there."""

    def landing(self, t: float, h: float, t_next: float, x: Tensor, x_next: Tensor) -> Landing | None:
        """Return the step redone to end where the solve does, if its end is looked for and lies inside."""
        if not isinstance(self.ts, OpenTimes):
            return None
        return landed(self.ts, self.stepper, t, h, t_next, x, x_next, self.d)

    def accept(self, t: float, h: float, t_next: float, x: Tensor, x_next: Tensor) -> Iterator[AcceptedStep]:
        """Yield the step, with the outputs that it reaches, and let the stepper stand on its end."""
        if self.solver.observer is not None:
            self.solver.observer.accepted(t, h)
        grid_step = GridStep(t, h, t_next, tuple(self._reached(t, h, t_next)))
        ys = [self.stepper.dense(x, h, grid_step.thetas)] if grid_step.thetas else []
        if grid_step.ends_at_output:
            ys.append(x_next[None, : self.d])
        self.reached += len(grid_step.outputs)
        step = AcceptedStep(grid_step, x, x_next, self.d, self.stepper, ys)
        yield step
        step.leave()
        self.stepper.accept()

    def _reached(self, t: float, h: float, t_next: float) -> list[tuple[int, float]]:
        """Return the outputs in ``(t, t_next]``: index, and fraction of the step."""
        out = []
        k = self.reached
        while k < len(self.ts) and (t_next - self.ts[k]) * h >= 0:
            # At the end it is exactly 1, which says: the step's own state, and no interpolant.
            out.append((k, 1.0 if self.ts[k] == t_next else (self.ts[k] - t) / h))
            k += 1
        return out


class _FixedLoop(_Loop):
    def advance(self, t: float, t_end: float, x: Tensor) -> Generator[AcceptedStep, None, Tensor]:
        n, h = 0, 0.0
        for h, t_next in self._grid(t, t_end):
            n += 1
            if self.callbacks is not None:
                self.callbacks.attempted(t, x[: self.d], h)
            x_next = self.stepper.attempt(t, h, t_next, x)
            end = self.landing(t, h, t_next, x, x_next)
            if end is not None:
                yield from self.accept(t, end.h, end.t_next, x, end.x_next)
                return end.x_next
            yield from self.accept(t, h, t_next, x, x_next)
            t, x = t_next, x_next
        # On a GPU this would be the only read of a fixed grid, and the host could no longer run ahead.
        if x.device.type == "cpu" and not bool(torch.isfinite(x.detach()).all()):
            raise NonFiniteError(
                f"solver {self.solver.name}: the state is not finite at t = {t_end:g} after {n} fixed steps of "
                f"h = {h:g}; take smaller steps, or an adaptive solver such as dopri5"
            )
        return x

    def _grid(self, start: float, t_end: float) -> Iterator[tuple[float, float]]:
        """Yield size and end of each step."""
        if isinstance(self.ts, OpenTimes):
            yield from open_grid(self.ts, self.solver.step_size or 0.0, self.solver.max_steps)
            return
        if self.solver.grid is not None:
            t = start
            for end in self.solver.grid_ends(start, t_end):
                yield end - t, end
                t = end
            return
        n = self.solver.steps_between(start, t_end)
        h = (t_end - start) / n
        for i in range(n):
            # From the start of the interval, not from the step before: rounding errors of n sums would add up.
            yield h, t_end if i == n - 1 else start + (i + 1) * h


@dataclass
class _AdaptiveLoop(_Loop):
    attempts: int = 0
    previous: float | None = None
    """The error ratio of the accepted step before; None at the start and after a rejected step."""
    failure: NewtonError | None = None
    """How an implicit stage last was not solved."""

    def advance(self, t: float, t_end: float, x: Tensor) -> Generator[AcceptedStep, None, Tensor]:
        control, order = self.solver.controller, self.solver.control_order
        judge = self.stepper.controlled_by or self.dynamics
        h = self._first(t, x) if self.size.h is None else self.size.h
        while t != t_end:
            h, t_next = self._land(t, self._bounded(h), t_end)
            if self.callbacks is not None:
                self.callbacks.attempted(t, x[: self.d], h)
            try:
                x_next = self.stepper.attempt(t, h, t_next, x)
            except NewtonError as error:
                # No estimate, so no power of one: a quarter, and the errors before say nothing of what comes.
                self._count(t, t_end, h, 0.0, x)
                h, self.previous, self.failure = 0.25 * h, None, error
                continue
            with torch.no_grad():
                ratio = control.error_ratio(judge, *self.stepper.judged(h, x, x_next, self.d))
            accepted = ratio <= 1.0 or (math.isfinite(ratio) and abs(h) <= (self.solver.min_step or 0.0))
            if self.callbacks is not None:
                self.callbacks.judged(t, x[: self.d], h, accepted=accepted)
            if accepted:
                end = self.landing(t, h, t_next, x, x_next)
                if end is not None:
                    yield from self.accept(t, end.h, end.t_next, x, end.x_next)
                    return end.x_next
                yield from self.accept(t, h, t_next, x, x_next)
                t, x = t_next, x_next
            elif self.solver.observer is not None:
                self.solver.observer.rejected(t, h)
            self._count(t, t_end, h, ratio, x)
            h = control.next_step(h, ratio, order, self.previous)
            self.previous = ratio if accepted else None
        self.size.h = h
        return x

    def _first(self, t: float, x: Tensor) -> float:
        f0 = self.stepper.rate(t, x)
        span = self.ts[-1] - t
        if self.solver.first_step is not None:
            size = self.solver.first_step
        else:
            control, order = self.solver.controller, self.solver.control_order
            judge = self.stepper.controlled_by or self.dynamics
            with torch.no_grad():
                size = control.first_step(judge, t, span, self.stepper.standing(x, self.d), f0, order)
        return math.copysign(size, span)

    def _bounded(self, h: float) -> float:
        if self.solver.min_step is not None:
            h = math.copysign(max(abs(h), self.solver.min_step), h)
        return h if self.solver.max_step is None else math.copysign(min(abs(h), self.solver.max_step), h)

    def _land(self, t: float, h: float, t_end: float) -> tuple[float, float]:
        """Return the step, cut to end at ``t_end``, and its end."""
        # Ending there exactly gives the method's own solution, 8 to 40 times as exact as to step past and interpolate;
        # comparing sizes, not sums, leaves no sliver of a step behind by rounding.
        if abs(h) >= abs(t_end - t):
            return t_end - t, t_end
        if t + h == t:
            raise StepSizeUnderflowError(
                f"solver {self.solver.name}: at t = {t:g} the step {h:g} no longer changes the time; the problem is "
                "stiff or singular there: loosen rtol and atol, or regularise the vector field"
            ) from self.failure
        return h, t + h

    def _count(self, t: float, t_end: float, h: float, ratio: float, x: Tensor) -> None:
        self.attempts += 1
        # A step of this size does not overflow by its size: the field is not finite here, however far it shrinks.
        reach = abs(t_end) if math.isfinite(t_end) else 1.0
        if not math.isfinite(ratio) and abs(h) < 1e-10 * max(abs(t), reach):
            raise NonFiniteError(
                f"solver {self.solver.name}: the field or the state is not finite just after t = {t:g} (step "
                f"{self.attempts}, h = {h:g}); check the parameters for NaN, clip gradients, or bound the vector field"
            )
        if self.attempts >= self.solver.max_steps and t != t_end:
            if isinstance(self.ts, OpenTimes):
                raise self.ts.search.missed(t, self.attempts)
            raise TooManyStepsError(
                f"solver {self.solver.name}: {self.attempts} steps were attempted and t = {t:g} is reached of "
                f"{t_end:g}, h = {h:g}; {self._growth_along_flow(t, x)}; the problem may be stiff: loosen rtol and "
                "atol, or raise max_steps"
            )

    def _growth_along_flow(self, t: float, x: Tensor) -> str:
        """Say how the field stretches its own direction at ``t``: a lower bound of the logarithmic norm there."""
        with torch.no_grad():
            y = x[: self.d].detach()
            # <J v, v> of any unit vector v bounds mu_2 from below; along f two calls give it, by a finite difference.
            f, g = torch.empty_like(y), torch.empty_like(y)
            self.dynamics.prepare([t])
            self.dynamics.write(t, y, f, 0)
            small = torch.finfo(y.dtype).eps ** 0.5 * (1.0 + float(torch.linalg.vector_norm(y)))
            direction = f / torch.linalg.vector_norm(f).clamp_min(torch.finfo(y.dtype).tiny)
            self.dynamics.write(t, torch.add(y, direction, alpha=small), g, 0)
            bound = float(torch.dot(g - f, direction)) / small
            size = float(torch.linalg.vector_norm(g - f)) / small
        return f"there the logarithmic norm mu_2 is at least {bound:.3g} and the norm of the Jacobian {size:.3g}"
