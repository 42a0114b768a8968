"""Trajectories simulated by scipy at tight tolerance, and a neural field fitted to pieces of them."""

from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar, Protocol

import numpy as np
import torch
from scipy.integrate import solve_ivp
from scipy.sparse import block_diag
from torch import Tensor, nn

from odegrad.contracts import Problem, TaskInfo, Training
from odegrad.datasets.nets.layers import AutonomousNet
from odegrad.datasets.problems.regression import Pairs, RegressionProblem
from odegrad.datasets.problems.sizes import Sized, trained
from odegrad.datasets.sources.arrays import Array
from odegrad.datasets.sources.seeding import PARAMETERS, TANH_SCALE, TEST, TRAIN, VALIDATION, generator, seeded_module
from odegrad.errors import InfrastructureError
from odegrad.states import sent_to

RTOL, ATOL = 1e-10, 1e-12
"""Tolerances of the simulation: far below what float32 or a fitted field can resolve."""
LOOSER = 100.0
"""By how much they are looser for Radau's method, which is of order 5."""


@dataclass(frozen=True)
class TrajectorySettings:
    """One size: the trajectories simulated, the pieces cut from them, the field, and how it is trained."""

    hidden: tuple[int, ...]
    step: float
    """Time between two outputs."""
    horizon: int
    """Outputs of a piece behind its initial state."""
    pieces: int
    """Pieces of a trajectory, end to end; one if the equation depends on time."""
    trajectories: int
    """Simulated for training; half as many each for validation and test."""
    batch_size: int
    training: Training


