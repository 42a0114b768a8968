"""The counted field: f calls, calls with a graph and vector-Jacobian products, by phase."""

import math
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from odegrad.contracts import ImplicitWork, RowCounts, State, Tap, VectorField, pass_on
from odegrad.methods.fields.passing import PassesCalls
from odegrad.states import parts


@dataclass
class Counts:
    """What was counted, by phase: ``forward``, ``recompute`` or ``adjoint``, ``tap``, ``probe``."""

    phase: str = "forward"
    calls: Counter[str] = field(default_factory=Counter)
    halves: Counter[tuple[str, str]] = field(default_factory=Counter)
    """Among ``calls`` those of a half alone of a split field, by phase and half."""
    graph_calls: Counter[str] = field(default_factory=Counter)
    rows: Counter[str] = field(default_factory=Counter)
    """The samples that were called, where each has its own steps."""
    rounds: dict[str, list[RowCounts]] = field(default_factory=dict)
    """The rounds of every solve whose samples have their own steps."""
    vjps: Counter[str] = field(default_factory=Counter)
    accepted_steps: Counter[str] = field(default_factory=Counter)
    rejected_steps: Counter[str] = field(default_factory=Counter)
    outside: Counter[str] = field(default_factory=Counter)
    """Calls at a time outside of the interval of their solve, among ``calls``."""
    work: dict[str, ImplicitWork] = field(default_factory=dict)
    """What implicit steps and their pull-backs have cost."""
    reconstruction_error: float | None = None
    """The largest that a backward pass told; None if none did."""
    scale_log2: int | None = None
    """log2 of the last scale of a float16 field's cotangents; None where none was scaled."""
    scale_retries: int | None = None
    """How often a backward pass was done again because they overflowed."""
    landings: int | None = None
    """How often steps were redone to land on events; None where no solve looked for one."""
    event_evaluations: int | None = None
    times_hidden: bool = False
    """Whether a call's time could not be read, because samples with times of their own were called as one: then
    ``outside`` is not known."""

    def worked(self, work: ImplicitWork) -> None:
        """Add the work of an implicit step."""
        self.work[self.phase] = self.work.get(self.phase, ImplicitWork()) + work

    def solved_in_rounds(self, counts: RowCounts) -> None:
        """Keep the rounds of a solve."""
        self.rounds.setdefault(self.phase, []).append(counts)

    def ended(self, landings: int, evaluations: int) -> None:
        """Add those of a solve that ended at an event, or looked for one up to its limit."""
        self.landings = (self.landings or 0) + landings
        self.event_evaluations = (self.event_evaluations or 0) + evaluations

    def accepted(self, t: float, h: float) -> None:  # noqa: ARG002
        """Count an accepted step."""
        self.accepted_steps[self.phase] += 1

    def rejected(self, t: float, h: float) -> None:  # noqa: ARG002
        """Count a rejected step."""
        self.rejected_steps[self.phase] += 1

    def reconstructed(self, error: float) -> None:
        """Keep the largest error; one that is no number is larger than any."""
        known = self.reconstruction_error
        self.reconstruction_error = max(error if known is None else known, error, key=_size)

    def scaled(self, log2: int, retries: int) -> None:
        """Keep the last scale, and add to the passes that were done again."""
        self.scale_log2, self.scale_retries = log2, (self.scale_retries or 0) + retries

    @contextmanager
    def during(self, phase: str) -> Iterator[None]:
        """Count under ``phase`` inside."""
        before, self.phase = self.phase, phase
        try:
            yield
        finally:
            self.phase = before


def _size(error: float) -> float:
    return math.inf if math.isnan(error) else error


