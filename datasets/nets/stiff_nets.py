"""A net whose dynamics can become stiff, and stay bounded whatever its weights: velocities ``[batch, dim]``."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from odegrad.datasets.nets.layers import AutonomousNet


class LeakyNet(nn.Module):
    """A recurrent net in continuous time, ``tau y' = net(y) - y``: each component follows the net at its own rate.

    Funahashi and Nakamura, Approximation of dynamical systems by continuous time recurrent neural networks, Neural
    Networks 6, 1993. The net is bounded, so that states are, and the time constants are trained: what is learnt is
    stiff where one of them is small.

    Parameters
    ----------
    net
        A bounded net ``[batch, dim] -> [batch, dim]``, called with the time first.
    time_constants
        ``tau [dim]`` to begin with, in units of time; their logarithms are trained.
    """

    def __init__(self, net: AutonomousNet, time_constants: Sequence[float]) -> None:
        super().__init__()
        self.net = net
        self.log_rate = nn.Parameter(-torch.tensor(time_constants, dtype=torch.float64).log())

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        """Return the velocity ``[batch, dim]`` of ``y [batch, dim]``."""
        velocity: Tensor = self.log_rate.exp() * (self.net(t, y) - y)
        return velocity
