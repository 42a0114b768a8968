"""Pull-backs step by step through the steps of an implicit-explicit pair."""

from collections.abc import Sequence

import torch
from torch import Tensor

from odegrad.contracts import Tap
from odegrad.methods.backward.products import add_to
from odegrad.methods.backward.step_ends import StepEnd
from odegrad.methods.backward.stepwise import StepwiseNode, WalkBack
from odegrad.methods.solvers.dynamics import FlatField
from odegrad.methods.solvers.implicit.additive import Imex
from odegrad.methods.solvers.implicit.additive_graph import pulled_through_pair
from odegrad.methods.solvers.implicit.additive_pullback import PairPullback
from odegrad.methods.solvers.implicit.additive_stepper import PairStepper
from odegrad.methods.solvers.solver import OneStepSolver
from odegrad.states import sent_to


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
                rows = [(t**3, step.h * (t - t**3), step.h * (t * t - t**3)) for t in step.thetas]
                powers = sent_to(grads.device, torch.tensor(rows, dtype=torch.float64), grads.dtype)
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
