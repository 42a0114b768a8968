"""The root of a function between two times where its signs differ (Brent 1973, Algorithms for Minimization, ch. 4)."""

import math
from collections.abc import Callable
from typing import NamedTuple

from odegrad.methods.solvers.ends.landing import CLOSE_ENOUGH


class Root(NamedTuple):
    """Where the sign changes, and how large the function is on both sides of it."""

    at: float
    left: float
    """The largest |g| at the two ends of the last bracket; 0.0 where ``at`` is a zero itself."""


def root_between(g: Callable[[float], float], a: float, of_a: float, b: float, of_b: float) -> Root:
    """Return where ``g`` changes its sign between ``a`` and ``b``, to ``CLOSE_ENOUGH`` units in the last place.

    Inverse quadratic interpolation or the secant where they shrink the bracket fast enough, bisection else.

    Parameters
    ----------
    g
        A function. Of a continuous one it is a root; where it jumps, or has a pole, what is ``left`` does not shrink.
    a, b
        Times in either order.
    of_a, of_b
        ``g(a)`` and ``g(b)``, of different signs.
    """
    c, of_c = a, of_a
    step = before = b - a
    while of_b != 0.0:
        if (of_b > 0) == (of_c > 0):
            c, of_c = a, of_a
            step = before = b - a
        if abs(of_c) < abs(of_b):
            # b is the best time so far, c lies on the other side of the root, a is the best one before.
            a, b, c = b, c, b
            of_a, of_b, of_c = of_b, of_c, of_b
        half = 0.5 * (c - b)
        # No nearer than the numbers of the host tell times apart.
        close = 0.5 * CLOSE_ENOUGH * math.ulp(b)
        if abs(half) <= close:
            break
        # Interpolation did not shrink |g| last time: bisect, so that the bracket halves at least every other time.
        if abs(before) < close or abs(of_a) <= abs(of_b):
            step = before = half
        else:
            p, q = _interpolated(a, of_a, b, of_b, c, of_c, half)
            # Taken only inside three quarters of the bracket, and if it is less than half of the step before the last.
            if 2.0 * p < min(3.0 * half * q - abs(close * q), abs(before * q)):
                before, step = step, p / q
            else:
                step = before = half
        a, of_a = b, of_b
        # Never less than the smallest step that tells: else the other end of the bracket would never move.
        b += step if abs(step) > close else math.copysign(close, half)
        of_b = g(b)
    return Root(b, 0.0 if of_b == 0.0 else max(abs(of_b), abs(of_c)))


def _interpolated(
    a: float, of_a: float, b: float, of_b: float, c: float, of_c: float, half: float
) -> tuple[float, float]:
    """Return the step from ``b`` as ``p / q``, ``p`` not negative: by the secant of two times, or of all three."""
    s = of_b / of_a
    if a == c:
        p, q = 2.0 * half * s, 1.0 - s
    else:
        q, r = of_a / of_c, of_b / of_c
        p = s * (2.0 * half * q * (q - r) - (b - a) * (r - 1.0))
        q = (q - 1.0) * (r - 1.0) * (s - 1.0)
    return (p, -q) if p > 0 else (-p, q)
