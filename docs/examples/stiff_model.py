"""A stiff model for `odegrad diagnose`: van der Pol's oscillator, whose damping is to be found."""

import torch
from torch import nn


class VanDerPol(nn.Module):
    """``x' = z``, ``epsilon z' = (1 - x^2) z - x``: the smaller epsilon, the stiffer."""

    def __init__(self):
        super().__init__()
        self.log_epsilon = nn.Parameter(torch.tensor(0.005).log())

    def forward(self, t, y):
        x, z = y.unbind(-1)
        return torch.stack([z, ((1 - x**2) * z - x) / self.log_epsilon.exp()], dim=-1)


def build():
    y0 = torch.tensor([[2.0, -0.66], [1.9, -0.7]])
    return VanDerPol(), y0, torch.tensor([0.0, 0.5])
