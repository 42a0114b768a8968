"""The reference of stiff equations, by implicit steps both ways: against a closed form, and where it gives way."""

import math

import pytest
import torch
from torch import nn

from odegrad.errors import UnsupportedError
from odegrad.reference import two_ways
from odegrad.reference.reference import reference
from odegrad.reference.subject import of_model
from odegrad.user.models import Model

RATE, END = 1e5, 0.02


class Following(nn.Module):
    """``x' = -RATE (x - a z)``, ``z' = -b z``: a fast mode behind a slow one."""

    def __init__(self):
        super().__init__()
        self.a = nn.Parameter(torch.tensor(1.5, dtype=torch.float64))
        self.b = nn.Parameter(torch.tensor(0.7, dtype=torch.float64))

    def forward(self, t, y):
        """Return ``dy/dt``."""
        x, z = y.unbind(-1)
        return torch.stack([-RATE * (x - self.a * z), -self.b * z], dim=-1)


def _subject():
    y0, ts = torch.tensor([[1.5, 1.0]], dtype=torch.float64), torch.tensor([0.0, END], dtype=torch.float64)
    return of_model(Model(Following(), y0, ts, lambda ys: ys[-1, 0, 0]))


def _true():
    """Return the derivatives of ``x = a RATE / (RATE - b) e^(-b END)``; of the fast mode nothing is left."""
    a, b = 1.5, 0.7
    over = RATE / (RATE - b)
    by_a = over * math.exp(-b * END)
    return torch.tensor([by_a, a * by_a * (1.0 / (RATE - b) - END)], dtype=torch.float64)


@pytest.mark.parametrize("wanted", [0.0, 1e-4])
def test_a_stiff_gradient_is_known(monkeypatch, wanted):
    """Where explicit steps are too many both implicit ways agree, with each other and with the closed form."""
    monkeypatch.setattr(two_ways, "FEW_STEPS", 20)
    found = reference(_subject(), wanted=wanted)
    assert not found.reason
    off = float((found.gradient - _true()).norm() / _true().norm())
    assert off <= 3 * found.error + 1e-12
    assert off <= 1e-8
    assert found.error <= 1e-6


def test_it_gives_way_to_explicit_steps(monkeypatch):
    """Where implicit steps cannot be taken the explicit ones go on, and the reason is theirs."""

    def refused(*_):
        raise UnsupportedError("samples depend on each other")

    monkeypatch.setattr(two_ways, "FEW_STEPS", 10)
    monkeypatch.setattr(two_ways, "MAX_EXPLICIT", 20)
    monkeypatch.setattr(two_ways, "recorded_implicitly", refused)
    found = reference(_subject())
    assert found.gradient is None
    assert "20 steps were attempted" in found.reason


def test_a_small_budget_is_not_spent_on_explicit_steps():
    """A fifth of it at most: what is left lets the implicit ways end."""
    found = reference(_subject(), wanted=1e-3, budget=8_000)
    assert not found.reason
    assert found.error <= 1e-3


def test_what_is_not_stiff_takes_no_implicit_step(monkeypatch):
    """Its reference is what it was."""

    def never(*_):
        raise AssertionError

    class Slow(Following):
        def forward(self, t, y):
            x, z = y.unbind(-1)
            return torch.stack([-(x - self.a * z), -self.b * z], dim=-1)

    monkeypatch.setattr(two_ways, "recorded_implicitly", never)
    y0, ts = torch.tensor([[1.0, 1.0]], dtype=torch.float64), torch.tensor([0.0, 1.0], dtype=torch.float64)
    assert reference(of_model(Model(Slow(), y0, ts, lambda ys: ys[-1, 0, 0]))).error <= 1e-10
