"""A canary per pass: whether the instruments are still those that were there before any code of a user's was loaded.

It tells a process in which the measured code has replaced a clock, a counter or the certificate, by accident or on
purpose. It is no wall: code in the same process that looks for the canary itself can silence it (``docs/trust.md``).
"""

import ctypes
import sys
import time
from collections.abc import Iterator
from time import perf_counter, process_time
from types import FunctionType, ModuleType

import torch

from odegrad.errors import InstrumentsError
from odegrad.measuring.meters import Clock
from odegrad.reference.certificate import digest
from odegrad.reference.two_ways import relative_distance

SEALED = ("odegrad.measuring.", "odegrad.reference.", "odegrad.records.rounds")
"""Modules whose functions must stay as they were."""

FOREIGN = {
    (time, "perf_counter"): perf_counter,
    (time, "process_time"): process_time,
    (time, "monotonic"): time.monotonic,
    (torch.autograd, "grad"): torch.autograd.grad,
    (torch.autograd, "backward"): torch.autograd.backward,
    (torch.linalg, "vector_norm"): torch.linalg.vector_norm,
    (torch.cuda, "synchronize"): torch.cuda.synchronize,
}
"""Functions of other modules that the instruments stand on."""

KERNEL_SECONDS = 0.002
"""How long the known kernel takes."""

CLOCK_SHARE = 0.5
"""By how much the clock may differ from the system's, relative to the kernel: other processes take turns between."""

CLOCK_TRIES = 5

KNOWN_DIGEST = "d509ff101307dd20"
"""That of the gradient of ``sum(x**3)`` at x = 1, 2, 3: 3, 12, 27 in float64."""


class _TimeSpec(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))


_LIBRARY = ctypes.CDLL(None)
_MONOTONIC = 1
_sealed: dict[str, int] = {}


def _system_seconds() -> float:
    """Return the system's monotonic clock, read without Python's."""
    now = _TimeSpec()
    _LIBRARY.clock_gettime(_MONOTONIC, ctypes.byref(now))
    return float(now.seconds) + float(now.nanoseconds) * 1e-9


def seal() -> None:
    """Note the instruments as they are; called once, before any code of a user's is loaded."""
    if not _sealed:
        _sealed.update(_codes())


def check_instruments() -> None:
    """Time a known kernel, certify a known gradient, and compare the instruments with those that were noted.

    Raises
    ------
    InstrumentsError
        If one of them has been replaced or does not tell the truth; the message names it.
    """
    for (module, name), function in FOREIGN.items():
        if getattr(module, name) is not function:
            raise _replaced(f"{module.__name__}.{name}")
    now = _codes()
    for name, code in _sealed.items():
        if now.get(name) != code:
            raise _replaced(name)
    if sys.platform == "linux" and not any(_clock_agrees() for _ in range(CLOCK_TRIES)):
        raise InstrumentsError("the clock does not agree with the system's: the measured code has changed it")
    _certify_known()


def _replaced(name: str) -> InstrumentsError:
    return InstrumentsError(
        f"{name} is not the function that was there before the measured code was loaded, so nothing that was measured "
        "counts; leave the instruments alone"
    )


def _clock_agrees() -> bool:
    clock = Clock(torch.device("cpu"))
    begin = _system_seconds()
    with clock:
        while _system_seconds() - begin < KERNEL_SECONDS:
            pass
    true = _system_seconds() - begin
    return abs(clock.seconds - true) <= CLOCK_SHARE * true


def _certify_known() -> None:
    x = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64, requires_grad=True)
    (found,) = torch.autograd.grad((x**3).sum(), x)
    true = torch.tensor([3.0, 12.0, 27.0], dtype=torch.float64)
    exact, off = relative_distance(found, true), relative_distance(1.5 * found, true)
    if not (exact == 0.0 and abs(off - 0.5) < 1e-12 and digest(found) == KNOWN_DIGEST):
        raise InstrumentsError("a known gradient is not certified as it is: the measured code has changed how")


def _codes() -> dict[str, int]:
    """Return the identity of the code of every function and method of the instruments."""
    found: dict[str, int] = {}
    for name, module in list(sys.modules.items()):
        if name.startswith(SEALED) and isinstance(module, ModuleType):
            found.update((f"{name}.{where}", id(code)) for where, code in _functions(module))
    return found


def _functions(module: ModuleType) -> Iterator[tuple[str, object]]:
    for name, thing in vars(module).items():
        if isinstance(thing, FunctionType):
            yield name, thing.__code__
        elif isinstance(thing, type) and thing.__module__ == module.__name__:
            for method, function in vars(thing).items():
                if isinstance(function, FunctionType):
                    yield f"{name}.{method}", function.__code__
