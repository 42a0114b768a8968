"""Likelihoods of pixels against PyTorch's and scipy's distributions."""

import numpy as np
import pytest
import torch
from scipy.stats import logistic
from torch.distributions import Bernoulli

from odegrad.datasets.problems.likelihoods import LEVELS, UNIT, bernoulli, discretized_logistic
from odegrad.datasets.sources.seeding import generator


def scores(count: int, pixels: int) -> torch.Tensor:
    return 2.0 * torch.randn(count, pixels, dtype=torch.float64, generator=generator(0))


def test_bernoulli_is_pytorchs() -> None:
    x = torch.rand(5, 7, generator=generator(1)).round().double()
    expected = Bernoulli(logits=scores(5, 7)).log_prob(x).sum(1)  # type: ignore[no-untyped-call]
    torch.testing.assert_close(bernoulli(scores(5, 7), x), expected)


def test_levels_have_the_mass_of_scipys_logistic_distribution() -> None:
    """Every grey level's mass is a difference of the distribution function; the ends take the tails."""
    of = scores(6, 2)
    levels = torch.arange(LEVELS, dtype=torch.float64)[:, None] / (LEVELS - 1)
    for row in of:
        centre, scale = 1.0 / (1.0 + np.exp(-row[0].item())), np.exp(row[1].item()) * UNIT
        edges = np.concatenate([[-np.inf], (np.arange(LEVELS - 1) + 0.5) / (LEVELS - 1), [np.inf]])
        expected = np.diff(logistic.cdf(edges, centre, scale))
        found = discretized_logistic(row.expand(LEVELS, 2), levels).exp()
        np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-15)
        assert found.sum().item() == pytest.approx(1.0, abs=1e-12)


@pytest.mark.parametrize("score", [-12.0, 12.0])
def test_narrow_and_wide_distributions_have_finite_gradients(score: float) -> None:
    """Far from its centre a narrow distribution still says how to move: no log of zero."""
    of = torch.tensor([[0.0, score]], requires_grad=True)
    for grey in (0.0, 0.2, 0.5, 1.0):
        value = discretized_logistic(of, torch.tensor([[grey]])).sum()
        (gradient,) = torch.autograd.grad(value, of)
        assert bool(value.isfinite())
        assert bool(gradient.isfinite().all())
