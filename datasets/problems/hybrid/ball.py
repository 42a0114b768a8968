"""A ball that bounces: its flights, each a solve, and its heights in closed form."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from odegrad.contracts import Solve, event_solve
from odegrad.datasets.problems.hybrid.problem import HybridModel
from odegrad.event import Event

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
        flight = (2 * inputs[0] / self.field.gravity).sqrt()
        return self._held(inputs), torch.stack([torch.zeros_like(flight), flight])

    def predicted(self, solve: Solve, inputs: Tensor) -> Tensor:
        """Return the heights ``[times]`` of a ball dropped from ``inputs [1]``.

        Each flight is a solve up to its end, and one to the times inside of it.
        """
        solve, end = event_solve(solve), self.times[-1]
        t, y = torch.zeros_like(inputs[0]), self._held(inputs)
        heights: list[Tensor] = []
        while len(heights) < len(self.times):
            waiting = self.times[len(heights) :]
            landing = solve.until(self.field, y, t, Event(_height, t_max=end, required=False))
            begin, stop = torch.stack([t.detach(), landing.time.detach()]).tolist()
            if landing.found and stop - begin <= AT_REST * end:
                return torch.cat([torch.stack(heights), inputs.new_zeros(len(waiting))])
            inside = [time for time in waiting if time < stop or not landing.found]
            if inside:
                ts = torch.cat([t.reshape(1), inputs.new_tensor(inside)])
                heights += list(solve(self.field, y, ts)[1:, 0, 0])
            velocity = landing.states[-1, 0, 1]
            t, y = landing.time, torch.stack([torch.zeros_like(velocity), -self.restitution * velocity])[None]
        return torch.stack(heights)

    def _held(self, inputs: Tensor) -> Tensor:
        """Return height and velocity ``[1, 2]`` of a ball that is held at ``inputs [1]``."""
        return torch.stack([inputs, torch.zeros_like(inputs)], dim=1)


def _height(_t: Tensor, y: Tensor) -> Tensor:
    """Return how high the ball is, ``y [1, 2]``."""
    return y[0, 0]


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
