"""The ODE-RNN: a state that follows an ODE between observations and jumps at each of them."""

import torch
from torch import Tensor, nn

from odegrad.contracts import Solve
from odegrad.datasets.nets.layers import AutonomousNet, GRUCell
from odegrad.states import sent_to


class ODERNN(nn.Module):
    """A state that starts at zero, follows ``field`` between observations, and jumps by ``cell`` at each.

    Rubanova et al., Latent Ordinary Differential Equations for Irregularly-Sampled Time Series, NeurIPS 2019. What is
    read out is the state after a series' last observation, so that padding is never seen.
    """

    def __init__(self, channels: int, hidden: int, classes: int) -> None:
        super().__init__()
        self.hidden = hidden
        self.field = AutonomousNet(hidden, (hidden, hidden, hidden))
        self.cell = GRUCell(channels, hidden)
        self.head = nn.Linear(hidden, classes)

    def forward(self, solve: Solve, values: Tensor, seen: Tensor, ts: Tensor) -> Tensor:
        """Return scores ``[batch, classes]``.

        Parameters
        ----------
        solve
            A gradient method bound to its solver; called once between two times.
        values
            Observations ``[batch, length, channels]``; every time costs a solve, whether a series is seen there or not.
        seen
            Which of them there are ``[batch, length]``.
        ts
            Their times ``[length]``.
        """
        h = self.start(values, seen)
        length = seen.size(1)
        last = length - 1 - seen.flip(1).int().argmax(1)
        states = [h]
        for k in range(1, length):
            h = solve(self.field, h, ts[k - 1 : k + 1])[-1]
            h = torch.where(seen[:, k, None], self.cell(values[:, k], h), h)
            states.append(h)
        scores: Tensor = self.head(torch.stack(states)[last, torch.arange(len(last), device=last.device)])
        return scores

    def at_own_times(self, solve: Solve, values: Tensor, ts: Tensor) -> Tensor:
        """Return scores ``[batch, classes]`` of series that are solved from each of their own observations to the next.

        The field does not see the time, so every solve begins at 0 and lasts as long as each series' own gap. A series
        leaves the batch behind its last observation.

        Parameters
        ----------
        solve
            A gradient method bound to its solver; called for the k-th gaps of all series that have one.
        values
            Observations ``[batch, most, channels]``, those of each series side by side.
        ts
            Their times ``[batch, most]`` on the CPU; those of shorter series repeat their last one.
        """
        counts, order, gaps = _longest_first(ts)
        place = sent_to(values.device, order)
        ordered = values[place]
        h = self.cell(ordered[:, 0], values.new_zeros((len(values), self.hidden)))
        ended = []
        for k in range(1, int(counts.max())):
            width = int((counts > k).sum())
            if width < len(h):
                ended.append(h[width:])
            h = solve(self.field, h[:width], from_zero(gaps[:width, k - 1]))[-1]
            h = self.cell(ordered[:width, k], h)
        ends = torch.cat([h, *reversed(ended)])
        scores: Tensor = self.head(ends[sent_to(values.device, order.argsort())])
        return scores

    def dynamics(self, values: Tensor, seen: Tensor, ts: Tensor) -> tuple[nn.Module, Tensor, Tensor]:
        """Return the field, the state after the first observation and the times up to the second."""
        return self.field, self.start(values, seen), ts[:2]

    def start(self, values: Tensor, seen: Tensor) -> Tensor:
        """Return the state ``[batch, hidden]`` after the first observation."""
        h = values.new_zeros((len(values), self.hidden))
        return torch.where(seen[:, 0, None], self.cell(values[:, 0], h), h)


def from_zero(gaps: Tensor) -> Tensor:
    """Return times ``[batch, 2]`` from 0 to each of ``gaps [batch]``."""
    return torch.stack([torch.zeros_like(gaps), gaps], dim=1)


def _longest_first(ts: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return how many times each series has, those with more first; that order; and the gaps ``[batch, most - 1]``."""
    gaps = ts.diff(dim=1)
    counts = 1 + (gaps > 0).sum(1)
    order = counts.argsort(descending=True, stable=True)
    return counts[order], order, gaps[order]
