"""Two classical oscillating systems with conserved quantities: predators and prey, and three bodies."""

from collections.abc import Mapping
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from odegrad.contracts import TaskInfo
from odegrad.datasets.nets.layers import AutonomousNet
from odegrad.datasets.problems.simulated import Trajectories, TrajectorySettings, fitted
from odegrad.datasets.sources.arrays import Array


class LotkaVolterra(Trajectories):
    """Prey x and predators z in units of their equilibrium: ``x' = growth x (1 - z)``, ``z' = decline z (x - 1)``."""

    growth: ClassVar[float] = 1.5
    decline: ClassVar[float] = 3.0

    info: ClassVar[TaskInfo] = TaskInfo(
        name="lotka_volterra",
        kind="time series",
        summary="cycles of predators and prey; MLP field fitted to pieces of them",
        metric_name="mse",
        higher_is_better=False,
        target={"tiny": 1e-3, "default": 1e-3, "paper": 1e-3},
        offline=True,
        citation="generated; Volterra, Fluctuations in the abundance of a species considered mathematically, "
        "Nature 118, 1926",
        licence="none needed (generated)",
    )
    settings: ClassVar[Mapping[str, TrajectorySettings]] = {
        "tiny": fitted(100, adam=1e-2, hidden=(32, 32), step=0.1, horizon=5, pieces=8, trajectories=32, batch_size=64),
        "default": fitted(
            1_000, adam=5e-3, hidden=(64, 64), step=0.1, horizon=20, pieces=5, trajectories=64, batch_size=128
        ),
        "paper": fitted(
            5_000, adam=3e-3, hidden=(128, 128), step=0.1, horizon=40, pieces=5, trajectories=128, batch_size=128
        ),
    }

    def rhs(self, _t: float, y: Array) -> Array:
        """Return the velocity ``[count, 2]`` of ``y = (x, z)``, ``[count, 2]``."""
        x, z = y.T
        return np.stack([self.growth * x * (1.0 - z), self.decline * z * (x - 1.0)], axis=1)

    def sample(self, count: int, source: torch.Generator) -> Array:
        """Return initial states ``[count, 2]``, uniform on [0.4, 1.6] for both."""
        return (0.4 + 1.2 * torch.rand(count, 2, dtype=torch.float64, generator=source)).numpy()

    def invariant(self, y: Array) -> Array:
        """Return ``decline (x - log x) + growth (z - log z)``, constant along each trajectory of ``y [..., 2]``."""
        x, z = y[..., 0], y[..., 1]
        conserved: Array = self.decline * (x - np.log(x)) + self.growth * (z - np.log(z))
        return conserved


class PairForces(nn.Module):
    """Bodies in a plane that accelerate by a sum over the other bodies of one net of the vector to each of them.

    An interaction network (Battaglia et al., Interaction Networks for Learning about Objects, Relations and Physics,
    NeurIPS 2016) at its smallest: that velocities are velocities, and that all bodies are alike, need not be learned.
    """

    def __init__(self, bodies: int, hidden: tuple[int, ...]) -> None:
        super().__init__()
        self.bodies = bodies
        self.force = AutonomousNet(2, hidden)

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        """Return velocities and accelerations ``[batch, 4 bodies]`` of ``y [batch, 4 bodies]``, coordinates first."""
        coordinates, velocities = y.chunk(2, dim=-1)
        position = coordinates.reshape(-1, self.bodies, 2)
        to_others = torch.stack([position.roll(-i, dims=1) - position for i in range(1, self.bodies)])
        return torch.cat([velocities, self.force(t, to_others).sum(0).flatten(1)], dim=-1)


class ThreeBody(Trajectories):
    """Three equal masses in a plane, G = m = 1, beside their figure-eight orbit, in the frame of their centre.

    A state is six coordinates, body by body, and then their six velocities. The figure eight is stable, so that its
    disturbed orbits stay free of close encounters and can be followed.
    """

    disturbance: ClassVar[float] = 0.005
    """Standard deviation of what is added to the coordinates and velocities of the figure eight."""

    info: ClassVar[TaskInfo] = TaskInfo(
        name="three_body",
        kind="time series",
        summary="three equal masses on disturbed figure-eight orbits; MLP field of all twelve coordinates",
        metric_name="mse",
        higher_is_better=False,
        target={"tiny": 5e-3, "default": 1e-3, "paper": 1e-3},
        offline=True,
        citation="generated; Chenciner and Montgomery, A remarkable periodic solution of the three-body problem in "
        "the case of equal masses, Annals of Mathematics 152, 2000",
        licence="none needed (generated)",
    )
    settings: ClassVar[Mapping[str, TrajectorySettings]] = {
        "tiny": fitted(100, adam=1e-2, hidden=(64,), step=0.1, horizon=5, pieces=12, trajectories=32, batch_size=64),
        "default": fitted(
            1_000, adam=3e-3, hidden=(128, 128), step=0.1, horizon=10, pieces=10, trajectories=64, batch_size=128
        ),
        "paper": fitted(
            5_000, adam=3e-3, hidden=(128, 128), step=0.1, horizon=20, pieces=5, trajectories=128, batch_size=128
        ),
    }

    def rhs(self, _t: float, y: Array) -> Array:
        """Return velocities and accelerations ``[count, 12]`` of ``y [count, 12]``."""
        position = y[:, :6].reshape(-1, 3, 2)
        apart = position[:, None, :, :] - position[:, :, None, :]
        distance = np.sqrt((apart**2).sum(-1)) + np.eye(3)  # one on the diagonal, where apart is zero
        acceleration = (apart / distance[..., None] ** 3).sum(2)
        return np.concatenate([y[:, 6:], acceleration.reshape(-1, 6)], axis=1)

    def sample(self, count: int, source: torch.Generator) -> Array:
        """Return initial states ``[count, 12]`` beside the figure eight, in the frame of their centre of mass."""
        x, y, u, v = 0.97000436, -0.24308753, -0.93240737, -0.86473146
        eight = [[x, y], [-x, -y], [0.0, 0.0], [-u / 2.0, -v / 2.0], [-u / 2.0, -v / 2.0], [u, v]]
        noise = self.disturbance * torch.randn(count, 2, 3, 2, dtype=torch.float64, generator=source)
        start = torch.tensor(eight, dtype=torch.float64).reshape(2, 3, 2) + noise
        return (start - start.mean(2, keepdim=True)).reshape(count, 12).numpy()

    def field(self, dim: int, hidden: tuple[int, ...]) -> nn.Module:
        """Return a field whose net gives the acceleration of one body by another."""
        return PairForces(dim // 4, hidden)

    def energy(self, y: Array) -> Array:
        """Return kinetic plus potential energy, constant along each trajectory of ``y [..., 12]``."""
        position = y[..., :6].reshape(*y.shape[:-1], 3, 2)
        kinetic: Array = 0.5 * (y[..., 6:] ** 2).sum(-1)
        first, second = np.array([0, 0, 1]), np.array([1, 2, 2])
        apart: Array = np.linalg.norm(position[..., first, :] - position[..., second, :], axis=-1)
        energy: Array = kinetic - (1.0 / apart).sum(-1)
        return energy
