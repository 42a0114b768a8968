"""Densities in the plane against their own points, their entropies, and the flow's metric on a known map."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy import integrate, stats
from torch import Tensor

from odegrad.datasets.problems.sampled_density import ToyDensity
from odegrad.datasets.sources.seeding import generator
from odegrad.datasets.tasks.plane import Checkerboard, Circles, EightGaussians, Moons, Pinwheel, TwoSpirals

CPU = torch.device("cpu")


def ring_density(x: float, y: float) -> float:
    """Return the rings' density at a point, from scipy's normal density of the radius."""
    radius = math.hypot(x, y)
    of_radius = 0.5 * (stats.norm.pdf(radius, 3.0, 0.24) + stats.norm.pdf(radius, 1.5, 0.24))
    return float(of_radius / (2 * math.pi * radius))


DENSITIES = [Circles(), Moons(), Pinwheel(), TwoSpirals(), EightGaussians(), Checkerboard()]
each_density = pytest.mark.parametrize("density", DENSITIES, ids=lambda density: density.info.name)


def midpoints(density: ToyDensity, step: float, end: float) -> tuple[Any, Any]:
    """Return midpoints of a grid on ``[-end, end]^2`` and the density there."""
    line = np.arange(-end, end, step) + step / 2
    grid = np.stack(np.meshgrid(line, line), axis=-1).reshape(-1, 2)
    return grid, density.density(grid)


def entropy_on_a_grid(density: ToyDensity, step: float, end: float) -> tuple[float, float]:
    """Return mass and entropy by the midpoint rule."""
    _, p = midpoints(density, step, end)
    seen = p[p > 0]
    return float(p.sum() * step**2), float(-(seen * np.log(seen)).sum() * step**2)


@each_density
def test_stated_entropy_agrees_with_quadrature(density: ToyDensity) -> None:
    """A swirl keeps areas, and with that the entropy: the pinwheel's is that of its arms before it."""

    class Straight(Pinwheel):
        rate = 0.0

    smooth = Straight() if isinstance(density, Pinwheel) else density
    mass, entropy = entropy_on_a_grid(smooth, 0.0625, 6.0)
    assert abs(mass - 1.0) < 1e-8
    assert density.info.limit == pytest.approx(entropy, abs=5e-5)


@each_density
def test_points_follow_the_density(density: ToyDensity) -> None:
    """The mean surprise of drawn points is the entropy; their counts in boxes are the integrals of the density."""
    points = density.sample(40_000, generator(5)).numpy()
    surprise = -np.log(density.density(points))
    standard_error = surprise.std() / math.sqrt(len(surprise))
    assert abs(density.info.limit - surprise.mean()) <= 4 * standard_error + 1e-4
    grid, p = midpoints(density, 0.025, 6.0)
    edges = np.linspace(-6.0, 6.0, 13)
    expected, _, _ = np.histogram2d(grid[:, 0], grid[:, 1], bins=edges, weights=p * 0.025**2 * len(points))
    found, _, _ = np.histogram2d(points[:, 0], points[:, 1], bins=edges)
    many = expected > 20
    statistic = float(((found - expected)[many] ** 2 / expected[many]).sum())
    assert stats.chi2.sf(statistic, many.sum()) > 1e-4
    assert found[~many].sum() <= 30 + 2 * expected[~many].sum()


def test_rings_entropy_agrees_with_adaptive_quadrature() -> None:
    def integrand(r: float) -> float:
        p = ring_density(r, 0.0)
        return -2 * math.pi * r * p * math.log(p)

    parts = [integrate.quad(integrand, a, b, epsabs=1e-11, limit=200)[0] for a, b in ((0.01, 1.5), (1.5, 3), (3, 6))]
    assert Circles().info.limit == pytest.approx(sum(parts), abs=5e-5)


def test_entropies_in_closed_form() -> None:
    """Eight squares of area four; Gaussians far apart; thin rings far apart."""
    assert Checkerboard().info.limit == pytest.approx(math.log(32.0), abs=1e-12)

    class Apart(EightGaussians):
        radius, noise = 5.0, 0.1

    gaussian = math.log(2 * math.pi * math.e * 0.1**2)
    assert entropy_on_a_grid(Apart(), 0.02, 6.0)[1] == pytest.approx(math.log(8) + gaussian, abs=1e-6)

    class Thin(Circles):
        radii, noise = (5.0, 2.0), 0.1

    one = 0.5 * math.log(2 * math.pi * math.e * 0.1**2)
    # E[log r] = log r_0 - noise^2 / (2 r_0^2) up to the fourth order
    log_radius = 0.5 * sum(math.log(r) - 0.1**2 / (2 * r**2) for r in (5.0, 2.0))
    expected = math.log(2) + math.log(2 * math.pi) + log_radius + one
    assert entropy_on_a_grid(Thin(), 0.02, 6.0)[1] == pytest.approx(expected, abs=2e-5)


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
