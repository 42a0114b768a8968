"""Explicit steps on rows with a graph, whose values are those of steps without one."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from odegrad.methods.solvers.per_sample.rows import RowField
from odegrad.methods.solvers.per_sample.stages import ReadInside, RowStages, RowSteps
from odegrad.methods.solvers.per_sample.times import HostIntegers
from odegrad.methods.solvers.step import KnownValue, WeightsContext
from odegrad.methods.solvers.tableau import Tableau
from odegrad.states import sent_to


class GraphRows(Protocol):
    """Makes steps with a graph, of rows that get fewer from the end."""

    def step(self, samples: HostIntegers, steps: RowSteps, x: Tensor, going_on: int, inside: ReadInside) -> "TakenRows":
        """Take a step from ``x``, of which the first ``going_on`` rows have another; read outputs inside of it."""
        ...


@dataclass(frozen=True)
class TakenRows:
    """A step of rows with its graph."""

    end: Tensor
    """What is carried of all rows."""
    onward: Tensor
    """The same of the first ones, which have another step."""
    read: Tensor | None = None
    """The states ``[m, n]`` inside; None where none are read."""


class GraphRowStepper:
    """Makes explicit steps with a graph, of rows that get fewer from the end."""

    def __init__(self, field: RowField, tableau: Tableau) -> None:
        self.field = field
        self.tableau = tableau
        self.first: Tensor | None = None

    def step(
        self,
        samples: HostIntegers,  # noqa: ARG002
        steps: RowSteps,
        x: Tensor,
        going_on: int,
        inside: ReadInside,
    ) -> TakenRows:
        """Take a step from the states ``x [rows, n]``."""
        tableau, stages = self.tableau, RowStages(self.tableau, x.detach())
        times, h = steps.sent(tableau, x)
        stages.set_sizes(h, steps.h)
        weights = stages.buffer.weights
        each = torch.split(weights.used_weights[:, None, None], [len(used) for used in weights.used])
        start, ks = x.detach(), list[Tensor]()

        def keep(k: Tensor) -> None:
            stages.k[len(ks)].copy_(k.detach())
            ks.append(k)

        keep(self.field.at(times[0], x) if self.first is None else self.first)
        z = x
        for i in range(1, tableau.stages):
            with torch.no_grad():
                value = stages.combine(start, i - 1)
            z = _RowCombination.apply(value, each[i - 1], h, x, *[ks[j] for j in weights.used[i - 1]])
            if i < tableau.stages - 1:
                keep(self.field.at(times[i], z))
        # Rows that go on are taken out, so that the graph of what follows holds none of those that do not.
        onward = z if going_on == len(z) else z[:going_on].clone()
        if not len(inside):
            self.first = self.field.at(times[-1, :going_on], onward) if going_on else None
            return TakenRows(z, onward)
        # What is read inside needs the last stage of rows that end here, too.
        last = self.field.at(times[-1], z)
        keep(last)
        self.first = last if going_on == len(z) else last[:going_on].clone()
        return TakenRows(z, onward, _read(stages.dense_weights(inside), inside, x, ks))


def _read(weights: Tensor, inside: ReadInside, y: Tensor, ks: Sequence[Tensor]) -> Tensor:
    """Return ``y + sum_i w_i k_i [m, n]`` with its graph, by the weights ``[s, m, 1]`` of the continuous extension."""
    rows = sent_to(y.device, torch.from_numpy(inside.rows))
    total = y.index_select(0, rows)
    for weight, k in zip(weights.unbind(0), ks, strict=True):
        total = torch.addcmul(total, weight, k.index_select(0, rows))
    return total


class _RowCombination(KnownValue):
    """``y + h sum_j w_j k_j`` with a size ``h [rows, 1]`` for each row and weights ``[stages, 1, 1]``."""

    @staticmethod
    def setup_context(ctx: WeightsContext, inputs: tuple[Tensor, ...], output: Tensor) -> None:  # noqa: ARG004
        _, ctx.weights, ctx.h, *_ = inputs

    @staticmethod
    def backward(ctx: WeightsContext, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grad,) = grads
        # One product for all stages, whose rows autograd takes as they are.
        return None, None, None, grad, *torch.mul(ctx.weights, grad * ctx.h).unbind(0)
