"""Stages of a Runge-Kutta step on flat states: without a graph, or with one that autograd walks back."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from odegrad.methods.fields.surroundings import inside_transform, outside_transforms
from odegrad.methods.solvers.dynamics import Dynamics, FlatField
from odegrad.methods.solvers.tableau import Tableau
from odegrad.states import sent_to

CHAIN_ABOVE = 65_536
"""On a CPU, above this many floats a chain of ``add_`` is faster than one matrix-vector product over the stages."""


@dataclass(frozen=True)
class Weights:
    """A tableau's weights as tensors: for each stage after the first its row of ``a``, then ``b``."""

    rows: tuple[Tensor, ...]
    columns: tuple[Tensor, ...]
    """For each stage but the last its weights in the stages behind it: the columns of ``a`` below the diagonal."""
    used: tuple[tuple[int, ...], ...]
    """The stages with a weight, for each row."""
    used_weights: Tensor
    """The weights of the used stages, row behind row."""
    error: Tensor | None

    @classmethod
    @functools.lru_cache(maxsize=64)
    def of(cls, tableau: Tableau, dtype: torch.dtype, device: torch.device) -> "Weights":
        """Return the weights of ``tableau``, made once: a replay of one step has no time for it."""
        rows = [*tableau.a[1:], tableau.b]
        used = tuple(tuple(j for j, w in enumerate(r) if w != 0.0) for r in rows)
        columns = [[tableau.a[j][i] for j in range(i + 1, tableau.stages)] for i in range(tableau.stages - 1)]
        flat = [r[j] for r, u in zip(rows, used, strict=True) for j in u]
        with outside_transforms():
            made = _resident([*rows, *columns, flat, tableau.error or ()], dtype, device)
        of_columns = slice(len(rows), len(rows) + len(columns))
        error = None if tableau.error is None else made[-1]
        return cls(tuple(made[: len(rows)]), tuple(made[of_columns]), used, made[-2], error)


def _resident(vectors: Sequence[Sequence[float]], dtype: torch.dtype, device: torch.device) -> Sequence[Tensor]:
    """Return the vectors as tensors that stay on ``device``; all of them go to a GPU in one copy."""
    if device.type == "cpu":
        return [torch.tensor(v, dtype=dtype) for v in vectors]
    numbers = torch.tensor([x for v in vectors for x in v], dtype=dtype)
    return torch.split(sent_to(device, numbers), [len(v) for v in vectors])


def dense_weights(tableau: Tableau, h: float, thetas: Sequence[float], like: Tensor) -> Tensor:
    """Return ``h b_i(theta)`` of the continuous extension, ``[m, s]``, in the type and on the device of ``like``."""
    # In float64 on the host: the powers of theta cancel, which float32 would turn into errors of the interpolant.
    rows = [tableau.weights_at(theta) for theta in thetas]
    return sent_to(like.device, torch.tensor(rows, dtype=torch.float64).mul_(h), like.dtype)


class StageBuffer:
    """The stages ``k [s, d]`` of a step, stage by stage in memory, and their combinations.

    Every method combines stages here, with or without a graph, so that all of them compute the same bits.
    """

    def __init__(self, tableau: Tableau, like: Tensor) -> None:
        self.tableau = tableau
        self.k = like.new_empty((tableau.stages, like.numel()))
        self.chained = like.device.type == "cpu" and like.numel() > CHAIN_ABOVE
        self.weights = Weights.of(tableau, like.dtype, like.device)
        self.numbers = (*tableau.a[1:], tableau.b)
        """The weights of every row, which the host knows."""

    def combine(self, y: Tensor, row: int, h: float) -> Tensor:
        """Return ``y + h sum_j w_j k_j [d]``; ``row`` i is the input of stage i + 1, the last one the new state."""
        # One operator while operators are what costs; for large states the chain, which passes over stages without
        # weight. The size alone decides, so every method rounds alike.
        if not self.chained:
            return torch.addmv(y, self.k[: len(self.numbers[row])].t(), self.weights.rows[row], alpha=h)
        out = None
        for j in self.weights.used[row]:
            step = h * self.numbers[row][j]
            out = torch.add(y, self.k[j], alpha=step) if out is None else out.add_(self.k[j], alpha=step)
        return y.clone() if out is None else out

    def error(self, h: float) -> Tensor:
        """Return the estimate of the step's error ``h sum_i e_i k_i [d]``."""
        return torch.mv(self.k.t(), self.weights.error).mul_(h)  # type: ignore[arg-type]

    def dense_weights(self, h: float, thetas: Sequence[float]) -> Tensor:
        """Return ``h b_i(theta)`` of the continuous extension, ``[m, s]``."""
        return dense_weights(self.tableau, h, thetas, self.k)

    def dense(self, y: Tensor, h: float, thetas: Sequence[float]) -> Tensor:
        """Return the continuous extension at ``thetas`` (fractions of the step), ``[m, d]``, in one product."""
        weights = self.dense_weights(h, thetas)
        return torch.addmm(y.expand(len(weights), -1), weights, self.k)

    def polynomial(self, y: Tensor, h: float) -> Tensor:
        """Return the coefficients ``[q + 1, d]`` of the continuous extension in powers of theta.

        Raises
        ------
        UsageError
            If the tableau has no continuous extension.
        """
        self.tableau.weights_at(1.0)
        weights = torch.tensor(self.tableau.dense, dtype=torch.float64).mul_(h).t()
        return torch.cat([y[None], sent_to(y.device, weights, y.dtype) @ self.k])


