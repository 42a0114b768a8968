"""How far an interpolant on nodes is from the states at the ends of accepted steps, which it never saw; no f call.

States are held while the forward solve passes over them, few per output interval, and compared in one product at its
end: what is left of them is one number.
"""

import math
import statistics
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from odegrad.methods.backward.reconstruction import relative_error
from odegrad.methods.solvers.chebyshev import ChebyshevNodes
from odegrad.methods.solvers.solver import OneStepSolver
from odegrad.methods.solvers.stepper import AcceptedStep
from odegrad.states import sent_to

HELD_STATES = 16
"""The most states that are held of a solve with few output intervals."""
MIN_HELD_STATES = 4
"""The most that are held of one interval, where they are many."""
STEP_PER_SCALE = 3.0
"""How many time scales a step of tolerance 1 would be: on oscillations dopri5 takes ``omega h = 3.9 rtol^(1/5)``."""
AVERAGED_STEPS = 4
"""How many successive steps tell how fine the solution is where it is finest."""
MAX_NODES = 256
"""More nodes than these are no advice: they cost more than keeping the steps does."""


def _smallest(sizes: Sequence[float]) -> float:
    """Return the least average of a few successive steps: alone, a first one is tiny and a last one cut to land."""
    few = min(AVERAGED_STEPS, len(sizes))
    return min(statistics.fmean(sizes[i : i + few]) for i in range(len(sizes) - few + 1))


class _Interval:
    """The states that are held between two outputs: every one at first, then every second, every fourth, ..."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.times: list[float] = []
        self.states: list[Tensor] = []
        self.sizes: list[float] = []
        """Of all of its steps, in units of time."""
        self._seen, self._stride = 0, 1

    def hold(self, t: float, y: Tensor) -> None:
        """Hold ``y [d]`` if it is its turn."""
        self._seen += 1
        if self._seen % self._stride:
            return
        self.times.append(t)
        self.states.append(y)
        if len(self.times) > self.most:
            del self.times[::2], self.states[::2]
            self._stride *= 2


class HeldStates:
    """States at the ends of accepted steps, as far as an interpolant on ``intervals`` does not have them anyway.

    Parameters
    ----------
    intervals
        The nodes of each output interval.
    degree
        Of the solver's dense output, which fills the nodes: fewer nodes than it needs miss what is inside one step.
    """

    def __init__(self, intervals: Sequence[ChebyshevNodes], degree: int) -> None:
        most = max(MIN_HELD_STATES, HELD_STATES // len(intervals))
        self.nodes = intervals
        self.kept = [_Interval(most) for _ in intervals]
        self._coarse = intervals[0].n <= degree
        self._has_ends = intervals[0].kind == "second"
        self._at = 0

    def pass_over(self, step: AcceptedStep) -> None:
        """Hold the end of ``step`` and note its size; also its middle, where the nodes are too few for one step."""
        if self._coarse:
            middle = step.t + 0.5 * step.h
            self._interval(middle, step.h).hold(middle, step.at([middle])[0])
        interval = self._interval(step.t_next, step.h)
        interval.sizes.append(abs(step.h))
        if not (self._has_ends and step.t_next == self.nodes[self._at].t1):
            # A Runge-Kutta method carries the state alone; a slice of it would be an operator per step.
            interval.hold(step.t_next, step.x_next if step.x_next.numel() == step.d else step.y_next)

    def _interval(self, t: float, h: float) -> _Interval:
        while (t - self.nodes[self._at].t1) * h > 0:
            self._at += 1
        return self.kept[self._at]

    @torch.no_grad()
    def error(self, values: Tensor, smallest: float) -> Tensor:
        """Return the largest error of the interpolant of ``values [K-1, n, d]``, a 0-d tensor.

        It is relative to the largest state at the nodes of its interval, or ``smallest``.
        """
        states = [y for interval in self.kept for y in interval.states]
        if not states:  # one step per interval, whose polynomial the nodes reproduce
            return values.new_zeros(())
        of = [i for i, interval in enumerate(self.kept) for _ in interval.times]
        # One product with all intervals side by side: a sample has weights on the nodes of its own, and zeros else.
        weights = np.zeros((len(states), len(self.kept), self.nodes[0].n))
        weights[range(len(of)), of] = np.concatenate(
            [nodes.coefficients(kept.times) for nodes, kept in zip(self.nodes, self.kept, strict=True) if kept.times]
        )
        flat = torch.from_numpy(weights.reshape(len(states), -1)).to(values.dtype)
        off = torch.addmm(torch.stack(states), sent_to(values.device, flat), values.flatten(0, 1), alpha=-1.0)
        sizes = torch.linalg.vector_norm(values, dim=2).amax(1)
        if len(self.kept) > 1:
            # A GPU would wait for a list of indices, which is copied from memory that is not pinned.
            sizes = sizes[of] if sizes.device.type == "cpu" else sizes[sent_to(sizes.device, torch.tensor(of))]
        return relative_error(torch.linalg.vector_norm(off, dim=1), sizes, smallest)

    def enough_nodes(self, solver: OneStepSolver) -> int:
        """Return how many nodes per interval would follow what the steps of ``solver`` follow, more than there are."""
        # A step of order p is rtol^(1/p) of the solution's time scale, up to a factor; nodes need no more than a few
        # per time scale, whatever the tolerance, and never lie denser than the steps.
        steps_apart = 1.0
        if solver.adaptive:
            steps_apart = max(1.0, 1.0 / (STEP_PER_SCALE * solver.controller.rtol ** (1.0 / solver.order)))
        needed = 2 * self.nodes[0].n
        for nodes, kept in zip(self.nodes, self.kept, strict=True):
            if kept.sizes:
                # Nodes lie farthest apart in the middle, pi / 2 times an even share.
                spans = abs(nodes.t1 - nodes.t0) / (_smallest(kept.sizes) * steps_apart)
                needed = max(needed, 1 + math.ceil(0.5 * math.pi * spans))
        return needed
