"""The latent ODE: a recurrent encoder backwards in time, an ODE from a latent state, a decoder at every time."""

import torch
from torch import Tensor, nn

from odegrad.contracts import Solve
from odegrad.datasets.nets.layers import AutonomousNet, GRUCell, tanh_layers


class LatentODE(nn.Module):
    """Encodes a series backwards in time, solves from a latent state, decodes at every time.

    Chen et al., Neural Ordinary Differential Equations, NeurIPS 2018, section 5.

    Parameters
    ----------
    channels
        Numbers of an observation.
    latent, hidden
        Numbers of the latent state, and of the encoder's state and of every hidden layer.
    beside
        Numbers that the encoder is told beside each observation, such as the time since the one before.
    """

    def __init__(self, channels: int, latent: int, hidden: int, beside: int = 0) -> None:
        super().__init__()
        self.latent, self.hidden = latent, hidden
        self.cell = GRUCell(channels + beside, hidden)
        self.to_latent = nn.Linear(hidden, 2 * latent)
        self.field = AutonomousNet(latent, (hidden, hidden))
        self.decoder = tanh_layers(latent, hidden, channels)

    def encode(self, told: Tensor, seen: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return mean and logarithm of the deviation of the first latent state, ``[batch, latent]`` each.

        Parameters
        ----------
        told
            What the encoder is told of each observation, ``[batch, times, channels + beside]``.
        seen
            Which of them there are, ``[batch, times]``; all if None.
        """
        h = told.new_zeros((len(told), self.hidden))
        for k in reversed(range(told.shape[1])):
            moved = self.cell(told[:, k], h)
            h = moved if seen is None else torch.where(seen[:, k, None], moved, h)
        mean, log_deviation = self.to_latent(h).chunk(2, dim=-1)
        return mean, log_deviation

    def decode(self, zs: Tensor) -> Tensor:
        """Return observations ``[batch, times, channels]`` of latent states ``[times, batch, latent]``."""
        out: Tensor = self.decoder(zs)
        return out.transpose(0, 1)

    def decoded(self, solve: Solve, z0: Tensor, ts: Tensor) -> Tensor:
        """Return observations ``[batch, times, channels]`` at ``ts [times]`` or ``[batch, times]`` from ``z0``."""
        return self.decode(solve(self.field, z0, ts))
