"""Output times of samples with steps of their own: one row for all, or a row for each."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from odegrad.errors import UsageError
from odegrad.methods.solvers.times import checked_times

HostFloats = npt.NDArray[np.float64]
HostIntegers = npt.NDArray[np.int64]
Truths = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class SampleTimes:
    """The output times of every sample."""

    table: HostFloats
    """``[batch, K]``; behind its last time a row repeats it."""
    last: HostIntegers
    """``[batch]``: the position of the last time of each row, before its repeats."""

    @property
    def outputs(self) -> int:
        """Return K, the output times of a row, the initial one and repeats included."""
        return int(self.table.shape[1])

    @property
    def start(self) -> HostFloats:
        """Return the initial times ``[batch]``."""
        return self.table[:, 0]

    @property
    def end(self) -> HostFloats:
        """Return the last times ``[batch]``."""
        return self.table[:, -1]

    def interval(self, k: int) -> "tuple[HostIntegers, SampleTimes]":
        """Return the samples that have an interval from output k back to k - 1, and these times of them."""
        samples = np.flatnonzero(self.last >= k)
        table = self.table[samples][:, [k, k - 1]]
        return samples, SampleTimes(table, np.ones(len(samples), dtype=np.int64))

    def repeats(self) -> tuple[HostIntegers, HostIntegers]:
        """Return where rows of the outputs ``[K batch]`` repeat another one: their places, and those of the others."""
        batch = len(self.last)
        k, sample = np.nonzero(np.arange(self.outputs)[:, None] > self.last[None, :])
        return k * batch + sample, self.last[sample] * batch + sample


def checked_sample_times(ts: object, batch: int) -> SampleTimes:
    """Return the output times ``[K]`` or ``[batch, K]`` of ``batch`` samples.

    Raises
    ------
    UsageError
        If ``ts`` is not of this shape, or a row is not strictly monotone up to repeats of its last time, or runs
        against the others, or has no interval.
    """
    if not (isinstance(ts, Tensor) and ts.dim() == 2):
        times = checked_times(ts)
        table = np.tile(np.asarray(times, dtype=np.float64), (batch, 1))
        return SampleTimes(table, np.full(batch, len(times) - 1, dtype=np.int64))
    if not ts.is_floating_point() or ts.shape[0] != batch or ts.shape[1] < 2:
        raise UsageError(
            f"ts: expected floating-point times [K] or [batch, K] with batch = {batch} and K >= 2, got "
            f"{tuple(ts.shape)} of {ts.dtype}; give each sample a row, and fill short ones with their last time"
        )
    table = ts.detach().to("cpu", torch.float64).numpy()
    last = np.asarray([_last(i, row) for i, row in enumerate(table)], dtype=np.int64)
    forwards = table[:, -1] > table[:, 0]
    if not (forwards == forwards[0]).all():
        row = int(np.flatnonzero(forwards != forwards[0])[0])
        way, other = ("forwards", "backwards") if forwards[row] else ("backwards", "forwards")
        raise UsageError(
            f"ts: expected rows that run the same way, got row {row} that runs {way} in time and row 0 that runs "
            f"{other}; solve the two kinds apart"
        )
    return SampleTimes(table, last)


def _last(i: int, row: HostFloats) -> int:
    """Return the position of the last time of row ``i`` before its repeats."""
    if not np.isfinite(row).all():
        raise UsageError(f"ts: expected finite times, got {row.tolist()} in row {i}; fill short rows with their last")
    moves = np.diff(row)
    steps = int(np.flatnonzero(moves)[-1]) + 1 if moves.any() else 0
    if steps == 0:
        raise UsageError(
            f"ts: expected at least two times in every row, got row {i} that holds {float(row[0])!r} alone; leave this "
            "sample out, which has nothing to solve"
        )
    wrong = np.flatnonzero(np.sign(moves[:steps]) != np.sign(moves[0] or row[-1] - row[0]))
    if len(wrong):
        k = int(wrong[0])
        raise UsageError(
            f"ts: expected strictly monotone times in every row, got {float(row[k])!r} then {float(row[k + 1])!r} at "
            f"position {k} of row {i}; sort them, and repeat none but the last, at its end"
        )
    return steps
