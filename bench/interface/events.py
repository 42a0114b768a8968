"""``odeint_event`` with torchdiffeq's arguments: solves that end at an event, whose time has a gradient."""

from collections.abc import Callable

import torch
from torch import Tensor

from odegrad.contracts import StateT
from odegrad.errors import UsageError
from odegrad.event import CrossingDirection, Event, EventFn
from odegrad.interface.arguments import Func
from odegrad.interface.solves import EventSolution, odeint
from odegrad.methods.events.solve import accumulates, checked_start

_AT_ONCE = "_odegrad_events_at_once"
"""Attribute of an event's time: how many events in a row it has not moved from."""


def odeint_event(
    func: Func[StateT],
    y0: StateT,
    t0: Tensor,
    *,
    event_fn: EventFn,
    reverse_time: bool = False,
    t_max: float | Tensor | None = None,
    direction: CrossingDirection = 0,
    first_excluded: bool = True,
    event_samples: int = 3,
    required: bool = True,
    odeint_interface: Callable[..., object] = odeint,
    **kwargs: object,
) -> EventSolution:
    """Solve ``dy/dt = func(t, y)``, ``y(t0) = y0`` until ``event_fn(t, y)`` crosses zero; drop-in for torchdiffeq's.

    The time of the event and the state there move with whatever they depend on: ``y0``, ``t0``, the parameters of
    ``func`` and those of ``event_fn`` (Chen, Amos and Nickel, ICLR 2021). A reset is plain code behind the call, and
    the next call starts where this one has ended; its gradient is right with every gradient method.

    Parameters
    ----------
    func, y0
        As ``odeint``.
    t0
        Start time, a tensor of one number; may require a gradient.
    event_fn
        One number, a function of time and state. Its parameters are those of the ``nn.Module`` that it is, or is a
        method of; a function that depends on another trained tensor is refused. An ``Event`` brings the next arguments
        but ``reverse_time`` with it.
    reverse_time
        Solve in decreasing time.
    t_max
        The last time at which an event may be, a number or a tensor of one, by which what is returned has a gradient
        where there is no event; None for none but ``max_steps``.
    direction
        1: only where ``event_fn`` rises along the solve, -1: only where it falls, 0: both.
    first_excluded
        Whether a zero at the start itself is left out: where a solve starts at the event that the last has ended at.
    event_samples
        At how many times inside of each step ``event_fn`` is looked at, beside its end.
    required
        Whether it is an error that there is no event up to ``t_max``. False ends the solve there: ``found`` of what is
        returned is False then, and time and state are those of a solve to ``t_max``.
    odeint_interface
        ``odeint``, ``odeint_adjoint``, or a function that hands its arguments on to one of them.
    **kwargs
        Its other arguments: ``rtol``, ``atol``, ``method``, ``options``, ``gradient``, ...

    Returns
    -------
    EventSolution
        The time of the event, 0-d, and the states ``[2, *state]``, or a tuple of such: ``y0``, and the one just before
        the event. ``found`` says whether there was one.

    Raises
    ------
    UsageError
        If an argument is not what is said here, or the solver cannot end at an event.
    EventError
        If there is no event before ``t_max`` or within ``max_steps``; if it is grazed, so that its time has no
        derivative; if a hundred events in a row do not move the time.
    NonFiniteError
        If ``event_fn`` is not finite.
    """
    start = checked_start(t0).reshape(1)
    told = (t_max, direction, first_excluded, event_samples)
    event = event_fn if isinstance(event_fn, Event) else Event(event_fn, *told, required=required)
    if event is event_fn and (*told, required) != (None, 0, True, 3, True):
        raise UsageError(
            "event_fn: expected a function beside t_max, direction, first_excluded, event_samples or required, got an "
            "Event, which holds these itself; give them to the Event"
        )
    # The second time tells the way only.
    beyond = start.detach() + (-1.0 if reverse_time else 1.0) * (1.0 + start.detach().abs())
    found = odeint_interface(func, y0, torch.cat([start, beyond]), event_fn=event, **kwargs)
    if not isinstance(found, EventSolution):
        raise UsageError(
            "odeint_interface: expected odegrad.odeint, odegrad.odeint_adjoint, or a function that hands event_fn on "
            f"to one of them and returns what it returns, got one of {getattr(odeint_interface, '__module__', '?')}"
        )
    at_once = accumulates(float(t0.detach()), float(found.event_t.detach()), getattr(t0, _AT_ONCE, 0), t0.dtype)
    setattr(found.event_t, _AT_ONCE, at_once)
    return found
