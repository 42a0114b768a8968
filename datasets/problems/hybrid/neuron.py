"""A neuron that fires where its potential reaches 1, and its period in closed form."""

import torch
from torch import Tensor, nn

from odegrad.contracts import Solve, event_solve
from odegrad.datasets.problems.hybrid.problem import HybridModel
from odegrad.event import Event

LATEST_FIRING = 50.0
"""A neuron that has not fired before never does: its input is too small."""


class LeakyIntegrator(nn.Module):
    """Potential and input ``[1, 2]`` of a neuron: ``u' = (w x - u) / tau``; the input stays."""

    def __init__(self, weight: float, time_constant: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(weight))
        self.time_constant = nn.Parameter(torch.tensor(time_constant))

    def forward(self, _t: Tensor, y: Tensor) -> Tensor:
        """Return the rates ``[1, 2]``."""
        potential, inputs = y.unbind(1)
        rate = (self.weight * inputs - potential) / self.time_constant
        return torch.stack([rate, torch.zeros_like(rate)], dim=1)


class Neuron(HybridModel):
    """The periods ``[batch]`` of neurons that fire, and are reset to 0, where their potential reaches 1."""

    def __init__(self, weight: float, time_constant: float) -> None:
        super().__init__()
        self.field: LeakyIntegrator = LeakyIntegrator(weight, time_constant)

    def start(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Return the initial state ``[1, 2]`` of the first neuron, and start and end of its period."""
        period = firing_period(inputs[:1], self.field.weight, self.field.time_constant)
        return self._at_rest(inputs[0]), torch.cat([torch.zeros_like(period), period])

    def predicted(self, solve: Solve, inputs: Tensor) -> Tensor:
        """Return the periods of ``inputs [batch]``: one solve for each neuron, which fires at a time of its own."""
        solve, fires = event_solve(solve), Event(_above_threshold, t_max=LATEST_FIRING, direction=1)
        start = torch.zeros_like(inputs[0])
        return torch.stack([solve.until(self.field, self._at_rest(x), start, fires).time for x in inputs])

    def _at_rest(self, x: Tensor) -> Tensor:
        """Return potential and input ``[1, 2]`` of a neuron that has just fired."""
        return torch.stack([torch.zeros_like(x), x])[None]


def _above_threshold(_t: Tensor, y: Tensor) -> Tensor:
    """Return how far the potential of ``y [1, 2]`` is above that at which the neuron fires."""
    return y[0, 0] - 1.0


def firing_period(inputs: Tensor, weight: Tensor, time_constant: Tensor) -> Tensor:
    """Return ``tau ln(I / (I - 1))``, ``I = w x``, ``[batch]``; NaN or infinite where it never fires."""
    current = weight * inputs
    return time_constant * torch.log(current / (current - 1.0))
