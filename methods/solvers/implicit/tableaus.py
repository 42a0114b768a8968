"""The implicit tableaus that odegrad ships.

Each is held by a test against the rooted trees of its order; all adaptive ones are stiffly accurate ESDIRK of stage
order 2, whose stability function vanishes at infinity.
"""

import math
from fractions import Fraction

from odegrad.methods.solvers.implicit.tableau import ImplicitTableau

IMPLICIT_EULER = ImplicitTableau(
    "implicit_euler", 1, 0, "Hairer and Wanner, Solving ODEs II, IV.3", 1.0, ((),), (1.0,), (1.0,), explicit_first=False
)

IMPLICIT_MIDPOINT = ImplicitTableau(
    "implicit_midpoint", 2, 0, "Gauss's method of one stage: Hairer and Wanner, Solving ODEs II, IV.5",
    0.5, ((),), (1.0,), (0.5,), explicit_first=False,
)  # fmt: skip


def _difference(b: tuple[float, ...], embedded: tuple[float, ...]) -> tuple[float, ...]:
    return tuple(x - y for x, y in zip(b, embedded, strict=True))


def _tr_bdf2() -> ImplicitTableau:
    """Return the trapezoidal rule followed by the backward differentiation formula of order 2, on one diagonal."""
    g, w = 1.0 - math.sqrt(2.0) / 2.0, math.sqrt(2.0) / 4.0
    b = (w, w, g)
    embedded = ((1.0 - w) / 3.0, (3.0 * w + 1.0) / 3.0, g / 3.0)
    return ImplicitTableau(
        "tr_bdf2", 2, 3, "Hosea and Shampine, Analysis and implementation of TR-BDF2, 1996",
        g, ((), (g,), (w, w)), b, (0.0, 2.0 * g, 1.0), _difference(b, embedded),
    )  # fmt: skip


def _kvaerno3() -> ImplicitTableau:
    """Return Kvaerno's method of order 3; its diagonal is the middle root of ``x^3 - 3 x^2 + 3 x / 2 - 1 / 6``."""
    g = 0.43586652150845899942
    middle = ((-4 * g**2 + 6 * g - 1) / (4 * g), (1 - 2 * g) / (4 * g))
    last = ((6 * g - 1) / (12 * g), -1 / ((24 * g - 12) * g), (-6 * g**2 + 6 * g - 1) / (6 * g - 3))
    b = (*last, g)
    return ImplicitTableau(
        "kvaerno3", 3, 2, "Kvaerno, Singly diagonally implicit Runge-Kutta methods with an explicit first stage, 2004",
        g, ((), (g,), middle, last), b, (0.0, 2 * g, 1.0, 1.0), _difference(b, (*middle, g, 0.0)),
    )  # fmt: skip


KENCARP4_ROWS: tuple[tuple[Fraction, ...], ...] = (
    (),
    (Fraction(1, 4),),
    (Fraction(8611, 62500), Fraction(-1743, 31250)),
    (Fraction(5012029, 34652500), Fraction(-654441, 2922500), Fraction(174375, 388108)),
    (Fraction(15267082809, 155376265600), Fraction(-71443401, 120774400), Fraction(730878875, 902184768),
     Fraction(2285395, 8070912)),
    (Fraction(82889, 524892), Fraction(0), Fraction(15625, 83664), Fraction(69875, 102672), Fraction(-2260, 8211)),
)  # fmt: skip
"""The rows left of the diagonal 1/4, exactly."""
KENCARP4_EMBEDDED: tuple[Fraction, ...] = (
    Fraction(4586570599, 29645900160), Fraction(0), Fraction(178811875, 945068544), Fraction(814220225, 1159782912),
    Fraction(-3700637, 11593932), Fraction(61727, 225920),
)  # fmt: skip


def _kencarp4() -> ImplicitTableau:
    """Return the implicit half of ARK4(3)6L[2]SA."""
    b = (*KENCARP4_ROWS[-1], Fraction(1, 4))
    return ImplicitTableau(
        "kencarp4", 4, 3, "Kennedy and Carpenter, Additive Runge-Kutta schemes, 2003: ARK4(3)6L[2]SA",
        0.25, tuple(tuple(map(float, row)) for row in KENCARP4_ROWS), tuple(map(float, b)),
        (0.0, 0.5, 83 / 250, 31 / 50, 17 / 20, 1.0),
        tuple(float(x - y) for x, y in zip(b, KENCARP4_EMBEDDED, strict=True)),
    )  # fmt: skip


def _kvaerno5() -> ImplicitTableau:
    """Return Kvaerno's method of order 5. A stage lies at c = 1.2303: f is called outside the interval at its end."""
    g = 0.26
    embedded = (0.13855640231268224, 0.0, -0.04245337201752043, 0.02446657898003141, 0.61943039072480676)
    last = (0.13659751177640291, 0.0, -0.05496908796538376, -0.04118626728321046, 0.62993304899016403,
            0.06962479448202728)  # fmt: skip
    rows = (
        (), (g,), (0.13, 0.84033320996790809), (0.22371961478320505, 0.47675532319799699, -0.06470895363112615),
        (0.16648564323248321, 0.10450018841591720, 0.03631482272098715, -0.13090704451073998), embedded, last,
    )  # fmt: skip
    b = (*last, g)
    c = tuple(math.fsum((*row, g)) if i else 0.0 for i, row in enumerate(rows))
    return ImplicitTableau(
        "kvaerno5", 5, 4, "Kvaerno, Singly diagonally implicit Runge-Kutta methods with an explicit first stage, 2004",
        g, rows, b, (*c[:-2], 1.0, 1.0), _difference(b, (*embedded, g, 0.0)),
    )  # fmt: skip


IMPLICIT_TABLEAUS: dict[str, ImplicitTableau] = {
    tableau.name: tableau
    for tableau in (IMPLICIT_EULER, IMPLICIT_MIDPOINT, _tr_bdf2(), _kvaerno3(), _kencarp4(), _kvaerno5())
}
"""Implicit tableaus by name."""
