"""Stiff equations whose constants are trained: vector fields ``[batch, n]``."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class RobertsonField(nn.Module):
    """Robertson's reaction ``A -> B``, ``2 B -> B + C``, ``B + C -> A + C`` of states ``[batch, 3]``.

    Parameters
    ----------
    rates
        The three rate constants ``[3]``, 0.04, 3e7 and 1e4 as published, or one set for each sample, ``[batch, 3]``.
    """

    def __init__(self, rates: Sequence[float] | Tensor = (0.04, 3e7, 1e4)) -> None:
        super().__init__()
        self.rates = nn.Parameter(torch.as_tensor(rates, dtype=torch.float64).clone())

    def forward(self, t: Tensor, y: Tensor) -> Tensor:  # noqa: ARG002
        """Return ``dy/dt [batch, 3]``."""
        a, b, c = y.unbind(-1)
        k1, k2, k3 = self.rates.unbind(-1)
        first, second, third = k1 * a, k2 * b * b, k3 * b * c
        return torch.stack([third - first, first - second - third, second], dim=-1)


class VanDerPolField(nn.Module):
    """Van der Pol's oscillator ``x' = v``, ``v' = mu (1 - x^2) v - x`` of states ``(x, v) [batch, 2]``.

    Parameters
    ----------
    mu
        The damping, 0-d.
    """

    def __init__(self, mu: float) -> None:
        super().__init__()
        self.mu = nn.Parameter(torch.tensor(float(mu), dtype=torch.float64))

    def forward(self, t: Tensor, y: Tensor) -> Tensor:  # noqa: ARG002
        """Return ``dy/dt [batch, 2]``."""
        x, v = y.unbind(-1)
        return torch.stack([v, self.mu * (1.0 - x * x) * v - x], dim=-1)


class ProtheroRobinsonField(nn.Module):
    """``y' = -rate (y - cos t) - sin t``, whose solution is ``cos t + (y0 - 1) exp(-rate t)``; states ``[batch, n]``.

    Prothero and Robinson, On the stability and accuracy of one-step methods for solving stiff systems of ordinary
    differential equations, Mathematics of Computation 28, 1974.

    Parameters
    ----------
    rate
        How fast a disturbance is forgotten, 0-d.
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = nn.Parameter(torch.tensor(float(rate), dtype=torch.float64))

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        """Return ``dy/dt [batch, n]``."""
        return -self.rate * (y - torch.cos(t)) - torch.sin(t)
