"""Naive backprop where samples have steps of their own: solve without a graph, then go through the ranks with one."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from odegrad.methods.backward.per_sample.entry import on_device
from odegrad.methods.backward.per_sample.node import at, walked
from odegrad.methods.solvers.dynamics import trained_parameters
from odegrad.methods.solvers.per_sample.ledger import Ledger
from odegrad.methods.solvers.per_sample.rows import RowField
from odegrad.methods.solvers.per_sample.steppers import graph_row_stepper
from odegrad.methods.solvers.per_sample.times import HostIntegers, SampleTimes
from odegrad.methods.solvers.solver import OneStepSolver


def solved_with_graph(field: RowField, solver: OneStepSolver, y0: Tensor, times: SampleTimes) -> Tensor:
    """Return ``[K, batch, n]`` with the graph of every accepted step, and of nothing else.

    The steps are chosen first, without a graph: a graph of the rounds themselves would hold the attempts that were
    rejected in one sample and accepted in its mates, and what overflows in them would come back as NaN.
    """
    ledger = Ledger(len(y0))
    ys, _ = walked(field, solver, y0.detach(), times, ledger.note)
    if not torch.is_grad_enabled():
        return ys
    ranks, stepper = ledger.ranks(), graph_row_stepper(field, solver)
    x: Tensor = _Ordered.apply(y0, ranks.samples)  # type: ignore[no-untyped-call]
    if solver.implicit:
        # The rates are carried, and go their own way back: through f at the starts.
        x = torch.cat([x, field.at(on_device(times.start[ranks.samples], x), x)], dim=1)
        if field.held is not None:
            # The pull-back through implicit steps calls the field again.
            field.held.settle(trained_parameters(field.field))
    ends: list[Tensor] = []
    reached: list[_Reached] = []
    for rank in ranks:
        taken = stepper.step(rank.samples, rank.steps, x, rank.going_on, rank.inside)
        x = taken.onward
        if taken.read is not None:
            rows = rank.inside.rows
            ends.append(taken.read)
            reached.append(_Reached(rank.inside.outputs, rank.samples[rows], np.arange(len(rows)), len(rows)))
        rows, outputs = rank.ended
        if len(rows):
            ends.append(taken.end[:, : y0.shape[1]])
            reached.append(_Reached(outputs, rank.samples[rows], rows, len(rank.samples)))
    places, of = times.repeats()
    out: Tensor = _Outputs.apply(ys, places, of, reached, y0, *ends)  # type: ignore[no-untyped-call]
    return out


class _OrderContext(Protocol):
    samples: HostIntegers
    batch: int


class _Ordered(torch.autograd.Function):
    """The rows of these samples, in this order: an index that nothing has to be saved for."""

    @staticmethod
    def forward(ctx: _OrderContext, y: Tensor, samples: HostIntegers) -> Tensor:
        ctx.samples, ctx.batch = samples, len(y)
        return y.index_select(0, at(samples, y))

    @staticmethod
    def backward(ctx: _OrderContext, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grad,) = grads
        return grad.new_zeros((ctx.batch, grad.shape[1])).index_add(0, at(ctx.samples, grad), grad), None


@dataclass(frozen=True)
class _Reached:
    """Which outputs of which samples are which of ``count`` rows."""

    outputs: HostIntegers
    samples: HostIntegers
    rows: HostIntegers
    count: int


class _OutputsContext(Protocol):
    places: HostIntegers
    of: HostIntegers
    reached: Sequence[_Reached]


class _Outputs(torch.autograd.Function):
    """The states at the outputs, whose values are known: only the way back to the ends of steps is left to do."""

    @staticmethod
    def forward(
        ctx: _OutputsContext,
        ys: Tensor,
        places: HostIntegers,
        of: HostIntegers,
        reached: Sequence[_Reached],
        *ends: Tensor,  # noqa: ARG004
    ) -> Tensor:
        ctx.places, ctx.of, ctx.reached = places, of, reached
        return ys

    @staticmethod
    def backward(ctx: _OutputsContext, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grad,) = grads
        batch, n = grad.shape[1:]
        flat = grad.reshape(-1, n)
        if len(ctx.places):
            flat = flat.index_add(0, at(ctx.of, flat), flat.index_select(0, at(ctx.places, flat)))
        of_ends = []
        for each in ctx.reached:
            own = flat.index_select(0, at(each.outputs * batch + each.samples, flat))
            if len(each.rows) == each.count:
                of_ends.append(own)
            else:
                of_ends.append(flat.new_zeros((each.count, n)).index_add(0, at(each.rows, flat), own))
        return None, None, None, None, grad[0], *of_ends
