"""The ODE-RNN: a state that follows an ODE between observations and jumps at each of them."""

import torch
from torch import Tensor, nn

from odegrad.contracts import Solve
from odegrad.datasets.nets.layers import AutonomousNet, GRUCell


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

    def dynamics(self, values: Tensor, seen: Tensor, ts: Tensor) -> tuple[nn.Module, Tensor, Tensor]:
        """Return the field, the state after the first observation and the times up to the second."""
        return self.field, self.start(values, seen), ts[:2]

    def start(self, values: Tensor, seen: Tensor) -> Tensor:
        """Return the state ``[batch, hidden]`` after the first observation."""
        h = values.new_zeros((len(values), self.hidden))
        return torch.where(seen[:, 0, None], self.cell(values[:, 0], h), h)
