"""A part of a suite for one of several runners that know nothing of each other: a Slurm array, a Kubernetes job.

Each writes a file of its own into the results folder.
"""

import itertools
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self, TypeVar

from odegrad.errors import UsageError

RECORDS = "records.jsonl"
"""The file of a runner that measures the whole suite; those of shards are called after it."""

Item = TypeVar("Item")


@dataclass(frozen=True)
class Shard:
    """The part ``number`` (1, 2, ...) of ``count``."""

    number: int = 1
    count: int = 1

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the shard written as ``i/n``, ``1/4`` the first of four.

        Raises
        ------
        UsageError
            If it is not written so, or ``i`` is not between 1 and ``n``.
        """
        found = re.fullmatch(r"(\d+)/(\d+)", text.strip())
        if found is None or not 1 <= int(found[1]) <= int(found[2]):
            raise UsageError(f"--shard {text}: expected I/N with I from 1 to N, for example 1/4 for the first of four")
        return cls(int(found[1]), int(found[2]))

    def of(self, items: Sequence[Item], block: Callable[[Item], object]) -> list[Item]:
        """Return this shard's part of ``items``: whole blocks of neighbours, dealt out in turn."""
        mine: list[Item] = []
        for place, (_, members) in enumerate(itertools.groupby(items, block)):
            if place % self.count == self.number - 1:
                mine += members
        return mine

    def name(self, stem: str, suffix: str) -> str:
        """Return the name of a file of this shard's own: ``records.jsonl``, or ``records-2-of-4.jsonl``."""
        return f"{stem}{suffix}" if self.count == 1 else f"{stem}-{self.number}-of-{self.count}{suffix}"


WHOLE = Shard()
"""The whole suite."""


def record_files(folder: Path) -> list[Path]:
    """Return the files that hold records: ``records.jsonl``, then those that shards write beside it."""
    return sorted(folder.glob("records*.jsonl"), key=lambda path: (path.name != RECORDS, path.name))
