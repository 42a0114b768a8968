"""The steps of a Rosenbrock method with a graph: one node for each step, whose value is known."""

from collections.abc import Sequence

import torch
from torch import Tensor

from odegrad.methods.solvers.dynamics import FlatField
from odegrad.methods.solvers.implicit.graph import KnownStep, StepTaken, differentiated_by
from odegrad.methods.solvers.rosenbrock.pullback import RosenbrockPullback
from odegrad.methods.solvers.rosenbrock.stepper import RosenbrockStepper
from odegrad.methods.solvers.rosenbrock.tableau import Rosenbrock
from odegrad.methods.solvers.solver import OneStepSolver


class GraphRosenbrockStepper(RosenbrockStepper):
    """The same steps, bit for bit; autograd learns how to go back through the solved stages.

    What it keeps of a step are the stages: no graph of the field. So a gradient goes to the field's parameters only,
    and another tensor that it depends on is refused.
    """

    def __init__(
        self, solver: OneStepSolver, scheme: Rosenbrock, field: FlatField, like: Tensor, *, refuse_mixing: bool = False
    ) -> None:
        super().__init__(solver, scheme, field, like, refuse_mixing=refuse_mixing)
        self.back = RosenbrockPullback(self.tableau, self.jacobians, differentiated_by(field), self.observer)

    def start(self, t: float, y0: Tensor) -> Tensor:
        """Return ``y0`` itself; the first f call is looked at for tensors that nobody told of."""
        if torch.is_grad_enabled() and self.field.known is None:
            self.field.refuse_closures_at_first_call(self.back.parameters)
        return super().start(t, y0)

    def attempt(self, t: float, h: float, t_next: float, x: Tensor, *, whole: bool = True) -> Tensor:
        """Return the state after a step from ``x``; see ``RosenbrockStepper``."""
        value = super().attempt(t, h, t_next, x, whole=whole)
        step = _Taken(self.back, self.field, self.tableau.times(t, h, t_next), h)
        (self.x_next,) = KnownStep.through(step, x, (value,), (self.u.clone(),))
        return self.x_next


class _Taken(StepTaken[RosenbrockPullback]):
    """A step of a Rosenbrock method."""

    def pull_back(self, saved: Sequence[Tensor], grads: Sequence[Tensor | None]) -> tuple[Tensor, list[Tensor | None]]:
        """Return the cotangent of the state at the start and the parameters' gradients."""
        x, u = saved
        samples, grad = self.back.jacobians.samples, grads[0]
        y, a = samples.of(x), samples.of(torch.zeros_like(x) if grad is None else grad.contiguous())
        of_start, of_parameters = self.back.through(self.times, self.h, y, u, a)
        return samples.flat(of_start), of_parameters
