"""Stiff equations in their own time: chemical reactions whose rate constants, or whose speeds, are fitted."""

from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from odegrad.contracts import TaskInfo
from odegrad.datasets.nets.layers import AutonomousNet
from odegrad.datasets.nets.stiff_fields import (
    POLLU_RATES,
    POLLU_REACTIONS,
    POLLU_SCALES,
    POLLU_START,
    ROBERTSON_RATES,
    ROBERTSON_REACTIONS,
    ROBERTSON_SCALES,
    MassActionField,
    Reaction,
)
from odegrad.datasets.nets.stiff_nets import LeakyNet
from odegrad.datasets.problems.decades import Decades, DecadesSettings
from odegrad.datasets.problems.sizes import trained
from odegrad.datasets.sources.arrays import Array
from odegrad.datasets.sources.seeding import TANH_SCALE, seeded_module

ROBERTSON_SOURCE = (
    "generated; Robertson, The solution of a set of reaction rate equations, in Walsh (ed.), Numerical Analysis: An "
    "Introduction, Academic Press 1966"
)
RATE_SPREAD = 0.3
"""Largest distance of a rate's logarithm from the given one, in a leaky net to begin with."""


class Reactions(Decades):
    """Reactions by the law of mass action; their rate constants start off the true ones and are fitted."""

    rates: ClassVar[Sequence[float]]
    reactions: ClassVar[Sequence[Reaction]]
    scales: ClassVar[Sequence[float]]
    """Units of the species."""
    offset: ClassVar[float] = 1.0
    """Largest distance of a rate constant's logarithm from the true one, to begin with."""

    def truth(self, settings: DecadesSettings) -> MassActionField:
        """Return the true field, in float64."""
        rates = [min(rate, settings.fastest) for rate in self.rates]
        return MassActionField(rates, self.reactions, len(self.scales), self.units(settings))

    def units(self, settings: DecadesSettings) -> list[float]:
        """Return the units of the species."""
        return [max(scale, settings.least_unit) for scale in self.scales]

    def rhs(self, settings: DecadesSettings) -> Callable[[float, Array], Array]:
        """Return the velocity of the true field."""
        field, time = self.truth(settings).requires_grad_(False), torch.zeros((), dtype=torch.float64)

        def velocity(_t: float, y: Array) -> Array:
            found: Array = field(time, torch.from_numpy(y)).numpy()
            return found

        return velocity

    def field(
        self, settings: DecadesSettings, source: torch.Generator, device: torch.device, dtype: torch.dtype
    ) -> nn.Module:
        """Return the field with other rate constants."""
        field = self.truth(settings)
        with torch.no_grad():
            draw = torch.rand(len(self.rates), dtype=torch.float64, generator=source)
            field.log_rates.add_((2.0 * draw - 1.0) * self.offset)
        return field.to(device, dtype)


class RobertsonRaw(Reactions):
    """Robertson's reaction in seconds: three rate constants that lie nine decades apart are fitted.

    The tiny size ends after 4 ms, in which the rare second species comes to its balance: an explicit solver can do
    that. The paper size ends at 1e4 s, as the equation is usually solved; an explicit solver would take 9e6 steps.
    """

    rates: ClassVar[Sequence[float]] = ROBERTSON_RATES
    reactions: ClassVar[Sequence[Reaction]] = ROBERTSON_REACTIONS
    scales: ClassVar[Sequence[float]] = ROBERTSON_SCALES

    info: ClassVar[TaskInfo] = TaskInfo(
        name="robertson_raw",
        kind="stiff",
        summary="Robertson's chemical reaction in its own time, to 1e4 s at paper; its rate constants are fitted",
        metric_name="mse",
        higher_is_better=False,
        target={"tiny": 1e-5, "default": 1e-5, "paper": 1e-5},
        offline=True,
        citation=ROBERTSON_SOURCE,
        licence="none needed (generated)",
    )
    settings: ClassVar[Mapping[str, DecadesSettings]] = {
        "tiny": DecadesSettings(2e-4, 4e-3, 10, 32, 16, trained(80, adam=5e-2, sgd=0.2, snopt=None)),
        "default": DecadesSettings(1e-3, 40.0, 10, 64, 32, trained(150, adam=5e-2, sgd=0.2, snopt=None)),
        "paper": DecadesSettings(1e-3, 1e4, 15, 128, 32, trained(200, adam=5e-2, sgd=0.2, snopt=None)),
    }

    def sample(self, count: int, source: torch.Generator) -> Array:
        """Return initial states ``(1 - c, 0, c)``, ``[count, 3]``, with c uniform on [0, 0.5]."""
        return robertson_starts(count, source)


