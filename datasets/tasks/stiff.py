"""Standard stiff equations: two in scales where a neural field can be fitted to them, one solved in closed form."""

from collections.abc import Mapping
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from odegrad.contracts import Problem, TaskInfo
from odegrad.datasets.nets.layers import ConcatSquashNet
from odegrad.datasets.nets.stiff_fields import RelaxationField, SpreadVanDerPolField
from odegrad.datasets.problems.known_solution import (
    ClosedForm,
    ClosedFormSettings,
    FollowingField,
    SolvableField,
)
from odegrad.datasets.problems.simulated import Trajectories, TrajectorySettings, fitted
from odegrad.datasets.problems.sizes import trained
from odegrad.datasets.sources.arrays import Array


class VanDerPol(Trajectories):
    """A relaxation oscillation: slow branches, and jumps between them that are ``mu^2`` times as fast.

    In Lienard's plane, with the time in units of ``mu`` periods of the linear oscillator,
    ``x' = mu^2 (x - x^3 / 3 - z)``, ``z' = x`` (Hairer and Wanner 1996, section IV.1). There both components stay of
    order one for every mu, unlike ``x'`` itself, which the field would have to follow up to about mu.

    The size ``stiff`` has mu = 100, where jumps are 1e4 times as fast: there the equation's four coefficients are
    fitted, since a net would have to learn velocities of 1e4 and of 1 together.

    Parameters
    ----------
    mu
        The damping at the other sizes.
    """

    stiff: ClassVar[float] = 100.0
    """The damping at the size of that name."""

    def __init__(self, mu: float = 5.0) -> None:
        self.mu = mu

    info: ClassVar[TaskInfo] = TaskInfo(
        name="van_der_pol",
        kind="stiff",
        summary="relaxation oscillations of the van der Pol equation, mu = 5, or 100 at the size stiff; MLP field "
        "fitted to pieces of them, at mu = 100 the equation's coefficients",
        metric_name="mse",
        higher_is_better=False,
        target={"tiny": 3e-2, "default": 2e-2, "stiff": 2e-1, "paper": 2e-2},
        sizes=("tiny", "default", "stiff", "paper"),
        offline=True,
        citation="generated; van der Pol, On relaxation-oscillations, Philosophical Magazine 2, 1926; scaled as in "
        "Hairer and Wanner, Solving Ordinary Differential Equations II, Springer 1996, section IV.1",
        licence="none needed (generated)",
    )
    settings: ClassVar[Mapping[str, TrajectorySettings]] = {
        "tiny": fitted(
            100, adam=1e-2, hidden=(32, 32), step=0.04, horizon=5, pieces=4, trajectories=128, batch_size=64
        ),
        "default": fitted(
            1_000, adam=5e-3, hidden=(64, 64), step=0.04, horizon=10, pieces=4, trajectories=256, batch_size=128
        ),
        "stiff": TrajectorySettings(
            (),
            step=0.04,
            horizon=5,
            pieces=4,
            trajectories=64,
            batch_size=16,
            training=trained(150, adam=1e-2, sgd=0.01, snopt=None),
        ),
        "paper": fitted(
            5_000, adam=3e-3, hidden=(128, 128), step=0.04, horizon=25, pieces=2, trajectories=512, batch_size=128
        ),
    }

    def build(self, size: str, seed: int, device: torch.device, dtype: torch.dtype) -> Problem:
        """Build the problem of that size, with its damping; two builds from one seed are equal bit for bit.

        Raises
        ------
        UnknownNameError
            If there is no such size.
        InfrastructureError
            If the simulation fails.
        """
        return super(VanDerPol, VanDerPol(self.stiff) if size == "stiff" else self).build(size, seed, device, dtype)

    def fresh(
        self, dim: int, hidden: tuple[int, ...], source: torch.Generator, device: torch.device, dtype: torch.dtype
    ) -> nn.Module:
        """Return a net for all of the velocity, or at large mu the equation with other coefficients."""
        if self.mu < self.stiff:
            return super().fresh(dim, hidden, source, device, dtype)
        field = RelaxationField(self.mu)
        with torch.no_grad():
            draw = torch.rand(4, dtype=torch.float64, generator=source)
            field.log_coefficients.add_(0.2 * (2.0 * draw - 1.0))
        return field.to(device, dtype)

    def rhs(self, _t: float, y: Array) -> Array:
        """Return the velocity ``[count, 2]`` of ``y = (x, z)``, ``[count, 2]``."""
        x, z = y.T
        return np.stack([self.mu**2 * (x - x**3 / 3.0 - z), x], axis=1)

    def sample(self, count: int, source: torch.Generator) -> Array:
        """Return initial states ``[count, 2]``, uniform on ``|x| <= 2``, ``|z| <= 1``."""
        uniform = 2.0 * torch.rand(count, 2, dtype=torch.float64, generator=source) - 1.0
        return (uniform * torch.tensor([2.0, 1.0], dtype=torch.float64)).numpy()


