"""Output times: their checks, and the gradient with respect to them that every method shares."""

import itertools
import math

import torch
from torch import Tensor

from odegrad.errors import UsageError
from odegrad.methods.solvers.dynamics import FlatField
from odegrad.methods.solvers.opaque import Context, without_derivative

NO_SECOND = "detach the times where a second derivative by the state or parameters is wanted, or take differences"
"""What has a second derivative in the place of times, with any gradient method."""


def checked_times(ts: object) -> list[float]:
    """Return the output times ``[K]`` as floats.

    Raises
    ------
    UsageError
        If ``ts`` is not a 1-d floating-point tensor of at least two finite, strictly monotone times.
    """
    if not isinstance(ts, Tensor) or ts.dim() != 1 or not ts.is_floating_point():
        got = f"shape {tuple(ts.shape)} of {ts.dtype}" if isinstance(ts, Tensor) else type(ts).__name__
        own = "; times of each sample's own, [batch, K], need batch = 'per_sample'" if _is_table(ts) else ""
        raise UsageError(f"ts: expected a 1-d floating-point tensor of output times, got {got}{own}")
    times: list[float] = ts.detach().tolist()
    if len(times) < 2:
        raise UsageError(f"ts: expected at least two times (start and end), got {len(times)}")
    if not all(math.isfinite(t) for t in times):
        raise UsageError(f"ts: expected finite times, got {times}")
    steps = [b - a for a, b in itertools.pairwise(times)]
    if not (all(s > 0 for s in steps) or all(s < 0 for s in steps)):
        k = next(i for i, s in enumerate(steps) if s == 0 or (s > 0) != (steps[0] > 0))
        raise UsageError(
            f"ts: expected strictly increasing or strictly decreasing times, got {times[k]!r} then {times[k + 1]!r} "
            f"at position {k}; sort them and remove repeated ones"
        )
    return times


def _is_table(ts: object) -> bool:
    return isinstance(ts, Tensor) and ts.dim() == 2


def start_depends_on_time(y0: Tensor, ts: Tensor, times: list[float], field: FlatField) -> Tensor:
    """Return ``y0 [d]``, from which autograd sees ``dL/dt0 = -f(t0, y0) . dL/dy0``; one f call."""
    # A later start leaves less time to flow: y0 given at t0 moves against f.
    with torch.no_grad():
        f0 = field(times[0], y0.detach()).detach()
    beside = ts[:1].to(y0.device)  # times may lie elsewhere, and autograd hands their gradient back there
    return moves_with_time(y0[None], beside, -f0[None])[0]


def outputs_depend_on_time(ys: Tensor, ts: Tensor, times: list[float], field: FlatField) -> Tensor:
    """Return ``ys [K, d]``, from which autograd sees ``dL/dt_k = f(t_k, y_k) . dL/dy_k``, k >= 1; K - 1 f calls."""
    with torch.no_grad():
        f = torch.stack([field(t, y).detach() for t, y in zip(times[1:], ys.detach()[1:], strict=True)])
    return torch.cat([ys[:1], moves_with_time(ys[1:], ts[1:].to(ys.device), f)])


def moves_with_time(y: Tensor, t: Tensor, f: Tensor) -> Tensor:
    """Return ``y [m, d]``, which autograd sees move with the times ``t [m]`` at the known speed ``f [m, d]``."""
    out: Tensor = _MovesWithTime.apply(y, t, f)  # type: ignore[no-untyped-call]
    return out


class _MovesWithTime(torch.autograd.Function):
    """States ``y [m, d]`` that move with their times ``t [m]`` at the known speed ``f [m, d]``."""

    @staticmethod
    def forward(y: Tensor, t: Tensor, f: Tensor) -> Tensor:  # noqa: ARG004
        return y.clone()

    @staticmethod
    def setup_context(ctx: Context, inputs: tuple[Tensor, ...], output: Tensor) -> None:  # noqa: ARG004
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Context, *grads: Tensor) -> tuple[Tensor | None, ...]:
        y, t, f = ctx.saved_tensors
        (grad,) = grads
        of_time = (grad.detach() * f).sum(1).to(t.dtype)
        (opaque,) = without_derivative(
            [of_time], [y, t, grad], "the gradient by output times and times of jumps", NO_SECOND
        )
        return grad, opaque, None
