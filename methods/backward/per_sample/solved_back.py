"""The adjoint method on rows: state and costate of every sample are solved back together."""

from collections.abc import Callable

import torch
from torch import Tensor

from odegrad.methods.backward.node import Gradients
from odegrad.methods.backward.per_sample.continuous import BackwardRowsNode, BackwardSteps
from odegrad.methods.backward.per_sample.node import at, walked
from odegrad.methods.backward.reconstruction import relative_error, smallest_size, tell
from odegrad.methods.solvers.per_sample.rows import RowField
from odegrad.methods.solvers.per_sample.times import HostIntegers, SampleTimes
from odegrad.methods.solvers.solver import OneStepSolver


class SolvedBackRowsNode(BackwardRowsNode):
    """Keeps nothing beside the outputs ``[K, batch, n]``."""

    off: list[Tensor]
    """How far the solved states were from each output reached, relative to their sizes."""

    def __init__(
        self,
        field: RowField,
        solver: OneStepSolver,
        times: SampleTimes,
        back: BackwardSteps,
        remedy: Callable[[float, float], str],
    ) -> None:
        super().__init__(field, solver, times, back)
        self.remedy = remedy

    def forward(self, y0: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Solve."""
        ys, self.reached = walked(self.field, self.solver, y0, self.sample_times)
        return ys, (ys,)

    def pull_back(self, grads: Tensor, kept: tuple[Tensor, ...]) -> Gradients:
        """Solve back interval by interval."""
        self.off = []
        return super().pull_back(grads, kept)

    def state(self, k: int, samples: HostIntegers, kept: tuple[Tensor, ...]) -> Tensor:
        """Return the stored outputs."""
        return kept[0][k].index_select(0, at(samples, kept[0]))

    def arrive(self, k: int, samples: HostIntegers, y: Tensor, kept: tuple[Tensor, ...]) -> None:
        """Note how far ``y [m, n]`` is from the stored outputs, sample by sample."""
        place = at(samples, y)
        here, there = (kept[0][i].index_select(0, place) for i in (k, k + 1))
        sizes = torch.maximum(*(torch.linalg.vector_norm(x, dim=1) for x in (here, there)))
        errors = torch.linalg.vector_norm(y - here, dim=1)
        self.off.append(relative_error(errors, sizes, smallest_size(self.solver, y.shape[1])))

    def arrived(self, kept: tuple[Tensor, ...]) -> None:  # noqa: ARG002
        """Tell the largest error of any sample."""
        if self.off:
            tell(torch.stack(self.off).amax(), self.solver, self.limits(), self.remedy)
