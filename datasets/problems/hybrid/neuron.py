"""A neuron that fires where its potential reaches 1, and its period in closed form."""

import torch
from torch import Tensor, nn

from odegrad.contracts import Solve
from odegrad.datasets.problems.hybrid.problem import HybridModel


class LeakyIntegrator(nn.Module):
    """Potential, input and length of a period ``[batch, 3]``, over the fraction of the period that is past.

    ``u' = T (w x - u) / tau``: time runs in units of the period T of each sample, so that all end at 1.
    """

    def __init__(self, weight: float, time_constant: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(weight))
        self.time_constant = nn.Parameter(torch.tensor(time_constant))

    def rate(self, potential: Tensor, inputs: Tensor) -> Tensor:
        """Return the rate of the potential per unit of time, ``[batch]``."""
        return (self.weight * inputs - potential) / self.time_constant

    def forward(self, _t: Tensor, y: Tensor) -> Tensor:
        """Return the rates ``[batch, 3]``."""
        potential, inputs, period = y.unbind(1)
        rate = period * self.rate(potential, inputs)
        return torch.stack([rate, torch.zeros_like(rate), torch.zeros_like(rate)], dim=1)


class Neuron(HybridModel):
    """The periods ``[batch]`` of neurons that fire, and are reset to 0, where their potential reaches 1."""

    def __init__(self, weight: float, time_constant: float) -> None:
        super().__init__()
        self.field: LeakyIntegrator = LeakyIntegrator(weight, time_constant)

    def start(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Return the initial state ``[batch, 3]``, and start and end of a period."""
        with torch.no_grad():
            period = firing_period(inputs, self.field.weight, self.field.time_constant)
        return torch.stack([torch.zeros_like(inputs), inputs, period], dim=1), torch.tensor(
            [0.0, 1.0], dtype=inputs.dtype
        )

    def predicted(self, solve: Solve, inputs: Tensor) -> Tensor:
        """Return the periods of ``inputs [batch]``."""
        y0, ts = self.start(inputs)
        potential, _, period = solve(self.field, y0, ts)[-1].unbind(1)
        return period + (1.0 - potential) / self.field.rate(potential, inputs)


def firing_period(inputs: Tensor, weight: Tensor, time_constant: Tensor) -> Tensor:
    """Return ``tau ln(I / (I - 1))``, ``I = w x``, ``[batch]``; a current that never fires counts as a little more."""
    current = (weight * inputs).clamp(min=1.01)
    return time_constant * torch.log(current / (current - 1.0))
