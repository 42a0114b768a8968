"""A ball that bounces: its flights, each a solve, and its heights in closed form."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from odegrad.contracts import Solve
from odegrad.datasets.problems.hybrid.problem import HybridModel

AT_REST = 1e-4
"""A ball whose flights are shorter than this share of the observed time lies still."""


class FreeFall(nn.Module):
    """Height and velocity ``[batch, 2]`` of a falling ball, by gravity."""

    def __init__(self, gravity: float) -> None:
        super().__init__()
        self.gravity = nn.Parameter(torch.tensor(gravity))

    def forward(self, _t: Tensor, y: Tensor) -> Tensor:
        """Return velocity and acceleration."""
        return torch.stack([y[:, 1], -self.gravity.expand(len(y))], dim=1)


class Ball(HybridModel):
    """The heights of one ball at ``times``, dropped from a height; it bounces with a restitution."""

    def __init__(self, gravity: float, restitution: float, times: Sequence[float]) -> None:
        super().__init__()
        self.field: FreeFall = FreeFall(gravity)
        self.restitution = nn.Parameter(torch.tensor(restitution))
        self.times = tuple(times)

    def start(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Return height and velocity ``[1, 2]``, and start and end of the first flight."""
        flight, _ = self._flights(inputs)
        return self._held(inputs), torch.tensor([0.0, flight], dtype=inputs.dtype)

    def predicted(self, solve: Solve, inputs: Tensor) -> Tensor:
        """Return the heights ``[times]`` of a ball dropped from ``inputs [1]``: one solve for each flight."""
        y = self._held(inputs)
        heights: list[Tensor] = []
        # What a flight begins later than where the closed form puts it: zero, with the derivative of its begin.
        begin, late = 0.0, torch.zeros_like(inputs[0])
        flight, restitution = self._flights(inputs)
        while len(heights) < len(self.times):
            waiting = self.times[len(heights) :]
            if flight <= AT_REST * self.times[-1]:
                return torch.cat([torch.stack(heights), inputs.new_zeros(len(waiting))])
            inside = [t - begin for t in waiting if t - begin < flight]
            ends = [flight] if len(inside) < len(waiting) else []
            ys = solve(self.field, y, torch.tensor([0.0, *inside, *ends], dtype=inputs.dtype))
            heights += list((ys[1:, 0, 0] - ys[1:, 0, 1] * late)[: len(inside)])
            if ends:
                height, velocity = ys[-1, 0]
                moved = -height / velocity
                up = -self.restitution * (velocity - self.field.gravity * moved)
                y = torch.stack([torch.zeros_like(up), up])[None]
                late = late + moved
                # The first is half a flight: from the top.
                begin, flight = begin + flight, flight * restitution * (2.0 if begin == 0.0 else 1.0)
        return torch.stack(heights)

    def _held(self, inputs: Tensor) -> Tensor:
        """Return height and velocity ``[1, 2]`` of a ball that is held at ``inputs [1]``."""
        return torch.stack([inputs, torch.zeros_like(inputs)], dim=1)

    def _flights(self, inputs: Tensor) -> tuple[float, float]:
        """Return how long the ball falls from ``inputs [1]``, and how much shorter each flight is; without a graph."""
        # By the closed form and not from the solved state: any method and tolerance then solves over the same times.
        # Times are the host's, so these are the one read of the device that the task takes.
        height, gravity, restitution = torch.stack([inputs[0], self.field.gravity, self.restitution]).tolist()
        return math.sqrt(2 * height / gravity), restitution


def ball_heights(height: Tensor, restitution: Tensor, gravity: Tensor, times: Tensor) -> Tensor:
    """Return the heights ``[batch, time]`` of balls dropped from ``height [batch]``, in closed form, with its graph."""
    speed = (2 * height * gravity).sqrt()
    begin, up = -speed / gravity, speed  # the first half flight is that of a ball thrown up before
    out = torch.zeros(len(height), len(times), dtype=times.dtype)
    while bool((begin.detach() < times[-1]).any()) and bool((up.detach() > 1e-9).any()):
        since = times - begin[:, None]
        length = (2 * up / gravity)[:, None]
        out = torch.where((since > 0) & (since <= length), up[:, None] * since - gravity * since**2 / 2, out)
        begin, up = begin + length[:, 0], restitution * up
    return out
