"""Curvature samples at the ends of accepted steps, for methods whose pull-back passes from step to step."""

from collections.abc import Callable

import torch
from torch import Tensor

from odegrad.contracts import Tap
from odegrad.methods.solvers.dynamics import FlatField
from odegrad.methods.solvers.schemes import Reversible, Scheme
from odegrad.methods.solvers.stepper import GridStep, Step


class StepEnds:
    """Feeds a tap with states and costates at the ends of the accepted steps, with trapezoid weights.

    The costate jumps where there is an output: such a time is sampled on both sides, each with its own step's weight.
    Weights are never negative (a tableau's own may be), so the sums of outer products stay positive semi-definite.

    The cotangents that a method carries stand for the costate up to the square of the step: the state's own, and for
    the reversible wrapper the sum of both copies'. The leapfrog's velocity has a part of the second order only.
    """

    def __init__(self, tap: Tap, field: FlatField, scheme: Scheme) -> None:
        self.tap = tap
        self.field = field
        self.scheme = scheme
        self.grid: list[GridStep] = []
        self.end = torch.zeros(())
        """The last carried vector."""

    def record(self, step: Step) -> None:
        """Hear of an accepted step on the way forward."""
        self.grid.append(step.place)
        self.end = step.x_next.detach()

    def observe(self, n: int, x: Tensor, a: Tensor, grads: Tensor) -> None:
        """Sample the end of the n-th step (the start of the first one for n = 0).

        Parameters
        ----------
        n
            Steps before this time.
        x
            The carried vector there, or the state ``[d]``.
        a
            Its cotangent by all that comes later; that of an output at this very time is left out.
        grads
            ``dL/dys [K, d]``.
        """
        d = grads.shape[1]
        y, costate = x.detach()[:d], a.detach()[:d]
        if isinstance(self.scheme, Reversible) and a.numel() > d:
            costate = costate + a.detach()[d:]
        later = _weights(self.grid[n])[0] if n < len(self.grid) else 0.0
        if n == 0:
            self._sample(self.grid[0].t, y, costate, later)
            return
        place = self.grid[n - 1]
        earlier = _weights(place)[1]
        if place.at_end.start < place.at_end.stop:
            self._sample(place.t_next, y, costate, later)
            self._sample(place.t_next, y, costate + grads[place.at_end].sum(0), earlier)
        else:
            self._sample(place.t_next, y, costate, earlier + later)

    def inside_graph(self, n: int, x: Tensor, grads: Callable[[], Tensor], *, whole: bool) -> None:
        """Let autograd's walk through ``x``, the carried vector after n steps, give the sample.

        ``whole``: its cotangent holds that of an output at this time, which is then taken off again.
        """
        if not x.requires_grad:
            return
        known = x.detach()

        def hook(total: Tensor) -> None:
            ys, a = grads(), total.detach()
            if whole:
                a = a.clone()
                a[: ys.shape[1]] -= ys[0] if n == 0 else ys[self.grid[n - 1].at_end].sum(0)
            self.observe(n, known, a, ys)

        x.register_hook(hook)  # type: ignore[no-untyped-call]

    def _sample(self, t: float, y: Tensor, a: Tensor, weight: float) -> None:
        if weight > 0.0:
            layout = self.field.layout
            state, costate = layout.unflatten(y.contiguous()), layout.unflatten(a.contiguous())
            self.tap.observe(self.field.field, t, state, costate, weight)


def _weights(place: GridStep) -> tuple[float, float]:
    """Return the weights of the step's start and end.

    The costate jumps at an output inside the step: what lies before it is known at the start, the rest at the end.
    """
    thetas = place.thetas
    share = sum(thetas) / len(thetas) if thetas else 0.5
    return abs(place.h) * share, abs(place.h) * (1.0 - share)
