"""Pull-backs step by step through implicit steps: the stages redone, or kept, and one transposed system for each."""

from collections.abc import Sequence

import torch
from torch import Tensor

from odegrad.contracts import Tap
from odegrad.methods.backward.products import add_to, pull_call
from odegrad.methods.backward.step_ends import StepEnd
from odegrad.methods.backward.stepwise import StepwiseNode, WalkBack
from odegrad.methods.solvers.dynamics import FlatField
from odegrad.methods.solvers.implicit.additive import Imex
from odegrad.methods.solvers.implicit.additive_graph import pulled_through_pair
from odegrad.methods.solvers.implicit.additive_pullback import PairPullback
from odegrad.methods.solvers.implicit.additive_stepper import PairStepper
from odegrad.methods.solvers.implicit.pullback import StagePullback
from odegrad.methods.solvers.implicit.stepper import ImplicitStepper, hermite_weights, solved_stages
from odegrad.methods.solvers.implicit.tableau import Implicit
from odegrad.methods.solvers.solver import OneStepSolver
from odegrad.methods.solvers.stepper import GridStep


class ImplicitPartnerNode(StepwiseNode):
    """The symplectic partner of implicit steps.

    Of every step it keeps the carried vector ``(y, k)``, from which Newton's iteration is redone; or, with
    ``keep_stages``, the state and the stages, and the carried vector of the first step alone.
    """

    def __init__(
        self,
        field: FlatField,
        solver: OneStepSolver,
        scheme: Implicit,
        times: Sequence[float],
        tap: Tap | None,
        *,
        keep_stages: bool,
    ) -> None:
        super().__init__(field, solver, times, tap)
        self.scheme = scheme
        self.keep_stages = keep_stages
        self.ends_in_stage = scheme.tableau.stiffly_accurate
        self.own = scheme.node_states - (2 if scheme.carries_rate else 1)
        """The stages of a step that are no state of another one."""

    def forward(self, y0: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Solve, and keep the carried vectors, or states and stages."""
        ys, kept, last = [y0[None]], [], y0
        for step in self.steps(y0):
            if not self.keep_stages:
                kept.append(step.x)
            else:
                kept += [step.y.clone() if self.grid[1:] else step.x, *solved_stages(step)[: self.own]]
                last = step.y_next
            ys += step.ys
        return torch.cat(ys), (*kept, last.clone()) if self.keep_stages else tuple(kept)

    def walk_back(self, grads: Tensor, kept: tuple[Tensor, ...]) -> WalkBack:
        """Walk the accepted steps from the last to the first."""
        d = grads.shape[1]
        stepper = ImplicitStepper(self.solver, self.scheme, self.field, grads[0])
        back = StagePullback(self.scheme.tableau, stepper.jacobians, self.parameters, self.solver.observer)
        total = [torch.zeros_like(p) for p in self.parameters]
        a = torch.zeros_like(grads[0])
        q = torch.zeros_like(a) if self.scheme.carries_rate else None
        for n, step in self.backwards():
            a = a + grads[step.at_end].sum(0)
            x = kept[n * (self.own + 1)] if self.keep_stages else kept[n]
            stages = self._kept_stages(n, kept, stepper, d) if self.keep_stages else self._redone(stepper, step, x)
            a, q = self._step_back(back, step, stages, a, q, grads[step.inside], total)
            yield StepEnd(n, x[:d], a if q is None else torch.cat([a, q]))
        if q is not None:
            _, pulled = pull_call(self.field, self.times[0], kept[0][:d], q, self.parameters, total)
            a = a + pulled
        return a + grads[0], total

    def _redone(self, stepper: ImplicitStepper, step: GridStep, x: Tensor) -> list[Tensor]:
        stepper.attempt(step.t, step.h, step.t_next, x)
        stepper.accept()
        return stepper.stages

    def _kept_stages(self, n: int, kept: tuple[Tensor, ...], stepper: ImplicitStepper, d: int) -> list[Tensor]:
        """Return the stages of step ``n``; the last one of a stiffly accurate method is the next step's state."""
        first = n * (self.own + 1)
        stages = list(kept[first + 1 : first + 1 + self.own])
        return [*stages, stepper.samples.of(kept[first + 1 + self.own][:d])] if self.ends_in_stage else stages

    def _step_back(
        self,
        back: StagePullback,
        step: GridStep,
        stages: Sequence[Tensor],
        a: Tensor,
        q: Tensor | None,
        of_outputs: Tensor,
        total: Sequence[Tensor],
    ) -> tuple[Tensor, Tensor | None]:
        """Return the cotangents of the step's first state and rate; add to ``total`` the parameters' part."""
        samples = back.jacobians.samples
        before_a = before_q = None
        if step.thetas and q is not None:
            # y + w1 (y' - y) + w2 k + w3 k': what the outputs inside give to both ends.
            change, rate, next_rate = hermite_weights(step.h, step.thetas, of_outputs).t() @ of_outputs
            before_a, before_q = of_outputs.sum(0) - change, rate
            a, q = a + change, q + next_rate
        times = back.tableau.times(step.t, step.h, step.t_next)
        of_state, of_rate, pulled = back.through(
            times, step.h, stages, samples.of(a), None if q is None else samples.of(q)
        )
        add_to(total, pulled)
        a, q = samples.flat(of_state), None if of_rate is None else samples.flat(of_rate)
        if before_a is not None and before_q is not None and q is not None:
            a, q = a + before_a, q + before_q
        return a, q


class PairPartnerNode(StepwiseNode):
    """The partner of an implicit-explicit pair's steps: keeps every state, redoes each step, pulls back its stages."""

    def __init__(
        self, field: FlatField, solver: OneStepSolver, scheme: Imex, times: Sequence[float], tap: Tap | None
    ) -> None:
        super().__init__(field, solver, times, tap)
        self.scheme = scheme

    def forward(self, y0: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Solve, and keep the states."""
        ys, kept = [y0[None]], []
        for step in self.steps(y0):
            kept.append(step.x)
            ys += step.ys
        return torch.cat(ys), tuple(kept)

    def walk_back(self, grads: Tensor, kept: tuple[Tensor, ...]) -> WalkBack:
        """Walk the accepted steps from the last to the first."""
        stepper = PairStepper(self.solver, self.scheme, self.field, grads[0])
        back = PairPullback(
            self.scheme, stepper.jacobians, stepper.rest_jacobians, self.parameters, self.solver.observer
        )
        total = [torch.zeros_like(p) for p in self.parameters]
        a = torch.zeros_like(grads[0])
        for n, step in self.backwards():
            a = a + grads[step.at_end].sum(0)
            x = kept[n]
            stepper.attempt(step.t, step.h, step.t_next, x)
            stepper.accept()
            of_start, of_slopes = None, None
            if step.thetas:
                # y + h (theta p1 + theta^2 p2) + theta^3 (y' - y - h p1 - h p2): what the outputs inside give to each.
                powers = grads.new_tensor([[t**3, step.h * (t - t**3), step.h * (t * t - t**3)] for t in step.thetas])
                inner = grads[step.inside]
                of_end, *slopes = powers.t() @ inner
                of_start, of_slopes = inner.sum(0) - of_end, torch.stack(slopes)
                a = a + of_end
            times = self.scheme.tableau.times(step.t, step.h, step.t_next)
            a, pulled = pulled_through_pair(back, times, step.h, x, stepper.stages, a, of_slopes)
            add_to(total, pulled)
            if of_start is not None:
                a = a + of_start
            yield StepEnd(n, x, a)
        return a + grads[0], total
