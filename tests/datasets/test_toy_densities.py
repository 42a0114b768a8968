"""The rings' generator, their entropy, and the flow's metric on a known map."""

import math
from typing import Any

import numpy as np
import torch
from scipy import integrate, stats
from torch import Tensor

from odegrad.datasets.seeding import generator
from odegrad.datasets.toy_densities import Circles

CPU = torch.device("cpu")


def density(x: float, y: float) -> float:
    """Return the rings' density at a point, from scipy's normal density of the radius."""
    radius = math.hypot(x, y)
    of_radius = 0.5 * (stats.norm.pdf(radius, 3.0, 0.24) + stats.norm.pdf(radius, 1.5, 0.24))
    return float(of_radius / (2 * math.pi * radius))


def test_entropy_agrees_with_adaptive_quadrature() -> None:
    def integrand(r: float) -> float:
        p = density(r, 0.0)
        return -2 * math.pi * r * p * math.log(p)

    parts = [integrate.quad(integrand, a, b, epsabs=1e-11, limit=200)[0] for a, b in ((0.01, 1.5), (1.5, 3), (3, 6))]
    assert abs(Circles().entropy_nats() - sum(parts)) < 1e-6


def test_entropy_agrees_with_monte_carlo() -> None:
    points = Circles().sample(20_000, generator(5)).numpy()
    surprise = np.array([-math.log(density(x, y)) for x, y in points[:4_000]])
    standard_error = surprise.std() / math.sqrt(len(surprise))
    assert abs(Circles().entropy_nats() - surprise.mean()) < 4 * standard_error


def test_well_separated_rings_have_the_closed_form_entropy() -> None:
    """Thin rings far apart: log 2 for the coin, log(2 pi r) for the angle, a Gaussian's entropy for the radius."""

    class Thin(Circles):
        radii = (9.0, 3.0)
        noise = 0.05

    gaussian = 0.5 * math.log(2 * math.pi * math.e * 0.05**2)
    # E[log r] = log r_0 - noise^2 / (2 r_0^2) up to the fourth order.
    log_radius = 0.5 * sum(math.log(r) - 0.05**2 / (2 * r**2) for r in (9.0, 3.0))
    expected = math.log(2) + math.log(2 * math.pi) + log_radius + gaussian
    assert abs(Thin().entropy_nats() - expected) < 1e-6


def test_radii_and_angles_follow_their_distributions() -> None:
    points = Circles().sample(4_000, generator(6)).numpy()
    radius, angle = np.hypot(*points.T), np.arctan2(points[:, 1], points[:, 0])

    def cdf(r: Any) -> Any:
        return 0.5 * (stats.norm.cdf(r, 3.0, 0.24) + stats.norm.cdf(r, 1.5, 0.24))

    assert stats.kstest(radius, cdf).pvalue > 1e-3
    assert stats.kstest(angle, stats.uniform(-math.pi, 2 * math.pi).cdf).pvalue > 1e-3


def test_test_points_are_the_same_for_all_seeds_and_in_no_batch() -> None:
    seen: list[Tensor] = []

    def record(field: Any, y0: Any, ts: Tensor) -> Any:
        seen.append(y0[0])
        return torch.stack([y0[0], y0[0]]), torch.stack([y0[1], y0[1]])

    problems = [Circles().build("tiny", seed, CPU, torch.float64) for seed in (0, 1)]
    for split in ("validation", "test"):
        for problem in problems:
            problem.evaluate(record, split)
    assert torch.equal(seen[0], seen[1])
    assert torch.equal(seen[2], seen[3])
    known = {tuple(point) for points in seen[::2] for point in points.tolist()}
    assert len(known) == len(seen[0]) + len(seen[2])
    batches = [problem.batch(i) for problem in problems for i in range(3)] + [p.probe_batch() for p in problems]
    assert not any(tuple(point) in known for batch in batches for point in batch.tolist())


def test_loss_of_a_linear_map_is_the_gaussian_it_implies() -> None:
    """A solve that returns ``z = x / 2`` and its log-density change: the flow's density is N(0, 4 I)."""
    problem = Circles().build("tiny", 0, CPU, torch.float64)
    points = problem.batch(0)

    def halve(field: Any, y0: Any, ts: Tensor) -> Any:
        z, logp = y0
        return torch.stack([z, z / 2]), torch.stack([logp, logp + 2 * math.log(2.0)])

    expected = -stats.multivariate_normal(np.zeros(2), 4.0 * np.eye(2)).logpdf(points.numpy()).mean()
    assert abs(float(problem.loss(halve, points)) - expected) < 1e-12