class Stages(Protocol):
    """Evaluates the stages of a step and combines them."""

    buffer: StageBuffer

    def prepare(self, times: Sequence[float]) -> None:
        """Hear of the times of the coming stages."""
        ...

    def evaluate(self, stage: int, t: float, y: Tensor) -> None:
        """Evaluate the stage at ``(t, y [d])``."""
        ...

    def combine(self, y: Tensor, row: int, h: float) -> Tensor:
        """Return ``y + h sum_j w_j k_j [d]``."""
        ...

    def dense(self, y: Tensor, h: float, thetas: Sequence[float]) -> Tensor:
        """Return the continuous extension at ``thetas``, ``[m, d]``."""
        ...

    def roll(self) -> None:
        """Make the last stage the first."""
        ...


class RatedStages(Stages, Protocol):
    """Stages that may begin with a rate that is known, and hand out theirs."""

    def begin(self, k: Tensor) -> None:
        """Take ``k [d]`` for the first stage."""
        ...

    def rate(self, stage: int) -> Tensor:
        """Return the stage ``[d]``; where there is a graph, with it."""
        ...


class PlainStages:
    """Stages without a graph."""

    def __init__(self, dynamics: Dynamics, tableau: Tableau, like: Tensor) -> None:
        self.dynamics = dynamics
        self.buffer = StageBuffer(tableau, like)
        self.prepare = dynamics.prepare
        self.combine = self.buffer.combine
        self.dense = self.buffer.dense

    def evaluate(self, stage: int, t: float, y: Tensor) -> None:
        """Evaluate the stage at ``(t, y [d])``."""
        self.dynamics.write(t, y, self.buffer.k[stage], stage)

    def begin(self, k: Tensor) -> None:
        """Take ``k [d]`` for the first stage."""
        self.buffer.k[0].copy_(k)

    def rate(self, stage: int) -> Tensor:
        """Return the stage ``[d]``, which the next step writes over."""
        return self.buffer.k[stage]

    def roll(self) -> None:
        """Make the last stage the first."""
        self.buffer.k[0].copy_(self.buffer.k[-1])


