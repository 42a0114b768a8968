"""A field that remembers: what it gives depends on the calls before, and a repeated call is that of another field."""

import weakref
from collections.abc import Callable
from contextlib import AbstractContextManager

import torch
from torch import Tensor, nn

from odegrad.errors import UsageError
from odegrad.methods.fields.held import Held

_ROUNDING = 1e3
"""So many units of rounding two calls may differ by."""

_WITHOUT_MEMORY: "weakref.WeakSet[nn.Module]" = weakref.WeakSet()
"""Fields that write to their attributes, and gave the same."""


def refuse_memory(
    module: object, held: Held, call: Callable[[], Tensor], unheard: Callable[[], AbstractContextManager[None]]
) -> None:
    """Raise if ``module``, which has written to itself in a solve, does not give the same before, behind and again.

    A counter or a cache does not matter, and a field that passes is believed from then on; one that writes to tensors
    is asked behind every solve. What remembers outside of the module (a global, a variable of a closure) is not seen.

    Parameters
    ----------
    module
        The user's field.
    held
        What it held, settled behind the solve.
    call
        Calls it at the start of the solve, with the same numbers each time.
    unheard
        The context in which nobody counts the call.

    Raises
    ------
    UsageError
        If the two answers differ.
    """
    if not isinstance(module, nn.Module) or module in _WITHOUT_MEMORY:
        return
    with torch.no_grad(), held.put_back(), unheard():
        # Cloned: a field may hand out the same tensor again and again.
        now = call().clone()
        held.begin_anew()
        first, second = call().clone(), call()
    size = max(map(_largest, (now, first, second)))
    apart = max(_largest(now - first), _largest(second - first))
    if apart > _ROUNDING * torch.finfo(first.dtype).eps * size:
        names = ", ".join(map(repr, sorted(set(held.written))))
        raise UsageError(
            f"field: it is no function of t and y alone: it writes to {names}, and calls at the start of the solve "
            f"differ by {apart / size:.1e} of their size, so a method that calls it again in the backward pass finds "
            "another field's gradient; leave what changes out of forward (with spectral_norm: put the field into "
            "eval() mode), or use gradient method naive"
        )
    if not held.tensors_written:
        _WITHOUT_MEMORY.add(module)


def _largest(x: torch.Tensor) -> float:
    return float(x.abs().amax()) if x.numel() else 0.0
