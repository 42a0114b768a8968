"""A solve whose samples have steps of their own, at its edges: times, rows, and the gradient by output times."""

from collections.abc import Callable
from typing import cast

import numpy as np
import torch
from torch import Tensor

from odegrad.contracts import StateT
from odegrad.errors import UnsupportedError
from odegrad.methods.fields.draws import OF_OTHERS, Draws
from odegrad.methods.fields.surroundings import autocast_off
from odegrad.methods.solvers.per_sample.apart import refuse_coupled
from odegrad.methods.solvers.per_sample.rows import DRAWS, RowField
from odegrad.methods.solvers.per_sample.times import HostFloats, SampleTimes, checked_sample_times
from odegrad.methods.solvers.times import moves_with_time
from odegrad.states import parts, sent_to

SolveRows = Callable[[RowField, Tensor, SampleTimes], Tensor]
"""Field, starts ``[batch, n]`` and times to states ``[K, batch, n]``, with the graph that is a method."""


def solve_samples(solve: SolveRows, row_field: RowField, y0: StateT, ts: Tensor) -> StateT:
    """Return the solution ``[K, batch, *state]`` at ``ts``, ``[K]`` or ``[batch, K]``.

    Raises
    ------
    UsageError
        If ``ts`` or the batch are not what they should be.
    UnsupportedError
        If the field's samples depend on each other, or it draws random numbers.
    """
    rows, layout = row_field.rows, row_field.layout
    times = checked_sample_times(ts, rows.batch)
    start = rows.joined(tuple(parts(y0)))
    before = Draws.now([*row_field.sources, *OF_OTHERS])
    with autocast_off(layout.device.type):
        refuse_coupled(row_field, on_device(times.start, start), start.detach())
        if ts.requires_grad and torch.is_grad_enabled():
            moving = _start_depends_on_time(row_field, start, ts, times)
            ys = solve(row_field, moving, times)
            ys = _outputs_depend_on_time(row_field, torch.cat([start[None], ys[1:]]), ts, times)
        else:
            ys = solve(row_field, start, times)
    if before.has_moved():
        before.set()
        raise UnsupportedError(DRAWS)
    return cast("StateT", rows.split(ys))


def on_device(numbers: HostFloats, like: Tensor) -> Tensor:
    """Return the host's ``numbers`` beside ``like`` and in its type."""
    return sent_to(like.device, torch.from_numpy(np.ascontiguousarray(numbers)), like.dtype)


def _start_depends_on_time(field: RowField, y0: Tensor, ts: Tensor, times: SampleTimes) -> Tensor:
    """Return ``y0 [batch, n]``, from which autograd sees ``dL/dt_i0 = -f . dL/dy_i0``; one f call."""
    with torch.no_grad():
        f0 = field.at(on_device(times.start, y0), y0.detach()).detach()
    first = ts[..., 0].to(y0.device).expand(len(y0))
    return moves_with_time(y0, first, -f0)


def _outputs_depend_on_time(field: RowField, ys: Tensor, ts: Tensor, times: SampleTimes) -> Tensor:
    """Return ``ys [K, batch, n]``, from which autograd sees ``dL/dt_ik = f . dL/dy_ik``; K - 1 f calls."""
    later = ys[1:]
    with torch.no_grad():
        columns = [on_device(times.table[:, k], ys) for k in range(1, times.outputs)]
        f = torch.stack([field.at(t, y) for t, y in zip(columns, later.detach(), strict=True)])
        # A sample that has failed has no rate there, and its time's gradient must not become that of all.
        f = torch.where(f.isfinite().all(-1, keepdim=True), f, torch.zeros_like(f))
    own = ts[..., 1:].to(ys.device)
    own = own[:, None].expand(later.shape[:2]) if ts.dim() == 1 else own.t()
    moved = moves_with_time(later.flatten(0, 1), own.flatten(), f.flatten(0, 1))
    return torch.cat([ys[:1], moved.view_as(later)])
