"""Rounds of the time pass: several processes a run, in turn with the other methods of a comparison.

Two processes of identical code differ by more than the repeats inside of one, and a machine drifts; so a time is the
median over rounds, each a process of its own, and between two rounds of one method every other method has had its turn.
"""

import statistics
from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

ROUNDS = 3
"""How many processes time a run."""

RAW = "_raw"
PARTS = ("forward_seconds", "backward_seconds", "update_seconds")
"""The parts of an iteration."""

Turn = TypeVar("Turn", bound=Hashable)


def turns(members: Sequence[Turn], rounds: int = ROUNDS) -> Iterator[Turn]:
    """Yield every member once a round, forwards and backwards in turn (ABBA), so that a steady drift cancels."""
    for number in range(rounds):
        yield from members if number % 2 == 0 else reversed(members)


def merge(rounds: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the columns of a run's time pass from those of its rounds.

    Raw repeats are put together and their medians taken anew; ``round_seconds_raw`` holds the median iteration of
    every round, in seconds; of any other column the first round's value stays.
    """
    merged: dict[str, Any] = dict(rounds[0])
    for name in [name for name in merged if name.endswith(RAW)]:
        merged[name] = [value for each in rounds for value in each[name]]
        if merged[name] and name.removesuffix(RAW) in merged:
            merged[name.removesuffix(RAW)] = statistics.median(merged[name])
    parts = [name + RAW for name in PARTS]
    if all(name in merged for name in parts):
        merged["round_seconds_raw"] = [
            statistics.median(map(sum, zip(*(each[name] for name in parts), strict=True))) for each in rounds
        ]
    return merged
