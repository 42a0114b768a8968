"""Six densities in the plane. Each knows itself, and with that its entropy: the least mean surprise of any model."""

import abc
import math
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from odegrad.contracts import TaskInfo
from odegrad.datasets.problems.sampled_density import ToyDensity
from odegrad.datasets.sources.arrays import Array

GAUSS = 1.0 / math.sqrt(2.0 * math.pi)


def plane_info(
    name: str, summary: str, tiny: float, default: float, paper: float, entropy: float, citation: str
) -> TaskInfo:
    """Return what a density in the plane states about itself; targets and entropy in nats."""
    return TaskInfo(
        name=name,
        kind="density",
        summary=f"{summary}; continuous normalizing flow of concat-squash layers, exact trace",
        metric_name="nll",
        higher_is_better=False,
        target={"tiny": tiny, "default": default, "paper": paper},
        limit=entropy,
        offline=True,
        citation=f"generated; {citation}",
        licence="none needed (generated)",
    )


def uniform(count: int, source: torch.Generator) -> Tensor:
    """Return ``count`` float64 numbers, uniform on [0, 1)."""
    return torch.rand(count, dtype=torch.float64, generator=source)


def normal(count: int, source: torch.Generator) -> Tensor:
    """Return ``count`` points ``[count, 2]`` in float64, standard normal."""
    return torch.randn(count, 2, dtype=torch.float64, generator=source)


def gaussian_mixture(points: Array, centres: Array, deviation: float) -> Array:
    """Return the density ``[count]`` of equally likely round Gaussians about ``centres [m, 2]`` at ``points``."""
    total = np.empty(len(points))
    for first in range(0, len(points), 4096):  # bounded memory
        part = points[first : first + 4096]
        far = (part**2).sum(1)[:, None] - 2.0 * part @ centres.T + (centres**2).sum(1)
        total[first : first + 4096] = np.exp(far / (-2.0 * deviation**2)).mean(1)
    return total / (2.0 * math.pi * deviation**2)


class Circles(ToyDensity):
    """Two rings about the origin: a ring by a fair coin, an angle, and a radius with Gaussian noise."""

    radii: ClassVar[tuple[float, ...]] = (3.0, 1.5)
    noise: ClassVar[float] = 0.24
    info: ClassVar[TaskInfo] = plane_info(
        "circles",
        "two concentric rings in the plane",
        3.78,
        3.4,
        3.4,
        3.2640,
        "radii, noise and the flow's settings after Daulbaev et al., Interpolation Technique to Speed Up Gradients "
        "Propagation in Neural ODEs, NeurIPS 2020",
    )

    def sample(self, count: int, source: torch.Generator) -> Tensor:
        """Return ``count`` points ``[count, 2]`` in float64 on the CPU, drawn from ``source``."""
        ring = torch.randint(len(self.radii), (count,), generator=source)
        angle = 2.0 * math.pi * uniform(count, source)
        noise = self.noise * torch.randn(count, dtype=torch.float64, generator=source)
        radius = torch.tensor(self.radii, dtype=torch.float64)[ring] + noise
        return torch.stack([radius * angle.cos(), radius * angle.sin()], dim=1)

    def density(self, points: Array) -> Array:
        """Return ``q(r) / (2 pi r)``, ``q`` the density of the radius; a negative radius lies on the other side."""
        r = np.maximum(np.hypot(*points.T), 1e-300)
        centres = np.array([*self.radii, *(-radius for radius in self.radii)])
        bells = np.exp(-0.5 * ((r[:, None] - centres) / self.noise) ** 2)
        of_radius: Array = bells.sum(1) * GAUSS / (len(self.radii) * self.noise)
        density: Array = of_radius / (2.0 * math.pi * r)
        return density


class EightGaussians(ToyDensity):
    """Eight round Gaussians on a circle."""

    radius: ClassVar[float] = 2.8
    noise: ClassVar[float] = 0.35
    info: ClassVar[TaskInfo] = plane_info(
        "eight_gaussians",
        "eight Gaussians on a circle in the plane",
        3.15,
        2.9,
        2.9,
        2.8114,
        "after Grathwohl et al., FFJORD, ICLR 2019, section 4.1",
    )

    def centres(self) -> Array:
        """Return the Gaussians' centres ``[8, 2]``."""
        angle = np.arange(8) * (math.pi / 4.0)
        return self.radius * np.stack([np.cos(angle), np.sin(angle)], axis=1)

    def sample(self, count: int, source: torch.Generator) -> Tensor:
        """Return ``count`` points ``[count, 2]`` in float64 on the CPU, drawn from ``source``."""
        place = torch.randint(8, (count,), generator=source)
        return torch.from_numpy(self.centres())[place] + self.noise * normal(count, source)

    def density(self, points: Array) -> Array:
        """Return the mixture's density ``[count]``."""
        return gaussian_mixture(points, self.centres(), self.noise)


class Curves(ToyDensity, abc.ABC):
    """Round Gaussian noise about points that are uniform on curves' parameter: a subclass gives the curves."""

    noise: ClassVar[float]
    nodes: ClassVar[int] = 1_000
    """Points of the midpoint rule on each curve; it converges geometrically once they are closer than the noise."""

    @abc.abstractmethod
    def curve(self, s: Tensor, which: Tensor) -> Tensor:
        """Return the points ``[count, 2]`` of curves ``which`` (0 or 1) at parameters ``s`` in [0, 1]."""

    def sample(self, count: int, source: torch.Generator) -> Tensor:
        """Return ``count`` points ``[count, 2]`` in float64 on the CPU, drawn from ``source``."""
        which = torch.randint(2, (count,), generator=source)
        return self.curve(uniform(count, source), which) + self.noise * normal(count, source)

    def density(self, points: Array) -> Array:
        """Return the density ``[count]``: the mean of Gaussians along the curves."""
        s = (torch.arange(self.nodes, dtype=torch.float64) + 0.5) / self.nodes
        centres = torch.cat([self.curve(s, torch.full_like(s, i, dtype=torch.int64)) for i in (0, 1)])
        return gaussian_mixture(points, centres.numpy(), self.noise)


