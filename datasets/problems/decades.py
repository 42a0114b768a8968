"""Trajectories of stiff equations seen at logarithmic times, over as many decades as the equation has, and fitted."""

from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import nn

from odegrad.contracts import Problem, TaskInfo, Training
from odegrad.datasets.problems.regression import Pairs
from odegrad.datasets.problems.simulated import PiecesProblem, simulate
from odegrad.datasets.problems.sizes import Sized
from odegrad.datasets.sources.arrays import Array
from odegrad.datasets.sources.seeding import PARAMETERS, TEST, TRAIN, VALIDATION, generator


@dataclass(frozen=True)
class DecadesSettings:
    """One size: when the trajectories are seen, how many there are, the field, and how it is trained."""

    first: float
    """The first output time behind 0."""
    last: float
    outputs: int
    """Output times from the first to the last, each by the same factor behind the one before."""
    trajectories: int
    """Simulated for training; half as many each for validation and test."""
    batch_size: int
    training: Training
    hidden: tuple[int, ...] = ()
    """Widths of the net, where the field is one."""
    fastest: float = float("inf")
    """The equation's largest rate constant; larger ones are set to it."""
    least_unit: float = 0.0
    """The smallest unit of a species: what a slower equation holds more of than the true one has a larger unit."""

    @property
    def times(self) -> Array:
        """Return 0 and the output times, ``[outputs + 1]``."""
        return np.concatenate([[0.0], np.geomspace(self.first, self.last, self.outputs)])


class Decades(Sized[DecadesSettings]):
    """A stiff equation: a subclass names itself, its settings, the equation, its beginnings and the field.

    The field sees the time as it is, and species in units in which all are of order one. Trajectories are the same for
    all seeds, so that errors of different seeds are about the same data.
    """

    info: ClassVar[TaskInfo]
    settings: ClassVar[Mapping[str, DecadesSettings]]

    @abstractmethod
    def rhs(self, settings: DecadesSettings) -> Callable[[float, Array], Array]:
        """Return the true velocity, ``(t, y [count, dim]) -> [count, dim]``."""

    def jacobian(self, settings: DecadesSettings) -> Callable[[float, Array], Array] | None:  # noqa: ARG002
        """Return the velocity's derivative, ``(t, y [count, dim]) -> [count, dim, dim]``; None: by differences."""
        return None

    @abstractmethod
    def sample(self, count: int, source: torch.Generator) -> Array:
        """Return ``count`` initial states ``[count, dim]`` drawn from ``source``."""

    @abstractmethod
    def field(
        self, settings: DecadesSettings, source: torch.Generator, device: torch.device, dtype: torch.dtype
    ) -> nn.Module:
        """Return the field to be fitted, with parameters drawn from ``source``."""

    def built(self, s: DecadesSettings, seed: int, device: torch.device, dtype: torch.dtype) -> Problem:
        """Simulate the trajectories and build the field.

        Raises
        ------
        InfrastructureError
            If the simulation fails.
        """

        def part(count: int, stream: int) -> Pairs:
            starts, *rest = self.simulated(s, count, stream).to(device, dtype).unbind(0)
            return starts, torch.stack(rest)

        few = s.trajectories // 2
        held_out = {"validation": part(few, VALIDATION), "test": part(few, TEST)}
        field = self.field(s, generator(seed, PARAMETERS), device, dtype)
        ts = torch.from_numpy(s.times).to(dtype)
        return PiecesProblem(field, ts, part(s.trajectories, TRAIN), held_out, s, seed)

    def simulated(self, settings: DecadesSettings, count: int, stream: int) -> torch.Tensor:
        """Return ``count`` trajectories ``[outputs + 1, count, dim]`` from the starts of ``stream``, in float64."""
        starts = self.sample(count, generator(0, stream))
        jacobian = self.jacobian(settings)
        found = simulate(self.rhs(settings), starts, settings.times, stiff=True, jacobian=jacobian)
        return torch.from_numpy(found)
