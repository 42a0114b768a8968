"""The gradient of when an event happens and of the state there: one node between two solves.

Along the solution g changes at ``q = g_t + g_y . f``, so ``dt*/dp = -(g_y . dy/dp + g_p) / q`` with dy/dp at fixed time
(Chen, Amos and Nickel, Learning Neural Event Functions, ICLR 2021; Kirches 2006, equation 4.48). From ``s = dL/dt*``
and ``b = dL/dy`` of what follows: ``dL/dg = -(s + b . f) / q``, which autograd takes to the state and to the
parameters of g, beside ``b`` itself. Resets that follow are plain autograd, and the saltation matrix is their product.
"""

import math
from typing import Protocol

import torch
from torch import Tensor

from odegrad.errors import EventError
from odegrad.methods.events.function import EventFunction
from odegrad.methods.solvers.dynamics import FlatField
from odegrad.methods.solvers.opaque import Context, without_derivative


def event_time(function: EventFunction, field: FlatField, end: float, y: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
    """Return the event's time, 0-d in the type of ``like``, and the state ``[d]``, which moves with it; one f call.

    Parameters
    ----------
    function, field
        g and f of the solve.
    end
        The time of the event.
    y
        The state ``[d]`` there, whose graph is that at a fixed time.
    like
        The start time.

    Raises
    ------
    EventError
        If g is grazed: its rate along the solution is zero to rounding, so the event has no derivative.
    """
    with torch.no_grad():
        # f is a number to the derivative of the time: its own change is of second order in the move of the event.
        f = field(end, y.detach()).detach()
    value, by_time, by_state = function.with_derivatives(end, y)
    q = by_time + float(torch.dot(by_state, f))
    # What rounding may leave of q is relative to the terms that q is a sum of, not to q itself.
    size = abs(by_time) + float(torch.linalg.vector_norm(by_state) * torch.linalg.vector_norm(f))
    if size == 0.0:
        raise EventError(
            f"event_fn: at the event, t = {end:g}, its derivatives by time and state are zero, so the time of the "
            "event has none: it grazes zero there, or it depends on neither by differentiable operations (no detach, "
            "sign or comparison)"
        )
    # The root is known to about eps / |q|: from sqrt(eps) down, t* has lost half of its digits and dt*/dp all.
    if abs(q) <= math.sqrt(torch.finfo(y.dtype).eps) * size:
        raise EventError(
            f"event_fn: at t = {end:g} it grazes zero: its rate along the solution, {q:.2g}, is zero to rounding "
            f"beside {size:.2g}, so the time of the event has no derivative (nor has it where events accumulate, "
            "Zeno's paradox); solve under torch.no_grad(), or end the solve before"
        )
    time = torch.full((), end, dtype=like.dtype, device=like.device)
    found: tuple[Tensor, Tensor] = _EventTime.apply(value, y, time, f, q)  # type: ignore[no-untyped-call]
    return found


class _EventTimeContext(Context, Protocol):
    q: float


class _EventTime(torch.autograd.Function):
    """Time and state ``[d]`` of the event where ``value``, which is g there, would stay zero."""

    @staticmethod
    def forward(
        ctx: _EventTimeContext, value: Tensor, y: Tensor, time: Tensor, f: Tensor, q: float
    ) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(value, y, f)
        ctx.q = q
        return time.clone(), y.clone()

    @staticmethod
    def backward(ctx: _EventTimeContext, *grads: Tensor) -> tuple[Tensor | None, ...]:
        value, y, f = ctx.saved_tensors
        of_time, of_state = grads
        # The state moves along f with the time, so its cotangent counts for the time too.
        moved = of_time.detach().to(f) + torch.dot(of_state.detach(), f)
        (of_value,) = without_derivative(
            [(moved / -ctx.q).to(value)],
            [value, y, of_time, of_state],
            "the gradient by the time of an event",
            "solve to fixed times, or take finite differences of the gradient",
        )
        return of_value, of_state, None, None, None
