"""The referee of two gradients that disagree: differences of the loss itself, and no backward code at all."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from odegrad.methods.gradients.naive import Naive
from odegrad.methods.solvers.solver import make_solver
from odegrad.reference.grids import Budget, Searching
from odegrad.reference.subject import Subject
from odegrad.states import put_back

REFEREE_TOLERANCE = 1e-12
STEPS = (1e-3, 1e-5)
"""Lengths of a difference, relative to the size of all inputs."""
DIRECTIONS = 2
MUCH_CLOSER = 10.0
"""The gradient that is taken lies so many times closer to the differences than the other one."""


@dataclass(frozen=True)
class Ruling:
    """How far two gradients lie from the differences, relative to these."""

    first: float
    second: float

    @property
    def takes(self) -> int | None:
        """Return 0 or 1 for the gradient that the differences bear out, or None where they tell them not apart."""
        if self.first * MUCH_CLOSER <= self.second:
            return 0
        return 1 if self.second * MUCH_CLOSER <= self.first else None


def rule(subject: Subject, first: Tensor, second: Tensor, budget: Budget, seed: int = 0) -> Ruling:
    """Hold two gradients against central differences of the re-adapted solve along random directions.

    dopri8 at 1e-12; of two lengths of the difference the one that agrees better with either gradient counts: a longer
    one holds more of the higher derivatives, a shorter one more of the rounding.

    Raises
    ------
    SolverError
        If an equation beside the subject's cannot be solved, or the budget is spent.
    """
    generator = torch.Generator().manual_seed(seed)
    directions = [torch.randn(first.numel(), generator=generator, dtype=torch.float64) for _ in range(DIRECTIONS)]
    directions = [v / torch.linalg.vector_norm(v) for v in directions]
    size = max(float(torch.linalg.vector_norm(torch.cat([x.detach().reshape(-1) for x in subject.inputs]))), 1.0)
    found = []
    for step in STEPS:
        seen = torch.tensor([_extrapolated(subject, v, step * size, budget) for v in directions], dtype=torch.float64)
        found.append(Ruling(*(_distance(g, directions, seen) for g in (first, second))))
    return min(found, key=lambda ruling: min(ruling.first, ruling.second))


def _extrapolated(subject: Subject, direction: Tensor, length: float, budget: Budget) -> float:
    """Return the slope from differences of two lengths, free of the third derivative (Richardson)."""
    whole, half = (_slope(subject, direction, each, budget) for each in (length, length / 2.0))
    return (4.0 * half - whole) / 3.0


def _slope(subject: Subject, direction: Tensor, length: float, budget: Budget) -> float:
    tight = make_solver("dopri8", rtol=REFEREE_TOLERANCE, atol=REFEREE_TOLERANCE)
    ends = []
    for sign in (1.0, -1.0):
        with _moved(subject, sign * length * direction):
            ends.append(subject.value(Searching(Naive(), tight, budget.watched)))
    return (ends[0] - ends[1]) / (2.0 * length)


@contextmanager
def _moved(subject: Subject, by: Tensor) -> Iterator[None]:
    """Move the inputs inside, and put them back."""
    kept = [(x, x.detach().clone()) for x in subject.inputs]
    steps = torch.split(by, [x.numel() for x in subject.inputs])
    try:
        put_back((x, old + step.to(old).reshape(old.shape)) for (x, old), step in zip(kept, steps, strict=True))
        yield
    finally:
        put_back(kept)


def _distance(gradient: Tensor, directions: list[Tensor], seen: Tensor) -> float:
    slopes = torch.stack([gradient @ v for v in directions])
    return float(torch.linalg.vector_norm(slopes - seen) / torch.linalg.vector_norm(seen))
