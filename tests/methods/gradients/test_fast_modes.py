"""Gradients by the rate of a fast mode: they fall with it as those of the equation itself do, not by the method.

Judges Fronk and Petzold (arXiv 2508.01519), component by component, where the gradient is known in closed form.
"""

import pytest
import torch
from torch import nn

from odegrad.methods.gradients.aca import Aca
from odegrad.methods.solvers.solver import make_solver

END = 2.0


class Following(nn.Module):
    """``y' = -exp(p) (y - cos t)``: p is the logarithm of the fast mode's rate."""

    def __init__(self, rate):
        super().__init__()
        self.log_rate = nn.Parameter(torch.tensor(float(rate), dtype=torch.float64).log())

    def forward(self, t, y):
        """Return ``dy/dt``."""
        return -self.log_rate.exp() * (y - torch.cos(t))


def _true(rate):
    """Return the derivative of the closed form at the end by the logarithm of the rate, from ``y(0) = 1``."""
    p = torch.tensor(float(rate), dtype=torch.float64).log().requires_grad_()
    k, end = p.exp(), torch.tensor(END, dtype=torch.float64)
    y = (k * k * torch.cos(end) + k * torch.sin(end) + torch.exp(-k * end)) / (1.0 + k * k)
    return float(torch.autograd.grad(y, p)[0])


@pytest.mark.parametrize("name", ["kencarp4", "tr_bdf2"])
def test_a_fast_modes_gradient_is_the_equations_own(name):
    """From a rate of 10 to 1e5 it falls by 1e4, and its relative error stays that of the tolerance."""
    sizes = []
    for rate in (1e1, 1e3, 1e5):
        field = Following(rate)
        solver = make_solver(name, rtol=1e-6, atol=1e-12, newton=1e-3)
        ys = Aca()(field, solver, torch.ones(1, 1, dtype=torch.float64), torch.tensor([0.0, END], dtype=torch.float64))
        (found,) = torch.autograd.grad(ys[-1].sum(), field.parameters())
        true = _true(rate)
        # The derivative is 1 / rate of the state: so much more of it is the state's error.
        assert float(found) == pytest.approx(true, rel=1e-2)
        sizes.append(abs(true))
    assert sizes[0] > 50 * sizes[1] > 2_500 * sizes[2]