def robertson_starts(count: int, source: torch.Generator) -> Array:
    """Return initial states ``(1 - c, 0, c)``, ``[count, 3]``, with c uniform on [0, 0.5]."""
    c = 0.5 * torch.rand(count, dtype=torch.float64, generator=source)
    return torch.stack([1.0 - c, torch.zeros_like(c), c], dim=1).numpy()


class Pollu(Reactions):
    """Air pollution by 25 reactions of 20 species over an hour: all rate constants are fitted.

    The fastest reaction takes 2e-12 minutes. At the tiny size no rate constant is larger than 30 per minute, and one
    minute is seen: an explicit solver can do that.
    """

    rates: ClassVar[Sequence[float]] = POLLU_RATES
    reactions: ClassVar[Sequence[Reaction]] = POLLU_REACTIONS
    scales: ClassVar[Sequence[float]] = POLLU_SCALES

    info: ClassVar[TaskInfo] = TaskInfo(
        name="pollu",
        kind="stiff",
        summary="air pollution, 20 species and 25 reactions over an hour; all rate constants are fitted",
        metric_name="mse",
        higher_is_better=False,
        target={"tiny": 1e-5, "default": 1e-2, "paper": 1e-2},
        offline=True,
        citation="generated; Verwer, Gauss-Seidel iteration for stiff ODEs from chemical kinetics, SIAM J. Sci. "
        "Comput. 15, 1994; constants as in the test set for initial value problems of Mazzia and Magherini, POLLU",
        licence="none needed (generated)",
    )
    settings: ClassVar[Mapping[str, DecadesSettings]] = {
        "tiny": DecadesSettings(
            5e-2, 1.0, 10, 32, 16, trained(80, adam=5e-2, sgd=0.2, snopt=None), fastest=30.0, least_unit=7e-3
        ),
        "default": DecadesSettings(1e-3, 60.0, 10, 16, 16, trained(100, adam=5e-2, sgd=0.2, snopt=None)),
        "paper": DecadesSettings(1e-3, 60.0, 20, 32, 16, trained(300, adam=3e-2, sgd=0.2, snopt=None)),
    }

    def jacobian(self, settings: DecadesSettings) -> Callable[[float, Array], Array] | None:
        """Return the derivative of the true field's velocity by the state; None where rates are not far apart."""
        if settings.fastest < float("inf"):
            return None
        field = self.truth(settings).requires_grad_(False)

        def derivative(_t: float, y: Array) -> Array:
            found: Array = field.jacobian(torch.from_numpy(y)).numpy()
            return found

        return derivative

    def sample(self, count: int, source: torch.Generator) -> Array:
        """Return initial states ``[count, 20]``: of each species there at the start between half and 1.5 times that."""
        species = sorted(POLLU_START)
        # Of none that is there at the start does the smallest unit change its own.
        usual = torch.tensor([POLLU_START[i] / POLLU_SCALES[i - 1] for i in species], dtype=torch.float64)
        out = torch.zeros(count, len(POLLU_SCALES), dtype=torch.float64)
        draw = torch.rand(count, len(species), dtype=torch.float64, generator=source)
        out[:, [i - 1 for i in species]] = usual * (0.5 + draw)
        return out.numpy()


class RoberNeural(Decades):
    """A net fitted to Robertson's reaction in seconds: its learnt dynamics are as stiff as the reaction's.

    A leaky net, whose time constants start at 5 s for the two abundant species and at 0.5 ms for the rare one and are
    trained; in log time, where nets were fitted to this reaction before, nothing is stiff (task ``robertson``).
    """

    time_constants: ClassVar[Sequence[float]] = (5.0, 5e-4, 5.0)

    info: ClassVar[TaskInfo] = TaskInfo(
        name="rober_neural",
        kind="stiff",
        summary="Robertson's chemical reaction in its own time, to 40 s; a leaky net learns stiff dynamics",
        metric_name="mse",
        higher_is_better=False,
        target={"tiny": 3e-3, "default": 3e-3, "paper": 3e-3},
        offline=True,
        citation=f"{ROBERTSON_SOURCE}; fitted by nets in Kim et al., Stiff neural ordinary differential equations, "
        "Chaos 31, 2021, doi:10.1063/5.0060697",
        licence="none needed (generated)",
    )
    settings: ClassVar[Mapping[str, DecadesSettings]] = {
        "tiny": DecadesSettings(2e-4, 4e-3, 10, 32, 16, trained(100, adam=1e-2, sgd=0.02, snopt=0.02), hidden=(16,)),
        "default": DecadesSettings(1e-3, 40.0, 10, 64, 32, trained(300, adam=5e-3, sgd=0.02, snopt=0.02), hidden=(32,)),
        "paper": DecadesSettings(
            1e-3, 40.0, 20, 128, 64, trained(2_000, adam=3e-3, sgd=0.02, snopt=0.02), hidden=(64, 64)
        ),
    }

    def rhs(self, settings: DecadesSettings) -> Callable[[float, Array], Array]:
        """Return the velocity of Robertson's reaction."""
        return RobertsonRaw().rhs(settings)

    def sample(self, count: int, source: torch.Generator) -> Array:
        """Return initial states ``(1 - c, 0, c)``, ``[count, 3]``, with c uniform on [0, 0.5]."""
        return robertson_starts(count, source)

    def field(
        self, settings: DecadesSettings, source: torch.Generator, device: torch.device, dtype: torch.dtype
    ) -> nn.Module:
        """Return the leaky net."""
        return leaky(self.time_constants, settings.hidden, source, device, dtype)