class CountedField(PassesCalls):
    """A field that counts its calls, and the engine passes through its output, and changes nothing.

    A call of one half of a field that is split is a call as well.

    Parameters
    ----------
    inner
        The field.
    counts
        Where to count.
    interval
        The first and the last output time of the solve, or of each sample, in any order, to count the calls outside of
        it; each call then waits for the device.
    """

    def __init__(self, inner: VectorField, counts: Counts, interval: Tensor | None = None) -> None:
        super().__init__()
        self.inner = inner
        self.counts = counts
        self.interval = None if interval is None else interval.detach()
        pass_on(inner, self)

    def called(self, function: Callable[[Tensor, Any], Any], t: Tensor, y: State) -> Any:
        """Return ``function(t, y)``, counted."""
        counts = self.counts
        if function is not self.inner:
            counts.halves[counts.phase, getattr(function, "__name__", "")] += 1
        counts.calls[counts.phase] += 1
        counts.rows[counts.phase] += rows_of(y)
        if self.interval is not None and not counts.times_hidden:
            self._look_at(t.detach(), self.interval)
        dy = function(t, y)
        pieces = parts(dy)
        with_graph = [p for p in pieces if _has_graph(p)]
        if not (torch.is_grad_enabled() and with_graph):
            return dy
        counts.graph_calls[counts.phase] += 1
        marked = iter(_CountPulls.apply(counts, *with_graph))  # type: ignore[no-untyped-call]
        out = tuple(next(marked) if _has_graph(p) else p for p in pieces)
        return out[0] if isinstance(dy, Tensor) else out

    def heard_call(self) -> None:
        """Count a call that happens where this code does not run: its time is not known."""
        self.counts.calls[self.counts.phase] += 1
        self.counts.times_hidden = True

    def heard_product(self) -> None:
        """Count a vector-Jacobian product there."""
        self.counts.vjps[self.counts.phase] += 1

    def _look_at(self, t: Tensor, interval: Tensor) -> None:
        """Count a ``t`` outside of the interval as its own dtype holds it."""
        ends = interval.to(t.dtype)
        outside = ((t < ends.amin()) | (t > ends.amax())).any()
        try:
            self.counts.outside[self.counts.phase] += bool(outside)
        except RuntimeError:  # torch.func's answer where the value of a vectorised tensor is asked for
            self.counts.times_hidden = True


def _has_graph(x: Tensor) -> bool:
    """Return whether ``x`` has a graph, or what a transform of ``torch.func`` has made a batch of."""
    functorch = torch._C._functorch
    while not x.requires_grad and functorch.is_batchedtensor(x):
        x = functorch.get_unwrapped(x)
    return x.requires_grad


def rows_of(y: State) -> int:
    """Return how many samples ``y`` holds; those that a transform of ``torch.func`` has taken out of it included."""
    first = parts(y)[0]
    rows, functorch = len(first) if first.dim() else 1, torch._C._functorch
    while functorch.is_batchedtensor(first):
        place = functorch.maybe_get_bdim(first)
        first = functorch.get_unwrapped(first)
        rows *= first.shape[place]
    return rows


class CountedTap:
    """A tap whose f calls count under ``tap``."""

    def __init__(self, inner: Tap, counts: Counts) -> None:
        self.inner = inner
        self.counts = counts

    def sample_times(self, t0: float, t1: float) -> Any:
        """Return the inner tap's sample times."""
        return self.inner.sample_times(t0, t1)

    def sampling(self) -> AbstractContextManager[None]:
        """Count what a method does for a sample alone under ``tap`` too."""
        return self.counts.during("tap")

    def observe(self, field: VectorField, t: float, y: State, a: State, weight: float) -> None:
        """Let the inner tap observe."""
        with self.sampling():
            self.inner.observe(field, t, y, a, weight)


class _CountPulls(torch.autograd.Function):
    """The identity over all outputs of one f call; its backward runs once per vector-Jacobian product.

    It can be transformed by ``torch.func``: one vectorised call over samples is one call, and so is its product.
    """

    @staticmethod
    def forward(counts: Counts, *outputs: Tensor) -> tuple[Tensor, ...]:  # noqa: ARG004
        return tuple(p.view_as(p) for p in outputs)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[object, ...], output: tuple[Tensor, ...]) -> None:  # noqa: ARG004
        ctx.counts = inputs[0]
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        ctx.counts.vjps[ctx.counts.phase] += 1
        return (None, *grads)

    @staticmethod
    def vmap(info: object, in_dims: tuple[object, ...], counts: Counts, *outputs: Tensor) -> object:  # noqa: ARG004
        return tuple(_CountPulls.apply(counts, *outputs)), in_dims[1:]  # type: ignore[no-untyped-call]
