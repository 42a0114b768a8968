"""Steps that an error estimate chooses, and how a solve fails that cannot go on."""

import math
from collections.abc import Generator
from dataclasses import dataclass

import torch
from torch import Tensor

from odegrad.errors import NewtonError, NonFiniteError, StepSizeUnderflowError, TooManyStepsError
from odegrad.methods.solvers.control import Controller
from odegrad.methods.solvers.ends.landing import OpenTimes
from odegrad.methods.solvers.loops.base import SteppingLoop
from odegrad.methods.solvers.stepper import AcceptedStep


@dataclass
class AdaptiveLoop(SteppingLoop):
    """A step is taken if its error is within the tolerances, and decides on the size of the next one."""

    attempts: int = 0
    previous: float | None = None
    """The error ratio of the accepted step before; None at the start and after a rejected step."""
    failure: NewtonError | None = None
    """How an implicit stage last was not solved."""

    def advance(self, t: float, t_end: float, x: Tensor) -> Generator[AcceptedStep, None, Tensor]:
        """Step from ``t`` to ``t_end`` as the step control says and return the carried vector there."""
        judge = self.stepper.controlled_by or self.dynamics
        h = self._first(t, x) if self.size.h is None else self.size.h
        control, order = self._control()
        while t != t_end:
            h, t_next = self._land(t, self._bounded(h), t_end)
            try:
                x_next = self.attempt(t, h, t_next, x)
            except NewtonError as error:
                # No estimate, so no power of one: a quarter, and the errors before say nothing of what comes.
                self._count(t, t_end, h, 0.0, x)
                h, self.previous, self.failure = 0.25 * h, None, error
                continue
            with torch.no_grad():
                size = control.error_ratio(judge, *self.stepper.judged(h, x, x_next, self.d))
                ratio = self.stepper.read(size, h, x)
            accepted = ratio <= 1.0 or (math.isfinite(ratio) and abs(h) <= (self.solver.min_step or 0.0))
            if self.callbacks is not None:
                self.callbacks.judged(t, x[: self.d], h, accepted=accepted)
            if accepted:
                x, ended = yield from self.accept(t, h, t_next, x, x_next)
                if ended:
                    return x
                t = t_next
            elif self.solver.observer is not None:
                self.solver.observer.rejected(t, h)
            self._count(t, t_end, h, ratio, x)
            h = control.next_step(h, ratio, order, self.previous)
            before, (control, order) = order, self._control()
            # The error of another method says nothing of this one's.
            self.previous = ratio if accepted and order == before else None
        self.size.h = h
        return x

    def _first(self, t: float, x: Tensor) -> float:
        f0 = self.stepper.rate(t, x)
        span = self.ts[-1] - t
        if self.solver.first_step is not None:
            size = self.solver.first_step
        else:
            control, order = self._control()
            judge = self.stepper.controlled_by or self.dynamics
            with torch.no_grad():
                size = control.first_step(judge, t, span, self.stepper.standing(x, self.d), f0, order)
        return math.copysign(size, span)

    def _control(self) -> tuple[Controller, int]:
        """Return what controls the next step, and the power of the step that its error goes with."""
        return self.stepper.control(self.solver.controller, self.solver.control_order)

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
            norm = "" if self.solver.norm is None else ", or their norm,"
            raise NonFiniteError(
                f"solver {self.solver.name}: the field or the state{norm} is not finite just after t = {t:g} (step "
                f"{self.attempts}, h = {h:g}); check the parameters for NaN, clip gradients, or bound the vector field"
            )
        if self.attempts >= self.solver.max_steps and t != t_end:
            if isinstance(self.ts, OpenTimes):
                raise self.ts.search.missed(t, self.attempts)
            failed = "" if self.failure is None else f"; of the last step that failed: {self.failure}"
            raise TooManyStepsError(
                f"solver {self.solver.name}: {self.attempts} steps were attempted and t = {t:g} is reached of "
                f"{t_end:g}, h = {h:g}; {self._slow_because(t, x, ratio)}{failed}"
            ) from self.failure

    def _slow_because(self, t: float, x: Tensor, ratio: float) -> str:
        """Say how the field stretches its own direction at ``t``, a lower bound of the logarithmic norm there.

        Or that it is not finite there, or was not in the last attempt, of error ``ratio``.
        """
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
        if not (math.isfinite(ratio) and math.isfinite(size)):
            return "the field is not finite just beyond: check the parameters for NaN, clip gradients, or bound it"
        return (
            f"there the logarithmic norm mu_2 is at least {bound:.3g} and the norm of the Jacobian {size:.3g}; the "
            "problem may be stiff: loosen rtol and atol, or raise max_steps"
        )
