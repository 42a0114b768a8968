"""The neural CDE: a state that a path through the observations drives."""

import torch
from torch import Tensor, nn

from odegrad.contracts import Solve, event_solve
from odegrad.datasets.nets.paths import Controlled, HermitePath, with_time


class MatrixNet(nn.Module):
    """``F(z) [batch, hidden, channels]``: two layers, tanh behind both."""

    def __init__(self, hidden: int, channels: int, width: int) -> None:
        super().__init__()
        self.shape = (hidden, channels)
        self.layers = nn.Sequential(nn.Linear(hidden, width), nn.Tanh(), nn.Linear(width, hidden * channels))

    def forward(self, z: Tensor) -> Tensor:
        """Return ``F(z)`` for ``z [batch, hidden]``."""
        return torch.tanh(self.layers(z)).reshape(-1, *self.shape)


class NeuralCDE(nn.Module):
    """``z' = F(z) X'(t)`` along a cubic Hermite path with backward differences over (time, channels).

    ``z(0)`` is a linear map of the first observation, and what is read out is the state at a series' last one: the path
    behind that is none of its own (Kidger et al. 2020; Morrill et al. 2022).
    """

    def __init__(self, channels: int, hidden: int, classes: int) -> None:
        super().__init__()
        self.first = nn.Linear(channels + 1, hidden)
        self.field = MatrixNet(hidden, channels + 1, 2 * hidden)
        self.head = nn.Linear(hidden, classes)

    def forward(self, solve: Solve, values: Tensor, seen: Tensor, ts: Tensor) -> Tensor:
        """Return scores ``[batch, classes]``.

        Parameters
        ----------
        solve
            A gradient method bound to its solver; called once, over the knots.
        values
            Observations ``[batch, length, channels]``.
        seen
            Which of them there are ``[batch, length]``; the path goes on where it is until the next one.
        ts
            Times of at least these, ``[length]`` or more.
        """
        length = seen.size(1)
        last = length - 1 - seen.flip(1).int().argmax(1)
        field, z0, _ = self.dynamics(values, seen, ts)
        states = event_solve(solve).across(field, z0, ts[:length], field.path.knots)
        scores: Tensor = self.head(states[last, torch.arange(len(last), device=last.device)])
        return scores

    def dynamics(self, values: Tensor, seen: Tensor, ts: Tensor) -> tuple[Controlled, Tensor, Tensor]:
        """Return the field of these series, its initial state and the times up to the second observation."""
        path = HermitePath(ts[: seen.size(1)], with_time(ts[: seen.size(1)], held(values, seen)))
        z0: Tensor = self.first(path(ts[0]))
        return Controlled(self.field, path), z0, ts[:2]


def held(values: Tensor, seen: Tensor) -> Tensor:
    """Return ``values [batch, length, channels]``, each that is not ``seen [batch, length]`` that of the last one."""
    places = torch.arange(seen.size(1), device=seen.device).expand_as(seen)
    latest = torch.where(seen, places, 0).cummax(1).values
    return values.gather(1, latest[..., None].expand_as(values))
