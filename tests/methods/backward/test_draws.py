"""Fields that draw random numbers: every call of a solve begins from one state of the generators that it draws from."""

import random

import numpy as np
import pytest
import torch
from torch import nn

from odegrad.errors import UsageError


class _Noisy(nn.Module):
    """A net plus noise from ``draw``, from ``since`` on."""

    def __init__(self, inner, draw, since=-1.0):
        super().__init__()
        self.inner, self.draw, self.since = inner, draw, since

    def forward(self, t, y):
        return self.inner(t, y) + (self.draw(self) if float(t) > self.since else 0.0)


def _scaled(field):
    """Noise that a parameter scales, so that the gradient depends on it."""
    return field.inner.last.bias


SOURCES = {
    "torch": lambda: (None, lambda f: torch.randn(3).double() * _scaled(f)),
    "own": lambda: (
        torch.Generator().manual_seed(1),
        lambda f: torch.randn(3, generator=f.generator).double() * _scaled(f),
    ),
    "own of NumPy": lambda: (
        np.random.default_rng(1),
        lambda f: torch.as_tensor(f.generator.standard_normal(3)) * _scaled(f),
    ),
    "NumPy": lambda: (None, lambda f: torch.as_tensor(np.random.standard_normal(3)) * _scaled(f)),  # noqa: NPY002
    "Python": lambda: (None, lambda f: random.gauss(0.0, 1.0) * _scaled(f)),
}


def _pulled(solve, net, start, source, since):
    torch.manual_seed(3), np.random.seed(3), random.seed(3)  # noqa: NPY002
    generator, draw = SOURCES[source]()
    field, y0 = _Noisy(net(), draw, since), start()
    field.generator = generator
    loss = solve(field, y0).pow(2).sum()
    state = torch.get_rng_state(), np.random.random(), random.random()  # noqa: NPY002
    torch.manual_seed(9), np.random.seed(9), random.seed(9)  # noqa: NPY002
    grads = torch.autograd.grad(loss, [y0, *field.parameters()])
    assert torch.equal(torch.get_rng_state(), torch.Generator().manual_seed(9).get_state())
    return grads, state


@pytest.mark.parametrize("since", [-1.0, 0.5], ids=["from the first call", "late"])
@pytest.mark.parametrize("source", SOURCES)
def test_a_backward_pass_repeats_the_draws(solving, source, since, net, start, apart):
    """Whenever the draws begin and wherever they come from; behind each pass the streams stand where naive's do."""
    found, state = _pulled(solving, net, start, source, since)
    true, true_state = _pulled(solving.naive(), net, start, source, since)
    # At the jump itself the backward solve of a continuous method sees the one side or the other.
    assert apart(found, true) < (solving.near if solving.method.traits.exact or since < 0 else 5e-2)
    assert torch.equal(state[0], true_state[0])
    assert state[1:] == true_state[1:]


def test_draws_move_the_stream_from_solve_to_solve(solving, net, start):
    """A training must not see the same noise in every iteration, early or late as the draws begin."""
    for since in (-1.0, 0.5):
        torch.manual_seed(0)
        field = _Noisy(net(), SOURCES["torch"]()[1], since)
        with torch.no_grad():
            assert not torch.equal(solving(field, start()), solving(field, start()))


@pytest.mark.filterwarnings("ignore::odegrad.errors.InaccurateGradientWarning")
def test_draws_of_the_backward_pass_alone_are_refused(solving, net, start):
    """A field that begins to draw after the solve is another field on the way back."""
    calls = {"so far": 0, "quiet": 10**9}

    def draw(_field):
        calls["so far"] += 1
        return torch.randn(3).double() if calls["so far"] > calls["quiet"] else 0.0

    field, y0 = _Noisy(net(), draw), start()
    loss = solving(field, y0).pow(2).sum()
    calls["quiet"] = calls["so far"]
    if solving.calls_again:
        with pytest.raises(UsageError, match="draws random numbers in the backward pass"):
            torch.autograd.grad(loss, y0)
