"""Curvature samples at the ends of accepted steps, for methods whose pull-back passes from step to step."""

from collections.abc import Sequence
from contextlib import nullcontext
from typing import NamedTuple

from torch import Tensor

from odegrad.contracts import SamplingObserver, Tap
from odegrad.methods.backward.products import pull_call
from odegrad.methods.solvers.dynamics import FlatField
from odegrad.methods.solvers.implicit.tableau import Implicit
from odegrad.methods.solvers.schemes import Reversible, Scheme
from odegrad.methods.solvers.stepper import GridStep
from odegrad.methods.solvers.switching.scheme import Switching


class StepEnd(NamedTuple):
    """Where a step ends and the next one begins, as a pull-back comes by."""

    n: int
    """Steps before it."""
    x: Tensor
    """The carried vector there, or the state ``[d]``."""
    a: Tensor
    """Its cotangent by all that comes later; that of an output at this very time is left out."""
    a_partner: Tensor | None = None
    """The cotangent of the reversible wrapper's second copy, where ``a`` is the first one's."""


class StepEndSampler:
    """Feeds a tap with states and costates at the ends of the accepted steps, with trapezoid weights.

    The costate jumps where there is an output: such a time is sampled on both sides, each with its own step's weight.
    Weights are never negative (a tableau's own may be), so the sums of outer products stay positive semi-definite.

    The cotangents that a method carries stand for the costate up to the square of the step: the state's own, and for
    the reversible wrapper the sum of both copies'. The leapfrog's velocity has a part of the second order only. That
    of an implicit step's rate is pulled back to the state, by one f call and one product a sample.

    Parameters
    ----------
    grid
        The accepted steps.
    grads
        ``dL/dys [K, d]``.
    """

    def __init__(self, tap: Tap, field: FlatField, scheme: Scheme, grid: Sequence[GridStep], grads: Tensor) -> None:
        self.tap = tap
        self.field = field
        self.scheme = scheme
        self.grid = grid
        self.grads = grads

    def sample(self, end: StepEnd) -> None:
        """Sample the end of the n-th step (the start of the first one for n = 0)."""
        d = self.grads.shape[1]
        y, costate = end.x.detach()[:d], end.a.detach()[:d]
        # Both copies of the wrapper's state are y up to the method's error: the costate is the sum of both.
        if isinstance(self.scheme, Reversible):
            partner = end.a.detach()[d:] if end.a_partner is None else end.a_partner
            costate = costate + partner if partner.numel() else costate
        if isinstance(self.scheme, Implicit | Switching) and end.a.numel() > d:
            # The carried rate is f at this state: what comes through it belongs to the state.
            t = self.grid[end.n - 1].t_next if end.n else self.grid[0].t
            tap: object = self.tap
            with tap.sampling() if isinstance(tap, SamplingObserver) else nullcontext():
                costate = costate + pull_call(self.field, t, y, end.a.detach()[d:], (), ())[1]
        # A point between two steps ends one trapezoid and begins the next.
        later = _weights(self.grid[end.n])[0] if end.n < len(self.grid) else 0.0
        if end.n == 0:
            self._observe(self.grid[0].t, y, costate, later)
            return
        step = self.grid[end.n - 1]
        earlier = _weights(step)[1]
        if step.ends_at_output:
            self._observe(step.t_next, y, costate, later)
            self._observe(step.t_next, y, costate + self.at_output(end.n), earlier)
        else:
            self._observe(step.t_next, y, costate, earlier + later)

    def at_output(self, n: int) -> Tensor:
        """Return ``dL/dy [d]`` by the outputs at the end of the n-th step; zero if there are none."""
        return self.grads[0] if n == 0 else self.grads[self.grid[n - 1].at_end].sum(0)

    def _observe(self, t: float, y: Tensor, a: Tensor, weight: float) -> None:
        if weight > 0.0:
            layout = self.field.layout
            state, costate = layout.unflatten(y.contiguous()), layout.unflatten(a.contiguous())
            self.tap.observe(self.field.field, t, state, costate, weight)


def _weights(step: GridStep) -> tuple[float, float]:
    """Return the weights of the step's start and end.

    The costate jumps at an output inside the step: what lies before it is known at the start, the rest at the end.
    """
    thetas = step.thetas
    share = sum(thetas) / len(thetas) if thetas else 0.5
    return abs(step.h) * share, abs(step.h) * (1.0 - share)
