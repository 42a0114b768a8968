"""Where a field is known: a path through data that drives it has a first and a last time."""

import dataclasses
from collections.abc import Iterator
from functools import partial
from types import FunctionType, MethodType

import torch
from torch import Tensor, nn

from odegrad.errors import UsageError
from odegrad.event import Event

AT_ITS_ENDS = 4
"""So many units in the last place behind an end are its own rounding, as a number of another type."""


def known_interval(field: object) -> tuple[float, float] | None:
    """Return the first and the last time at which all that ``field`` reaches is known; None where nothing says."""
    # Not by the protocol, whose check looks members up in every module at every solve.
    ends = [ends for module in _reached(field) if (ends := vars(module).get("known_between")) is not None]
    return (max(first for first, _ in ends), min(last for _, last in ends)) if ends else None


def refuse_outside(field: object, ts: object) -> None:
    """Raise where the times ``ts``, ``[K]`` or ``[batch, K]``, leave what ``field`` is known in.

    Raises
    ------
    UsageError
        If they do.
    """
    interval = known_interval(field)
    if interval is None or not isinstance(ts, Tensor) or not ts.is_floating_point() or ts.numel() == 0:
        return
    times = ts.detach()
    _refuse(interval, float(times.min()), float(times.max()), times.dtype)


def ends_within(event: Event, field: object, t0: object, *, reverse: bool) -> Event:
    """Return ``event``, looked for up to the end of what ``field`` is known in where it has no ``t_max``.

    Raises
    ------
    UsageError
        If the start ``t0`` or ``t_max`` lies outside.
    """
    interval = known_interval(field)
    if interval is None or not isinstance(t0, Tensor) or t0.numel() != 1:
        return event
    start = float(t0.detach())
    if event.t_max is None:
        _refuse(interval, start, start, t0.dtype)
        return dataclasses.replace(event, t_max=interval[0 if reverse else 1])
    limit = float(event.t_max)
    _refuse(interval, min(start, limit), max(start, limit), t0.dtype)
    return event


def _refuse(interval: tuple[float, float], first: float, last: float, dtype: torch.dtype) -> None:
    rounding = AT_ITS_ENDS * torch.finfo(dtype).eps * max(map(abs, interval))
    if first < interval[0] - rounding or last > interval[1] + rounding:
        outside = first if first < interval[0] - rounding else last
        raise UsageError(
            f"ts: expected times from {interval[0]:g} to {interval[1]:g}, where the path that drives the field is "
            f"known, got {outside:g}; end the solve there, give the path later observations, or build it with "
            "extrapolate=True"
        )


def _reached(field: object) -> Iterator[nn.Module]:
    """Yield the modules of ``field``, or those that a function reads by name: it has no list of them."""
    if isinstance(field, nn.Module):
        for module in field.modules():
            yield module
            # A wrapper of what is no module.
            if isinstance(vars(module).get("inner"), FunctionType | MethodType | partial):
                yield from _reached(vars(module)["inner"])
    elif isinstance(field, MethodType):
        yield from _reached(field.__self__)
    elif isinstance(field, partial):
        for part in (field.func, *field.args, *field.keywords.values()):
            yield from _reached(part)
    elif isinstance(field, FunctionType):
        read = [field.__globals__.get(name) for name in field.__code__.co_names]
        read += [_content(cell) for cell in field.__closure__ or ()]
        for value in read:
            if isinstance(value, nn.Module):
                yield from _reached(value)


def _content(cell: object) -> object:
    try:
        return getattr(cell, "cell_contents", None)
    except ValueError:  # it is not filled yet
        return None
