"""The latent ODE's bound against closed forms, and its spirals."""

import math
from typing import Any

import pytest
import torch
from scipy import stats
from torch.distributions import Normal, kl_divergence

from odegrad.datasets.problems.gaussian import diagonal_kl, log_density_about
from odegrad.datasets.sources.seeding import generator
from odegrad.datasets.tasks.latent_spiral import POINTS, TURNS, LatentSpiral, draw_spirals
from odegrad.methods.gradients.naive import Naive
from odegrad.methods.solvers.solver import make_solver

CPU = torch.device("cpu")


def solve(field: Any, y0: Any, ts: Any) -> Any:
    """Solve with fixed steps."""
    return Naive()(field, make_solver("rk4", num_steps=1), y0, ts)


def test_density_and_divergence_are_those_of_the_libraries() -> None:
    mean, log_deviation, x = torch.randn(3, 4, 5, dtype=torch.float64, generator=generator(0))
    found = log_density_about(mean, log_deviation, x)
    expected = stats.norm.logpdf(x.numpy(), mean.numpy(), log_deviation.exp().numpy())
    torch.testing.assert_close(found, torch.from_numpy(expected))
    one = torch.ones_like(mean)
    divergence = kl_divergence(Normal(mean, log_deviation.exp()), Normal(0.0 * one, one)).sum(-1)
    torch.testing.assert_close(diagonal_kl(mean, log_deviation), divergence)


def test_bound_of_a_gaussian_is_its_evidence() -> None:
    """Where the decoder knows nothing of the state and the posterior is the prior, the bound is the evidence itself."""
    problem: Any = LatentSpiral().build("tiny", 0, CPU, torch.float64)
    with torch.no_grad():
        for parameter in [*problem.net.decoder.parameters(), *problem.net.to_latent.parameters()]:
            parameter.zero_()
    batch = problem.probe_batch()
    sigma = problem.settings.noise
    evidence = stats.norm.logpdf(batch.seen.numpy(), 0.0, sigma).sum(axis=(1, 2)).mean()
    assert problem.loss(solve, batch).item() == pytest.approx(-evidence / problem.settings.times, rel=1e-12)


def test_bound_is_below_the_evidence_of_a_linear_model() -> None:
    """A state that stays as it is, decoded to one coordinate: the evidence is a Gaussian's in closed form.

    With its exact posterior in place of the encoder the bound, averaged over the posterior, is the evidence.
    """
    problem: Any = LatentSpiral().build("tiny", 0, CPU, torch.float64)
    times, sigma = problem.settings.times, problem.settings.noise
    batch = problem.probe_batch()
    x = batch.seen[..., 0].sum(1)
    with torch.no_grad():
        for parameter in problem.net.field.parameters():
            parameter.zero_()
    precision = 1.0 + times / sigma**2
    mean = torch.zeros(8, problem.settings.latent, dtype=torch.float64)
    mean[:, 0] = x / sigma**2 / precision
    log_deviation = torch.zeros_like(mean)
    log_deviation[:, 0] = -0.5 * math.log(precision)
    problem.net.encode = lambda _seen: (mean, log_deviation)
    problem.net.decode = lambda zs: torch.stack([zs[..., 0].T, torch.zeros_like(zs[..., 0].T)], dim=-1)
    bounds = []
    source = generator(3)
    for _ in range(400):
        noise = torch.randn(batch.noise.shape, dtype=torch.float64, generator=source)
        bounds.append(-problem.loss(solve, batch._replace(noise=noise)).item() * times)
    covariance = sigma**2 * torch.eye(times, dtype=torch.float64) + 1.0
    first = stats.multivariate_normal(torch.zeros(times).numpy(), covariance.numpy()).logpdf(batch.seen[..., 0].numpy())
    second = stats.norm.logpdf(batch.seen[..., 1].numpy(), 0.0, sigma).sum(1)
    evidence = float((first + second).mean())
    standard_error = float(torch.tensor(bounds).std()) / math.sqrt(len(bounds))
    assert abs(sum(bounds) / len(bounds) - evidence) <= 4 * standard_error + 1e-9


def test_spirals_are_archimedean() -> None:
    """Radius and angle grow together, either way round, and no stretch leaves the spiral."""
    points = draw_spirals(200, 30, generator(0))
    radius = points.norm(dim=-1)
    angle = torch.atan2(points[..., 1], points[..., 0])
    step = torch.remainder(angle[:, 1:] - angle[:, :-1] + math.pi, 2 * math.pi) - math.pi
    torch.testing.assert_close(step.abs(), torch.full_like(step, 2 * math.pi * TURNS / POINTS), rtol=1e-9, atol=0)
    torch.testing.assert_close(radius[:, 1:] - radius[:, :-1], torch.full_like(step, 1 / POINTS), rtol=1e-9, atol=0)
    left = (step[:, 0] > 0).double().mean()
    assert 0.35 < float(left) < 0.65
    assert float(radius.min()) >= 0.1
    assert float(radius.max()) <= 1.1


def test_decoding_follows_the_latent_state() -> None:
    """Every time's point is decoded from that time's state."""
    problem: Any = LatentSpiral().build("tiny", 0, CPU, torch.float64)
    zs = torch.randn(20, 3, 4, dtype=torch.float64, generator=generator(1))
    points = problem.net.decode(zs)
    assert points.shape == (3, 20, 2)
    torch.testing.assert_close(points[1, 7], problem.net.decoder(zs[7, 1]))
