"""The accepted steps of samples with steps of their own, kept round by round and read by rank.

A rank holds the j-th step of every sample that has one: so many samples are redone at once, each by its own step, and
none by a step that is not its own. Samples with more steps come first, so that the rows of a rank are the first rows of
the rank before, and nothing is gathered from rank to rank.
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from odegrad.methods.solvers.per_sample.accepted import AcceptedRows
from odegrad.methods.solvers.per_sample.stages import ReadInside, RowSteps
from odegrad.methods.solvers.per_sample.times import HostFloats, HostIntegers


@dataclass(frozen=True)
class Rank:
    """The j-th steps of the samples that have one."""

    number: int
    samples: HostIntegers
    """``[w]``: whose they are, those with more steps first."""
    going_on: int
    """How many of the first ones have another step."""
    steps: RowSteps
    outputs: HostIntegers
    """``[w]``: the output at the end of each, -1 where there is none."""
    entries: HostIntegers
    """``[w]``: where each stands among all accepted steps, in the order in which they were accepted."""
    inside: ReadInside
    """The outputs inside of the steps."""

    @property
    def ended(self) -> tuple[HostIntegers, HostIntegers]:
        """Return the rows whose steps end at an output, and the outputs."""
        rows = np.flatnonzero(self.outputs >= 0)
        return rows, self.outputs[rows]


class Ledger:
    """What the rounds of one solve have accepted, as far as the host knows it."""

    def __init__(self, batch: int) -> None:
        self.batch = batch
        self.sizes: list[int] = []
        """The steps of each round that accepted any."""
        self._columns: list[tuple[HostIntegers | HostFloats, ...]] = []
        self._inside: list[ReadInside] = []

    def note(self, seen: AcceptedRows) -> None:
        """Keep the steps of a round."""
        steps = seen.steps
        if len(seen.inside):
            self._inside.append(replace(seen.inside, rows=seen.inside.rows + sum(self.sizes)))
        self.sizes.append(len(seen.samples))
        self._columns.append((seen.samples, steps.t, steps.h, steps.t_next, seen.outputs, seen.towards))

    @cached_property
    def columns(self) -> tuple[HostIntegers, HostFloats, HostFloats, HostFloats, HostIntegers, HostIntegers]:
        """Return sample, start, size, end, output and next output of every accepted step, each ``[steps]``."""
        joined: tuple[HostIntegers, HostFloats, HostFloats, HostFloats, HostIntegers, HostIntegers] = tuple(
            np.concatenate(column) for column in zip(*self._columns, strict=True)
        )  # type: ignore[assignment]
        return joined

    @cached_property
    def inside(self) -> ReadInside:
        """Return the outputs inside of all accepted steps, in the order of these."""
        if not self._inside:
            return ReadInside.none()
        names = ("rows", "outputs", "thetas")
        return ReadInside(*(np.concatenate([getattr(each, name) for each in self._inside]) for name in names))

    def ranks(self, interval: int | None = None) -> "Ranks":
        """Return the steps by rank; only those towards output ``interval`` if it is given."""
        samples, *_, towards = self.columns
        chosen = np.arange(len(samples)) if interval is None else np.flatnonzero(towards == interval)
        return Ranks(self, chosen)


class Ranks:
    """Steps of a ledger by rank."""

    def __init__(self, ledger: Ledger, chosen: HostIntegers) -> None:
        samples, self._t, self._h, self._t_next, self._outputs, _ = ledger.columns
        self._inside = ledger.inside
        # Rounds are in order, so the steps of one sample are, too: sorted by sample they stand one behind the other.
        self._entries = chosen[np.argsort(samples[chosen], kind="stable")]
        counts = np.bincount(samples[chosen], minlength=ledger.batch)
        self._first = np.cumsum(counts) - counts
        order = np.argsort(-counts, kind="stable")
        self.samples: HostIntegers = order[: int((counts > 0).sum())]
        """Those that have a step, the ones with more of them first."""
        self._sorted = counts[self.samples]

    def __len__(self) -> int:
        """Return the most steps that a sample has."""
        return int(self._sorted[0]) if len(self._sorted) else 0

    def width(self, j: int) -> int:
        """Return how many samples have a step of rank ``j``."""
        return int((self._sorted > j).sum())

    def __getitem__(self, j: int) -> Rank:
        """Return rank ``j``."""
        samples = self.samples[: self.width(j)]
        at = self._entries[self._first[samples] + j]
        steps = RowSteps(self._t[at], self._h[at], self._t_next[at])
        return Rank(j, samples, self.width(j + 1), steps, self._outputs[at], at, self._read(at))

    def _read(self, entries: HostIntegers) -> ReadInside:
        """Return the outputs inside of these accepted steps."""
        inside = self._inside
        if not len(inside):
            return inside
        first = np.searchsorted(inside.rows, entries)
        counts = np.searchsorted(inside.rows, entries, side="right") - first
        rows = np.repeat(np.arange(len(entries)), counts)
        places = np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts) + first[rows]
        return ReadInside(rows, inside.outputs[places], inside.thetas[places])

    def __iter__(self) -> Iterator[Rank]:
        """Yield the ranks from the first to the last."""
        return (self[j] for j in range(len(self)))

    def backwards(self) -> Iterator[Rank]:
        """Yield the ranks from the last to the first."""
        return (self[j] for j in range(len(self) - 1, -1, -1))


class KeptRows:
    """States ``[n]`` of accepted steps, as the rounds have handed them over; each is kept once.

    Parameters
    ----------
    pieces
        ``[a, n]`` of each round that keeps any.
    places
        ``[steps]``: where each accepted step's state stands in the pieces laid side by side, -1 where none is kept.
    """

    def __init__(self, pieces: Sequence[Tensor], places: HostIntegers) -> None:
        self.pieces = pieces
        self.places = places
        self._starts = np.cumsum([0, *[len(p) for p in pieces]])

    def of(self, entries: HostIntegers) -> Tensor:
        """Return the states ``[w, n]`` of these accepted steps."""
        places = self.places[entries]
        pieces = np.searchsorted(self._starts, places, side="right") - 1
        rows = places - self._starts[pieces]
        # Rows that lie side by side are taken as one slice.
        breaks = np.flatnonzero((np.diff(rows) != 1) | (np.diff(pieces) != 0)) + 1
        edges = [0, *breaks.tolist(), len(places)]
        found = []
        for first, stop in itertools.pairwise(edges):
            row = int(rows[first])
            found.append(self.pieces[int(pieces[first])][row : row + stop - first])
        return torch.cat(found) if len(found) > 1 else found[0]
