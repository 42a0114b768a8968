"""How noisy a fixed kernel is right now: the same work timed against itself in pairs, A B B A."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch

from odegrad.errors import UsageError
from odegrad.reports.statistics import MIN_VALUES, median, median_interval

SIZE, PRODUCTS, SMALL_OPERATORS = 256, 4, 400
"""Of the kernel: some milliseconds, half in products that arithmetic bounds, half in operators that Python bounds."""

UNTIMED_PAIRS = 3


@dataclass(frozen=True)
class Noise:
    """How far identical work lies apart."""

    pairs: int
    ratio: float
    """Median of B / A over the pairs; 1 on a machine without noise."""
    low: float
    high: float
    """The median's exact interval of at least 95 %."""
    smallest_slow_down: float
    """As a fraction: twice as far from 1 as the interval's farther end; less cannot be told from noise."""


def kernel(seed: int) -> Callable[[], None]:
    """Return the work that is timed: a function without arguments, the same for every machine."""
    generator = torch.Generator().manual_seed(seed)
    matrix, vector = torch.randn(SIZE, SIZE, generator=generator), torch.randn(64, generator=generator)

    def work() -> None:
        for _ in range(PRODUCTS):
            torch.mm(matrix, matrix)
        for _ in range(SMALL_OPERATORS // 2):
            vector.add_(1e-3).mul_(0.999)

    return work


def paired_ratios(
    a: Callable[[], None], b: Callable[[], None], pairs: int, clock: Callable[[], float] = time.perf_counter
) -> list[float]:
    """Return the time of ``b`` over that of ``a`` for each of ``pairs``, run in the order a b b a against drift."""
    ratios = []
    for _ in range(pairs):
        seconds = []
        for work in (a, b, b, a):
            start = clock()
            work()
            seconds.append(clock() - start)
        ratios.append((seconds[1] + seconds[2]) / (seconds[0] + seconds[3]))
    return ratios


def measured_ratios(pairs: int, seed: int, _progress: Callable[[Mapping[str, object]], None]) -> list[float]:
    """Return the ratios of the kernel to itself in this process; to be called in a fresh one, as passes are."""
    work = kernel(seed)
    for _ in range(UNTIMED_PAIRS):
        work()
    return paired_ratios(work, work, pairs)


def noise(ratios: Sequence[float]) -> Noise:
    """Return what the ratios of identical work say.

    Raises
    ------
    UsageError
        If they are too few for an interval.
    """
    if len(ratios) < MIN_VALUES:
        raise UsageError(
            f"pairs: expected at least {MIN_VALUES}, from which a median has an interval, got {len(ratios)}"
        )
    interval = median_interval(ratios)
    farther = max(abs(math.log(interval.low)), abs(math.log(interval.high)))
    return Noise(len(ratios), median(ratios), interval.low, interval.high, math.expm1(2 * farther))