class Moons(Curves):
    """Two half circles that reach into each other."""

    noise: ClassVar[float] = 0.2
    info: ClassVar[TaskInfo] = plane_info(
        "moons",
        "two interleaved half circles in the plane",
        2.7,
        2.5,
        2.5,
        2.3939,
        "the shapes of scikit-learn's make_moons, scaled by two and centred",
    )

    def curve(self, s: Tensor, which: Tensor) -> Tensor:
        """Return the points ``[count, 2]``: an upper half circle, or a lower one beside it."""
        x, y = (math.pi * s).cos(), (math.pi * s).sin()
        lower = which == 1
        point = torch.stack([torch.where(lower, 1.0 - x, x), torch.where(lower, 0.5 - y, y)], dim=1)
        return 2.0 * (point - torch.tensor([0.5, 0.25], dtype=s.dtype))


class TwoSpirals(Curves):
    """Two arms that wind one and a half times about the origin; the outer parts are as dense as the inner ones."""

    noise: ClassVar[float] = 0.1
    info: ClassVar[TaskInfo] = plane_info(
        "two_spirals",
        "two spiral arms in the plane",
        3.6,
        2.9,
        2.9,
        2.5406,
        "after Grathwohl et al., FFJORD, ICLR 2019, section 4.1",
    )

    def curve(self, s: Tensor, which: Tensor) -> Tensor:
        """Return the points ``[count, 2]`` at the angle ``3 pi sqrt(s)``, a radius of a third of it."""
        angle = 3.0 * math.pi * s.sqrt()
        side = 1.0 - 2.0 * which.to(s.dtype)
        return (side * angle / 3.0)[:, None] * torch.stack([-angle.cos(), angle.sin()], dim=1)


class Pinwheel(ToyDensity):
    """Five arms, each an oblong Gaussian, swirled about the origin.

    A point is turned by an angle that depends on its distance from the origin. That keeps areas, so that the density
    is known in closed form; in Johnson et al. the angle depends on the coordinate along the arm.
    """

    arms: ClassVar[int] = 5
    deviations: ClassVar[tuple[float, float]] = (0.6, 0.2)
    """Along the arm and across it."""
    distance: ClassVar[float] = 2.0
    rate: ClassVar[float] = 0.25
    info: ClassVar[TaskInfo] = plane_info(
        "pinwheel",
        "five swirled arms in the plane",
        3.45,
        3.0,
        3.0,
        2.3206,
        "after Johnson et al., Composing graphical models with neural networks for structured representations and "
        "fast inference, NeurIPS 2016",
    )

    def swirl(self, radius: Tensor) -> Tensor:
        """Return the angle by which points at ``radius`` are turned."""
        return self.rate * radius.exp()

    def sample(self, count: int, source: torch.Generator) -> Tensor:
        """Return ``count`` points ``[count, 2]`` in float64 on the CPU, drawn from ``source``."""
        arm = torch.randint(self.arms, (count,), generator=source)
        flat = normal(count, source) * torch.tensor(self.deviations, dtype=torch.float64)
        x, y = (flat + torch.tensor([self.distance, 0.0], dtype=torch.float64)).unbind(1)
        angle = 2.0 * math.pi / self.arms * arm + self.swirl(torch.hypot(x, y))
        cos, sin = angle.cos(), angle.sin()
        return torch.stack([cos * x - sin * y, sin * x + cos * y], dim=1)

    def density(self, points: Array) -> Array:
        """Return the density ``[count]``: turned back, a mixture of oblong Gaussians."""
        total = np.zeros(len(points))
        x, y = points.T
        swirl = self.swirl(torch.from_numpy(np.hypot(x, y))).numpy()
        along, across = self.deviations
        for arm in range(self.arms):
            angle = 2.0 * math.pi / self.arms * arm + swirl
            u, v = np.cos(angle) * x + np.sin(angle) * y, np.cos(angle) * y - np.sin(angle) * x
            total += np.exp(-0.5 * (((u - self.distance) / along) ** 2 + (v / across) ** 2))
        return total / (self.arms * 2.0 * math.pi * along * across)


class Checkerboard(ToyDensity):
    """The eight dark squares of a board of four by four, evenly filled."""

    side: ClassVar[float] = 2.0
    info: ClassVar[TaskInfo] = plane_info(
        "checkerboard",
        "the dark squares of a board of four by four",
        3.95,
        3.75,
        3.75,
        math.log(32.0),
        "after Grathwohl et al., FFJORD, ICLR 2019, section 4.1",
    )

    def sample(self, count: int, source: torch.Generator) -> Tensor:
        """Return ``count`` points ``[count, 2]`` in float64 on the CPU, drawn from ``source``."""
        column = torch.randint(4, (count,), generator=source)
        row = 2 * torch.randint(2, (count,), generator=source) + column % 2
        inside = torch.rand(count, 2, dtype=torch.float64, generator=source)
        return self.side * (torch.stack([column, row], dim=1) - 2.0 + inside)

    def density(self, points: Array) -> Array:
        """Return the density ``[count]``: one of the dark squares' area, or zero."""
        column, row = np.floor(points / self.side + 2.0).T
        on_board = (column >= 0) & (column < 4) & (row >= 0) & (row < 4)
        return np.where(on_board & ((column + row) % 2 == 0), 1.0 / (8.0 * self.side**2), 0.0)
