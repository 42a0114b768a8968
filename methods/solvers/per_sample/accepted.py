"""What a round of steps has accepted, and the outputs that it reaches."""

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from odegrad.methods.solvers.per_sample.stages import ReadInside, RowStepper, RowSteps
from odegrad.methods.solvers.per_sample.times import HostIntegers, SampleTimes, Truths
from odegrad.states import sent_to


@dataclass
class AcceptedRows:
    """The steps that a round accepts, as seen while the loop stands on them."""

    samples: HostIntegers
    """``[a]``: whose they are."""
    steps: RowSteps
    outputs: HostIntegers
    """``[a]``: the output that ends each step, -1 where none does."""
    towards: HostIntegers
    """``[a]``: the next output, which each step goes towards, ends at or passes over."""
    inside: ReadInside
    """The outputs inside of the steps."""
    x: Tensor
    x_next: Tensor
    stepper: RowStepper
    positions: HostIntegers
    """``[a]``: where they lie among the rows of the round."""
    rows: Tensor | None
    """The same on the device; None where they are all of the rows."""

    def starts(self, chosen: HostIntegers | None = None) -> Tensor:
        """Return what is carried at the starts, ``[a, n]`` or wider, or at those of some of the steps."""
        if chosen is None:
            return self._of(self.x, 0)
        at = chosen if self.rows is None else self.positions[chosen]
        return chosen_rows(self.x, at)

    def ends(self) -> Tensor:
        """Return the states ``[a, n]`` at the ends."""
        return self._of(self.stepper.state(self.x_next), 0)

    def at_outputs(self) -> Tensor:
        """Return the states ``[m, n]`` at the outputs inside of the steps."""
        inside = self.inside
        return self.stepper.dense(self.stepper.state(self.x), replace(inside, rows=self.positions[inside.rows]))

    def intervals(self, theta: float) -> HostIntegers:
        """Return the outputs ``[a]`` that end the intervals in which the steps are at ``theta`` of them."""
        return self.towards + self.inside.before(theta, len(self.samples))

    @property
    def reaching(self) -> Truths:
        """Return which steps reach an output, ``[a]``."""
        return np.asarray((self.outputs >= 0) | (self.inside.before(1.0, len(self.samples)) > 0))

    def polynomial(self) -> Tensor:
        """Return the continuous extensions' coefficients ``[q + 1, a, n]`` in powers of ``(time - t) / h``."""
        return self._of(self.stepper.polynomial(self.stepper.state(self.x)), 1)

    def of_rows(self, x: Tensor) -> Tensor:
        """Return the rows of ``x [rows, ...]`` whose steps these are, ``[a, ...]``."""
        return self._of(x, 0)

    def _of(self, x: Tensor, dim: int) -> Tensor:
        return x if self.rows is None else x.index_select(dim, self.rows)


def chosen_rows(x: Tensor, rows: HostIntegers) -> Tensor:
    """Return these rows of ``x``, itself if they are all."""
    if len(rows) == len(x):
        return x
    return x.index_select(0, sent_to(x.device, torch.from_numpy(rows)))


class OutputRows:
    """The states at the output times, ``[K, batch, n]``, as the rounds reach them; NaN where they do not."""

    def __init__(self, y0: Tensor, times: SampleTimes) -> None:
        self.times = times
        self.ys = torch.full((times.outputs, *y0.shape), math.nan, dtype=y0.dtype, device=y0.device)
        self.ys[0].copy_(y0)

    def put(self, seen: AcceptedRows) -> None:
        """Take the ends of steps that are at outputs, and what is read inside of steps."""
        if len(seen.inside):
            read = seen.at_outputs()
            self._put(seen.inside.outputs, seen.samples[seen.inside.rows], read)
        ended = np.flatnonzero(seen.outputs >= 0)
        if not len(ended):
            return
        self._put(seen.outputs[ended], seen.samples[ended], chosen_rows(seen.ends(), ended))

    def _put(self, outputs: HostIntegers, samples: HostIntegers, y: Tensor) -> None:
        places = sent_to(self.ys.device, torch.from_numpy(outputs * len(self.ys[0]) + samples))
        self.ys.view(-1, y.shape[1]).index_copy_(0, places, y)

    def all(self) -> Tensor:
        """Return them, with what repeats filled in."""
        places, of = (torch.from_numpy(x) for x in self.times.repeats())
        if len(places):
            flat = self.ys.view(-1, self.ys.shape[-1])
            flat.index_copy_(0, sent_to(flat.device, places), flat.index_select(0, sent_to(flat.device, of)))
        return self.ys