class GraphStages:
    """Stages with a graph; their values are those of ``PlainStages`` bit for bit."""

    def __init__(self, field: FlatField, tableau: Tableau, like: Tensor) -> None:
        self.field = field
        self.buffer = StageBuffer(tableau, like)
        self.ks: list[Tensor | None] = [None] * tableau.stages
        self._scaled: tuple[float, Sequence[Tensor]] = (0.0, ())

    def prepare(self, times: Sequence[float]) -> None:
        """Need nothing before a step."""

    def evaluate(self, stage: int, t: float, y: Tensor) -> None:
        """Evaluate the stage at ``(t, y [d])`` and keep its graph."""
        # The graph holds k itself. It has never seen the buffer, so every step may write over that.
        k = self.field(t, y)
        self.buffer.k[stage].copy_(k.detach())
        self.ks[stage] = k

    def begin(self, k: Tensor) -> None:
        """Take ``k [d]`` for the first stage."""
        self.buffer.k[0].copy_(k.detach())
        self.ks[0] = k

    def rate(self, stage: int) -> Tensor:
        """Return the stage ``[d]`` with its graph."""
        found = self.ks[stage]
        return self.buffer.k[stage] if found is None else found

    def combine(self, y: Tensor, row: int, h: float) -> Tensor:
        """Return ``y + h sum_j w_j k_j [d]``."""
        # The value comes from the same sum as without a graph, bit for bit; autograd only learns how to go back.
        # Stages without weight are left out: an edge to them would cost a pull-back of zeros through f.
        with torch.no_grad():
            value = self.buffer.combine(y.detach(), row, h)
        used = [self.ks[j] for j in self.buffer.weights.used[row]]
        out: Tensor = _Combination.apply(value, self._times_h(h)[row], y, *used)
        return out

    def _times_h(self, h: float) -> Sequence[Tensor]:
        """Return ``h`` times the used weights of every row, in one product a step."""
        if self._scaled[0] != h:
            weights = self.buffer.weights
            self._scaled = h, torch.split(weights.used_weights * h, [len(u) for u in weights.used])
        return self._scaled[1]

    def dense(self, y: Tensor, h: float, thetas: Sequence[float]) -> Tensor:
        """Return the continuous extension at ``thetas``, ``[m, d]``."""
        weights = self.buffer.dense_weights(h, thetas)
        with torch.no_grad():
            values = torch.addmm(y.detach().expand(len(weights), -1), weights, self.buffer.k)
        out: Tensor = _DenseOutput.apply(values, weights, y, *self.ks)
        return out

    def roll(self) -> None:
        """Make the last stage the first; the others' graphs are let go."""
        # The stage's node belongs to both steps: f is called once, and pulled back once for the two.
        self.buffer.k[0].copy_(self.buffer.k[-1])
        self.ks = [self.ks[-1], *([None] * (len(self.ks) - 1))]


class WeightsContext(Protocol):
    """What a combination of stages keeps."""

    weights: Tensor
    h: Tensor
    """Of rows that have a size each, ``[rows, 1]``."""


class KnownValue(torch.autograd.Function):
    """A combination of stages whose value is already known: only the pull-back is left to do, or the push forward."""

    generate_vmap_rule = True

    @classmethod
    def apply(cls, *args: Tensor | None) -> Tensor:
        """Return the value, as autograd knows it."""
        if inside_transform():
            found: Tensor = super().apply(*args)  # type: ignore[no-untyped-call]
            return found
        # What PyTorch's own ``apply`` does here beside this is to bind default arguments, of which there are none, by
        # a signature that it finds out anew: a fifth of a solve's time on a small field.
        known: Tensor = super(torch.autograd.Function, cls).apply(*args)  # type: ignore[misc]
        return known

    @staticmethod
    def forward(value: Tensor, *known: Tensor) -> Tensor:  # noqa: ARG004
        """Return the value."""
        return value

    @staticmethod
    def setup_context(ctx: WeightsContext, inputs: tuple[Tensor, ...], output: Tensor) -> None:  # noqa: ARG004
        """Keep the weights, apart from the forward, as transforms of torch.func want it."""
        ctx.weights = inputs[1]


class _Combination(KnownValue):
    """``y + sum_j w_j k_j``."""

    @staticmethod
    def backward(ctx: WeightsContext, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grad,) = grads
        # One product for all stages, whose rows autograd takes as they are.
        return None, None, grad, *torch.outer(ctx.weights, grad).unbind(0)

    @staticmethod
    def jvp(ctx: WeightsContext, *tangents: Tensor | None) -> Tensor | None:
        _, _, of_y, *of_ks = tangents
        terms = [weight * k for weight, k in zip(ctx.weights, of_ks, strict=True) if k is not None]
        return sum(terms, of_y) if of_y is not None else sum(terms[1:], terms[0])


class _DenseOutput(KnownValue):
    """``y + sum_i w_mi k_i`` for rows m."""

    @staticmethod
    def backward(ctx: WeightsContext, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grad,) = grads
        return None, None, grad.sum(0), *(ctx.weights.t() @ grad).unbind(0)

    @staticmethod
    def jvp(ctx: WeightsContext, *tangents: Tensor | None) -> Tensor:
        _, _, of_y, *of_ks = tangents
        terms = [torch.outer(w, k) for w, k in zip(ctx.weights.t(), of_ks, strict=True) if k is not None]
        return sum(terms) if of_y is None else sum(terms, of_y.expand(len(ctx.weights), -1))  # type: ignore[return-value]