class VanDerPolSpread(Trajectories):
    """Oscillators of unlike stiffness in one batch: each sample has a ``mu`` of its own, log-uniform from 1 to 5.

    Steps of an explicit solver go with mu, so those of the samples spread by as much; where they share them all pay for
    the stiffest one. In Lienard's plane both components stay of order one for every mu. The equation's three
    coefficients are trained, from about a fifth beside the true ones.
    """

    most: ClassVar[float] = 5.0
    """The largest mu."""
    off: ClassVar[float] = 0.2
    """Standard deviation of the logarithms of the first coefficients."""

    info: ClassVar[TaskInfo] = TaskInfo(
        name="van_der_pol_spread",
        kind="stiff",
        summary="van der Pol oscillators of unlike stiffness in one batch; the equation's coefficients are fitted",
        metric_name="mse",
        higher_is_better=False,
        target={"tiny": 1e-3, "default": 1e-3, "paper": 1e-3},
        offline=True,
        citation="generated; van der Pol, On relaxation-oscillations, Philosophical Magazine 2, 1926",
        licence="none needed (generated)",
    )
    settings: ClassVar[Mapping[str, TrajectorySettings]] = {
        "tiny": TrajectorySettings((), 0.25, 2, 2, 64, 32, trained(60, adam=2e-2, sgd=0.01, snopt=None)),
        "default": TrajectorySettings((), 0.25, 8, 2, 128, 64, trained(120, adam=2e-2, sgd=0.01, snopt=None)),
        "paper": TrajectorySettings((), 0.25, 8, 2, 512, 256, trained(240, adam=2e-2, sgd=0.01, snopt=None)),
    }

    def rhs(self, _t: float, y: Array) -> Array:
        """Return the velocity ``[count, 3]`` of ``y = (x, z, log10 mu)``, ``[count, 3]``."""
        x, z, decades = y.T
        mu = 10.0**decades
        return np.stack([mu * (x - x**3 / 3.0 - z), x / mu, np.zeros_like(x)], axis=1)

    def sample(self, count: int, source: torch.Generator) -> Array:
        """Return initial states ``[count, 3]``, uniform on ``|x| <= 2``, ``|z| <= 1``, and in the logarithm of mu."""
        uniform = torch.rand(count, 3, dtype=torch.float64, generator=source)
        states = (2.0 * uniform[:, :2] - 1.0) * torch.tensor([2.0, 1.0], dtype=torch.float64)
        return torch.cat([states, np.log10(self.most) * uniform[:, 2:]], dim=1).numpy()

    def fresh(
        self,
        dim: int,  # noqa: ARG002
        hidden: tuple[int, ...],  # noqa: ARG002
        source: torch.Generator,
        device: torch.device,
        dtype: torch.dtype,
    ) -> nn.Module:
        """Return the equation with coefficients beside the true ones."""
        drawn = torch.randn(3, dtype=torch.float64, generator=source)
        return SpreadVanDerPolField((self.off * drawn).exp()).to(device, dtype)


