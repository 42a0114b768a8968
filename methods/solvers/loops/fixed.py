"""Steps of a grid that is known before the solve."""

from collections.abc import Generator, Iterator

import torch
from torch import Tensor

from odegrad.errors import NonFiniteError
from odegrad.methods.solvers.ends.landing import OpenTimes, open_grid
from odegrad.methods.solvers.loops.base import SteppingLoop
from odegrad.methods.solvers.stepper import AcceptedStep


class FixedLoop(SteppingLoop):
    """Every interval between two landings is divided before the solve."""

    def advance(self, t: float, t_end: float, x: Tensor) -> Generator[AcceptedStep, None, Tensor]:
        """Step from ``t`` to ``t_end`` on the grid and return the carried vector there."""
        n, h = 0, 0.0
        for h, t_next in self._grid(t, t_end):
            n += 1
            x, ended = yield from self.accept(t, h, t_next, x, self.attempt(t, h, t_next, x))
            if ended:
                return x
            t = t_next
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
