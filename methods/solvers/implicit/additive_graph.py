"""The steps of an implicit-explicit pair with a graph: one node for each step, whose value is known."""

from collections.abc import Sequence

import torch
from torch import Tensor

from odegrad.methods.solvers.dynamics import FlatField
from odegrad.methods.solvers.implicit.additive import Imex
from odegrad.methods.solvers.implicit.additive_pullback import PairPullback
from odegrad.methods.solvers.implicit.additive_stepper import PairStepper
from odegrad.methods.solvers.implicit.graph import KnownStep, StepTaken, differentiated_by
from odegrad.methods.solvers.solver import OneStepSolver


class GraphPairStepper(PairStepper):
    """The same steps, bit for bit; autograd learns how to go back through the stages.

    What it keeps of a step are its start and the solved stages.
    """

    def __init__(
        self, solver: OneStepSolver, scheme: Imex, field: FlatField, like: Tensor, *, refuse_mixing: bool = False
    ) -> None:
        super().__init__(solver, scheme, field, like, refuse_mixing=refuse_mixing)
        parameters = differentiated_by(field)
        self.back = PairPullback(scheme, self.jacobians, self.rest_jacobians, parameters, self.observer)
        self._slopes: Tensor | None = None

    def start(self, t: float, y0: Tensor) -> Tensor:
        """Return ``y0`` itself, with its graph."""
        super().start(t, y0)
        # From here on, and not before: the history of y0 holds the caller's tensors.
        if torch.is_grad_enabled() and self.whole.known is None:
            self.whole.refuse_closures_at_first_call(self.back.parameters)
        return y0

    def attempt(self, t: float, h: float, t_next: float, x: Tensor, *, whole: bool = True) -> Tensor:
        """Return the state after a step from ``x``; see ``ImplicitStepper``."""
        value = super().attempt(t, h, t_next, x, whole=whole)
        if not torch.is_grad_enabled():
            self._slopes = None
            return value
        with torch.no_grad():
            slopes = self.slopes()
        step = _PairTaken(self.back, self.whole, self.tableau.times(t, h, t_next), h)
        self.x_next, self._slopes = KnownStep.through(step, x, (value, slopes), self.stages)
        return self.x_next

    def known_slopes(self) -> Tensor:
        """Return the dense output's slopes with their graph."""
        return self.slopes() if self._slopes is None else self._slopes


class _PairTaken(StepTaken[PairPullback]):
    """A step of a pair."""

    def pull_back(self, saved: Sequence[Tensor], grads: Sequence[Tensor | None]) -> tuple[Tensor, list[Tensor | None]]:
        """Return the cotangent of the start and the parameters' gradients."""
        x, *stages = saved
        of_end, of_slopes = grads
        return pulled_through_pair(self.back, self.times, self.h, x, stages, of_end, of_slopes)


def pulled_through_pair(
    back: PairPullback,
    times: Sequence[float],
    h: float,
    x: Tensor,
    stages: Sequence[Tensor],
    of_end: Tensor | None,
    of_slopes: Tensor | None,
) -> tuple[Tensor, list[Tensor | None]]:
    """Return the cotangent ``[d]`` of a step's start ``x [d]`` and the parameters' gradients.

    ``of_end [d]`` and ``of_slopes [2, d]`` are those of its end and of its dense output's slopes, None where zero.
    """
    samples = back.stiff.samples
    a = samples.of(torch.zeros_like(x) if of_end is None else of_end)
    inside = None if of_slopes is None else torch.stack([samples.of(row).reshape(-1) for row in of_slopes])
    of_start, of_parameters = back.through(times, h, (samples.of(x), *stages), a, inside)
    return samples.flat(of_start), of_parameters