class Robertson(Trajectories):
    """Three chemical species with rates that lie nine orders of magnitude apart, over nine decades of time.

    The field sees the time as ``log10 t / 3`` and the rare second species in units of 3.65e-5, its largest amount
    from the classical start: then all components and their velocities in s are of order one. Logarithmic times and
    scaled species are what makes this equation learnable (Kim et al., Stiff neural ordinary differential equations,
    Chaos 31, 2021, section IV). Initial states hold no second species and up to a half of the third.
    """

    rates: ClassVar[tuple[float, float, float]] = (0.04, 3e7, 1e4)
    """Of ``A -> B``, ``2 B -> B + C`` and ``B + C -> A + C``."""
    scales: ClassVar[tuple[float, float, float]] = (1.0, 3.65e-5, 1.0)
    decades: ClassVar[float] = 3.0
    """Decades of time in one unit of the field's time."""
    start_time: ClassVar[float] = -5.0 / 3.0
    scale: ClassVar[float] = 1.0

    info: ClassVar[TaskInfo] = TaskInfo(
        name="robertson",
        kind="stiff",
        summary="Robertson's chemical reaction over nine decades of time; field of concat-squash layers in log time",
        metric_name="mse",
        higher_is_better=False,
        target={"tiny": 1e-2, "default": 2e-3, "paper": 2e-3},
        offline=True,
        citation="generated; Robertson, The solution of a set of reaction rate equations, in Walsh (ed.), Numerical "
        "Analysis: An Introduction, Academic Press 1966; scales after Kim et al., Stiff neural ordinary differential "
        "equations, Chaos 31, 2021, doi:10.1063/5.0060697",
        licence="none needed (generated)",
    )
    settings: ClassVar[Mapping[str, TrajectorySettings]] = {
        "tiny": fitted(
            100, adam=1e-2, sgd=0.02, hidden=(32, 32), step=0.3, horizon=10, pieces=1, trajectories=64, batch_size=32
        ),
        "default": fitted(
            1_000, adam=3e-3, sgd=0.02, hidden=(64, 64), step=0.1, horizon=30, pieces=1, trajectories=128, batch_size=64
        ),
        "paper": fitted(
            5_000,
            adam=3e-3,
            sgd=0.02,
            hidden=(128, 128),
            step=0.1,
            horizon=30,
            pieces=1,
            trajectories=512,
            batch_size=128,
        ),
    }

    def rhs(self, t: float, y: Array) -> Array:
        """Return ``du/dt = unit ln(10) 10^s dA/dtime / scale`` for species ``u [count, 3]`` at ``s = unit t``."""
        a, b, c = (y * np.array(self.scales)).T
        k1, k2, k3 = self.rates
        first, second, third = k1 * a, k2 * b**2, k3 * b * c
        velocity = np.stack([third - first, first - third - second, second], axis=1)
        in_log_time: Array = self.decades * np.log(10.0) * 10.0 ** (self.decades * t) * velocity / np.array(self.scales)
        return in_log_time

    def sample(self, count: int, source: torch.Generator) -> Array:
        """Return initial states ``(1 - c, 0, c)``, ``[count, 3]``, with c uniform on [0, 0.5]."""
        c = 0.5 * torch.rand(count, dtype=torch.float64, generator=source)
        return torch.stack([1.0 - c, torch.zeros_like(c), c], dim=1).numpy()

    def field(self, dim: int, hidden: tuple[int, ...]) -> nn.Module:
        """Return a net that sees the time: in log time the equation is not autonomous."""
        return ConcatSquashNet(dim, hidden)


class ProtheroRobinson(ClosedForm):
    """A cosine that is followed at two fixed ``rates``: the solution is smooth, and forgets where it started.

    Steps of an explicit solver are bound by the larger rate, those of an implicit one by the cosine: at the paper size
    an explicit solver would need about 3e5 steps.
    """

    info: ClassVar[TaskInfo] = TaskInfo(
        name="prothero_robinson",
        kind="stiff",
        summary="a cosine followed at rates up to 1e6; its amplitudes and phases are fitted to the closed form",
        metric_name="mse",
        higher_is_better=False,
        target={"tiny": 1e-5, "default": 1e-5, "steep": 1e-5, "paper": 1e-5},
        sizes=("tiny", "default", "steep", "paper"),
        offline=True,
        citation="generated; Prothero and Robinson, On the stability and accuracy of one-step methods for solving "
        "stiff systems of ordinary differential equations, Mathematics of Computation 28, 1974",
        licence="none needed (generated)",
    )
    settings: ClassVar[Mapping[str, ClosedFormSettings]] = {
        name: ClosedFormSettings(
            rates=rates,
            end_time=1.0,
            intervals=10,
            offset=0.5,
            batch_size=32,
            test_points=256,
            training=trained(iterations, adam=5e-2, sgd=0.3, snopt=None),
        )
        for name, rates, iterations in (
            ("tiny", (5.0, 20.0), 80),
            ("default", (10.0, 300.0), 200),
            ("steep", (30.0, 1e3), 200),
            ("paper", (1e3, 1e6), 200),
        )
    }

    def truth(self, rates: Tensor) -> SolvableField:
        """Return the field that follows ``cos t`` at ``rates``."""
        return FollowingField(rates)
