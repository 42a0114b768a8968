"""Rounds of the time pass: several processes a run, in turn with the other methods of a comparison.

Two processes of identical code differ by more than the repeats inside of one, and a machine drifts; so a time is the
median over rounds, each a process of its own, and between two rounds of one method every other method has had its turn.
"""

import math
import statistics
from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from odegrad.records.columns import PARTS

ROUNDS = 3
"""How many processes time a run."""

RAW = "_raw"

Turn = TypeVar("Turn", bound=Hashable)


def turns(members: Sequence[Turn], rounds: int = ROUNDS) -> Iterator[Turn]:
    """Yield every member once a round, forwards and backwards in turn (ABBA), so that a steady drift cancels."""
    for number in range(rounds):
        yield from members if number % 2 == 0 else reversed(members)


def relative_interval(seconds: Sequence[float]) -> float:
    """Return half the width of the median's 95 % interval (order statistics), relative to the median."""
    total, n = sorted(seconds), len(seconds)
    half = 0.98 * math.sqrt(n)
    low, high = max(int(n / 2 - half), 0), min(math.ceil(n / 2 + half), n - 1)
    return (total[high] - total[low]) / (2 * statistics.median(total))


def merge(rounds: Sequence[Mapping[str, Any]]) -> dict[str, object]:
    """Return the columns of a run's time pass from those of its rounds.

    Raw repeats are put together, and their medians and ``time_relative_interval`` taken anew; ``round_seconds_raw``
    holds the median iteration of every round, in seconds; ``taints`` are those of any round; of any other column the
    first round's value stays.
    """
    merged: dict[str, Any] = dict(rounds[0])
    for name in [name for name in merged if name.endswith(RAW)]:
        merged[name] = [value for each in rounds for value in each[name]]
        if merged[name] and name.removesuffix(RAW) in merged:
            merged[name.removesuffix(RAW)] = statistics.median(merged[name])
    parts = [name + RAW for name in PARTS]
    if all(name in merged for name in parts):
        iterations = [[sum(each) for each in zip(*(one[name] for name in parts), strict=True)] for one in rounds]
        merged["round_seconds_raw"] = [statistics.median(each) for each in iterations]
        merged["time_relative_interval"] = relative_interval([value for each in iterations for value in each])
    if "taints" in merged:
        words = {word for each in rounds for word in str(each["taints"]).split(",") if word}
        merged["taints"] = ",".join(sorted(words))
    return merged