def fitted(
    iterations: int, *, adam: float, sgd: float = 0.05, hidden: tuple[int, ...], step: float, horizon: int, pieces: int,
    trajectories: int, batch_size: int,
) -> TrajectorySettings:  # fmt: skip
    """Return a size whose field is fitted for ``iterations``, by Adam and SGD with these learning rates.

    SNOpt's is 0.02. It refreshes its preconditioner every 100 iterations, or five times in a shorter fit.
    """
    training = trained(iterations, adam=adam, sgd=sgd, snopt=0.02, update_freq=min(100, iterations // 5))
    return TrajectorySettings(hidden, step, horizon, pieces, trajectories, batch_size, training)


def simulate(
    rhs: Callable[[float, Array], Array],
    starts: Array,
    times: Array,
    *,
    stiff: bool,
    jacobian: Callable[[float, Array], Array] | None = None,
) -> Array:
    """Return the trajectories ``[time, count, dim]`` from ``starts [count, dim]`` at ``times``, in float64.

    All are solved as one system: by DOP853, or by LSODA where the equation is stiff, or by Radau's method where the
    Jacobian is told too. No trajectory depends on another, so the Jacobian consists of blocks on its diagonal.

    Parameters
    ----------
    rhs
        ``(t, y [count, dim]) -> dy/dt [count, dim]``, each row by itself.
    starts
        Initial states at ``times[0]``.
    times
        Output times ``[time]``.
    stiff
        Whether the equation is stiff.
    jacobian
        ``(t, y [count, dim]) -> df/dy [count, dim, dim]``: for rates so far apart that differences of the velocity do
        not tell it.

    Raises
    ------
    InfrastructureError
        If scipy's solver gives up; the message holds its reason.
    """
    band = starts.shape[1] - 1
    options: dict[str, object] = {"method": "LSODA", "lband": band, "uband": band} if stiff else {"method": "DOP853"}
    if jacobian is not None:

        def blocks(t: float, y: Array) -> object:
            return block_diag(list(jacobian(t, y.reshape(starts.shape))), format="csc")

        options = {"method": "Radau", "jac": blocks}

    def flat(t: float, y: Array) -> Array:
        return rhs(t, y.reshape(starts.shape)).ravel()

    rtol, atol = (RTOL, ATOL) if jacobian is None else (LOOSER * RTOL, LOOSER * ATOL)
    found = solve_ivp(flat, (times[0], times[-1]), starts.ravel(), t_eval=times, rtol=rtol, atol=atol, **options)
    if not found.success:
        raise InfrastructureError(
            f"rhs: scipy's {options['method']} could not solve it from {times[0]:g} to {times[-1]:g} at a relative "
            f"tolerance of {rtol:g}: {found.message}; check scipy's installation, or start from other states"
        )
    return np.asarray(found.y.T.reshape(-1, *starts.shape))


def cut(trajectories: Tensor, horizon: int) -> Pairs:
    """Cut ``[pieces * horizon + 1, count, dim]`` end to end into pieces of ``horizon`` outputs behind their first.

    Returns
    -------
    Pairs
        Initial states ``[pieces * count, dim]`` and what follows ``[horizon, pieces * count, dim]``.
    """
    windows = trajectories.unfold(0, horizon + 1, horizon)  # [pieces, count, dim, horizon + 1]
    states = windows.flatten(0, 1).permute(2, 0, 1).contiguous()
    return states[0], states[1:]


class Trajectories(Sized[TrajectorySettings]):
    """A simulated equation: a subclass names itself, its settings, the equation, its beginnings and the field.

    Trajectories are the same for all seeds, so that errors of different seeds are about the same data.
    """

    info: ClassVar[TaskInfo]
    settings: ClassVar[Mapping[str, TrajectorySettings]]
    start_time: ClassVar[float] = 0.0
    scale: ClassVar[float] = TANH_SCALE
    """Of the field's initial parameters, see ``seeded_module``."""

    @abstractmethod
    def rhs(self, t: float, y: Array) -> Array:
        """Return the true velocity ``[count, dim]`` of states ``y [count, dim]``, both as the field sees them."""

    @abstractmethod
    def sample(self, count: int, source: torch.Generator) -> Array:
        """Return ``count`` initial states ``[count, dim]`` drawn from ``source``."""

    def field(self, dim: int, hidden: tuple[int, ...]) -> nn.Module:
        """Return the field to be fitted, whose parameters ``build`` then draws from the seed."""
        return AutonomousNet(dim, hidden)

    def built(self, s: TrajectorySettings, seed: int, device: torch.device, dtype: torch.dtype) -> Problem:
        """Simulate the trajectories and build the field.

        Raises
        ------
        InfrastructureError
            If the simulation fails.
        """

        def part(count: int, stream: int) -> Pairs:
            return cut(self.simulated(s, count, stream).to(device, dtype), s.horizon)

        ts = self.start_time + s.step * torch.arange(s.horizon + 1, dtype=torch.float64)
        few = s.trajectories // 2
        train = part(s.trajectories, TRAIN)
        held_out = {"validation": part(few, VALIDATION), "test": part(few, TEST)}
        dim = train[0].shape[-1]
        field = self.fresh(dim, s.hidden, generator(seed, PARAMETERS), device, dtype)
        return PiecesProblem(field, ts.to(dtype), train, held_out, s, seed)

    def fresh(
        self, dim: int, hidden: tuple[int, ...], source: torch.Generator, device: torch.device, dtype: torch.dtype
    ) -> nn.Module:
        """Return the field with parameters drawn from ``source``."""
        return seeded_module(lambda: self.field(dim, hidden), source, device, dtype, self.scale)

    def simulated(self, settings: TrajectorySettings, count: int, stream: int) -> Tensor:
        """Return ``count`` trajectories ``[pieces * horizon + 1, count, dim]`` from the starts of ``stream``."""
        times = self.start_time + settings.step * np.arange(settings.pieces * settings.horizon + 1, dtype=np.float64)
        starts = self.sample(count, generator(0, stream))
        return torch.from_numpy(simulate(self.rhs, starts, times, stiff=self.info.kind == "stiff"))


class DrawnSettings(Protocol):
    """What is said of batches that are drawn."""

    @property
    def batch_size(self) -> int:
        """Return the samples of a batch."""
        ...

    @property
    def training(self) -> Training:
        """Return how the field is trained."""
        ...


class PiecesProblem(RegressionProblem):
    """Pieces of trajectories that are drawn with replacement.

    Parameters
    ----------
    field
        The field that is trained.
    ts
        Output times ``[time]``.
    train, held_out
        Initial states and solutions; those held out by the name of the split.
    settings
        The batch size and the training.
    seed
        Of the batches.
    """

    def __init__(
        self,
        field: nn.Module,
        ts: Tensor,
        train: Pairs,
        held_out: Mapping[str, Pairs],
        settings: DrawnSettings,
        seed: int,
    ) -> None:
        super().__init__(field, ts, held_out, settings.training)
        self.train = train
        self.batch_size = settings.batch_size
        self.seed = seed

    def batch(self, iteration: int) -> Pairs:
        """Return initial states ``[batch, dim]`` and solutions ``[time - 1, batch, dim]`` of ``iteration``."""
        starts, solutions = self.train
        source = generator(self.seed, TRAIN, iteration)
        rows = sent_to(starts.device, torch.randint(len(starts), (self.batch_size,), generator=source))
        return starts[rows], solutions[:, rows]

    def probe_batch(self) -> Pairs:
        """Return the first eight training pieces."""
        starts, solutions = self.train
        return starts[:8], solutions[:, :8]