def leaky(
    time_constants: Sequence[float],
    hidden: tuple[int, ...],
    source: torch.Generator,
    device: torch.device,
    dtype: torch.dtype,
) -> nn.Module:
    """Return a leaky net whose layers are drawn from ``source``, its time constants beside the given ones."""
    dim = len(time_constants)
    net = seeded_module(lambda: AutonomousNet(dim, hidden), source, torch.device("cpu"), torch.float64, TANH_SCALE)
    field = LeakyNet(net, time_constants)
    with torch.no_grad():
        field.log_rate.add_(RATE_SPREAD * (2.0 * torch.rand(dim, dtype=torch.float64, generator=source) - 1.0))
    return field.to(device, dtype)


class DavisSkodje(Decades):
    """A fast species that follows a slow one along a curve, ``y2 = y1 / (1 + y1)``: a net learns curve and rate.

    ``y1' = -y1``, ``y2' = -g y2 + ((g - 1) y1 + g y1^2) / (1 + y1)^2`` with ``g`` = 20, 1e3, 1e6 at the three sizes.
    The leaky net's fast time constant starts at twice the true one.
    """

    info: ClassVar[TaskInfo] = TaskInfo(
        name="davis_skodje",
        kind="stiff",
        summary="a fast species on the curve of a slow one, rates up to 1e6; a leaky net learns curve and rates",
        metric_name="mse",
        higher_is_better=False,
        target={"tiny": 2e-3, "default": 1e-3, "paper": 1e-2},
        offline=True,
        citation="generated; Davis and Skodje, Geometric investigation of low-dimensional manifolds in systems "
        "approaching equilibrium, J. Chem. Phys. 111, 1999",
        licence="none needed (generated)",
    )
    settings: ClassVar[Mapping[str, DecadesSettings]] = {
        "tiny": DecadesSettings(
            2e-2, 2.0, 10, 64, 32, trained(100, adam=1e-2, sgd=0.05, snopt=0.02), (16,), fastest=20.0
        ),
        "default": DecadesSettings(
            2e-4, 2.0, 15, 128, 64, trained(300, adam=1e-2, sgd=0.05, snopt=0.02), (32,), fastest=1e3
        ),
        "paper": DecadesSettings(
            2e-7, 2.0, 20, 256, 64, trained(1_000, adam=5e-3, sgd=0.05, snopt=0.02), (64, 64), fastest=1e6
        ),
    }

    def rhs(self, settings: DecadesSettings) -> Callable[[float, Array], Array]:
        """Return the velocity at the size's rate."""
        g = settings.fastest

        def velocity(_t: float, y: Array) -> Array:
            slow, fast = y.T
            return np.stack([-slow, -g * fast + ((g - 1.0) * slow + g * slow**2) / (1.0 + slow) ** 2], axis=1)

        return velocity

    def solution(self, settings: DecadesSettings, starts: Tensor) -> Tensor:
        """Return the solution ``[outputs + 1, count, 2]`` from ``starts [count, 2]`` in closed form."""
        t = torch.from_numpy(settings.times)[:, None]
        slow0, fast0 = starts.double().unbind(-1)
        slow = slow0 * torch.exp(-t)
        fast = (fast0 - slow0 / (1.0 + slow0)) * torch.exp(-settings.fastest * t) + slow / (1.0 + slow)
        return torch.stack([slow, fast], dim=-1)

    def sample(self, count: int, source: torch.Generator) -> Array:
        """Return initial states ``[count, 2]``, uniform on [0.5, 2] and [0, 2]."""
        draw = torch.rand(count, 2, dtype=torch.float64, generator=source)
        return (draw * torch.tensor([1.5, 2.0]).double() + torch.tensor([0.5, 0.0]).double()).numpy()

    def field(
        self, settings: DecadesSettings, source: torch.Generator, device: torch.device, dtype: torch.dtype
    ) -> nn.Module:
        """Return the leaky net."""
        return leaky((1.0, 2.0 / settings.fastest), settings.hidden, source, device, dtype)
