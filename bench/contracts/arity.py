"""Functions of a user's that take other arguments than they are given: a sentence in the place of Python's."""

import inspect
from collections.abc import Callable
from typing import TypeVar

from torch import nn

from odegrad.errors import UsageError

_Found = TypeVar("_Found")


def told(argument: str, form: str, function: Callable[..., _Found], *given: object) -> _Found:
    """Return ``function(*given)``.

    Parameters
    ----------
    argument
        As which the user has handed it in.
    form
        How it is called: ``event_fn(t, y)``.
    function, given
        What is called, and with what.

    Raises
    ------
    UsageError
        If the function does not take so many arguments.
    """
    try:
        return function(*given)
    except TypeError:
        refuse_arity(argument, form, function, len(given))
        raise


def refuse_arity(argument: str, form: str, function: object, count: int) -> None:
    """Raise if ``function`` cannot be called with ``count`` arguments: to be asked where a call has failed.

    Raises
    ------
    UsageError
        If it cannot.
    """
    called, owner = function, None
    while isinstance(called, nn.Module):
        # A wrapper takes what it is given; what it calls is the user's.
        inside = next((getattr(called, name) for name in ("inner", "method") if hasattr(called, name)), None)
        owner = type(called).__name__ if inside is None else None
        called = called.forward if inside is None else inside
    if not callable(called):
        raise UsageError(f"{argument}: expected a function, called as {form}, got {type(called).__name__}")
    try:
        signature = inspect.signature(called)
    except (TypeError, ValueError):
        return
    try:
        signature.bind(*[None] * count)
    except TypeError:
        name = owner or getattr(called, "__name__", type(called).__name__)
        raise UsageError(
            f"{argument}: expected a function of {count} argument{'s' * (count != 1)}, called as {form}, got {name}"
            f"{signature}; let it take these"
        ) from None
