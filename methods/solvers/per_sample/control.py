"""Step-size control of many samples: ``Controller``'s rules, row by row, on the host."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from odegrad.methods.solvers.control import Controller, step_after_trial, trial_step
from odegrad.methods.solvers.per_sample.times import HostFloats

Norms = Callable[[Tensor], Tensor]
"""``[rows, n]`` to ``[rows]``."""


def error_ratios(control: Controller, norms: Norms, error: Tensor, y: Tensor, y_next: Tensor) -> HostFloats:
    """Return the error of each row of the last attempt in units of its tolerance, ``[rows]``: the round's one read."""
    scale = torch.maximum(y.abs(), y_next.abs()).mul_(control.rtol).add_(control.atol)
    # Row by row, so that no sample is judged by the mean over others: the host waits once for all of them.
    return _read(norms(error / scale))


def next_steps(
    control: Controller, h: HostFloats, ratios: HostFloats, order: int, previous: Sequence[float | None]
) -> list[float]:
    """Return the size of every row's next step; see ``Controller.next_step``."""
    pairs = zip(h.tolist(), ratios.tolist(), previous, strict=True)
    return [control.next_step(size, ratio, order, before) for size, ratio, before in pairs]


def starting_norms(control: Controller, norms: Norms, y: Tensor, f0: Tensor) -> tuple[Tensor, HostFloats, HostFloats]:
    """Return the scale ``[rows, n]`` of the state, and the norms of state and rate in it, ``[rows]``: one read."""
    scale = y.abs().mul_(control.rtol).add_(control.atol)
    d0, d1 = _read(torch.stack([norms(y / scale), norms(f0 / scale)]))
    return scale, d0, d1


def trial_steps(d0: HostFloats, d1: HostFloats, spans: HostFloats) -> HostFloats:
    """Return the unsigned sizes ``[rows]`` of the trial steps."""
    return np.asarray([trial_step(*row) for row in zip(d0.tolist(), d1.tolist(), spans.tolist(), strict=True)])


def first_steps(order: int, h0: HostFloats, d1: HostFloats, changed: HostFloats) -> HostFloats:
    """Return the unsigned sizes ``[rows]`` of the first steps, after those of the trials."""
    rows = zip(h0.tolist(), d1.tolist(), changed.tolist(), strict=True)
    return np.asarray([step_after_trial(*row, order) for row in rows])


def changes(norms: Norms, f1: Tensor, f0: Tensor, scale: Tensor) -> HostFloats:
    """Return the norms ``[rows]`` of what the trial step has changed of the rate: one read."""
    return _read(norms((f1 - f0) / scale))


def _read(x: Tensor) -> HostFloats:
    found: HostFloats = x.to("cpu", torch.float64).numpy()
    return found
