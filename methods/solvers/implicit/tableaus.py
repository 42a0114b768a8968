"""The implicit tableaus that odegrad ships.

Each is held by a test against the rooted trees of its order; all adaptive ones are stiffly accurate ESDIRK of stage
order 2, whose stability function vanishes at infinity.
"""

import math
from fractions import Fraction

from odegrad.methods.solvers.implicit.additive import ExplicitPartner
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

KENCARP4_EXPLICIT_ROWS: tuple[tuple[Fraction, ...], ...] = (
    (),
    (Fraction(1, 2),),
    (Fraction(13861, 62500), Fraction(6889, 62500)),
    (Fraction(-116923316275, 2393684061468), Fraction(-2731218467317, 15368042101831),
     Fraction(9408046702089, 11113171139209)),
    (Fraction(-451086348788, 2902428689909), Fraction(-2682348792572, 7519795681897),
     Fraction(12662868775082, 11960479115383), Fraction(3355817975965, 11060851509271)),
    (Fraction(647845179188, 3216320057751), Fraction(73281519250, 8382639484533),
     Fraction(552539513391, 3454668386233), Fraction(3354512671639, 8306763924573), Fraction(4040, 17871)),
)  # fmt: skip
"""The rows of its explicit partner, which are published to 25 digits. Weights and times are the implicit half's."""
KENCARP4_DENSE: tuple[tuple[Fraction, ...], ...] = (
    (Fraction(6943876665148, 7220017795957), Fraction(-54480133, 30881146), Fraction(6818779379841, 7100303317025)),
    (Fraction(0), Fraction(0), Fraction(0)),
    (Fraction(7640104374378, 9702883013639), Fraction(-11436875, 14766696), Fraction(2173542590792, 12501825683035)),
    (Fraction(-20649996744609, 7521556579894), Fraction(174696575, 18121608),
     Fraction(-31592104683404, 5083833661969)),
    (Fraction(8854892464581, 2390941311638), Fraction(-12120380, 966161), Fraction(61146701046299, 7138195549469)),
    (Fraction(-11397109935349, 6675773540249), Fraction(3843, 706), Fraction(-17219254887155, 4939391667607)),
)  # fmt: skip
"""For each stage the weights of ``theta``, ``theta^2``, ``theta^3`` in the pair's dense output of order 3."""


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

KENCARP4_PARTNER = ExplicitPartner(
    "kencarp4_imex",
    tuple(tuple(map(float, row)) for row in KENCARP4_EXPLICIT_ROWS),
    tuple(tuple(map(float, row)) for row in KENCARP4_DENSE),
)
"""The explicit half of ARK4(3)6L[2]SA."""

ADDITIVE_PAIRS: dict[str, tuple[ImplicitTableau, ExplicitPartner]] = {
    KENCARP4_PARTNER.name: (IMPLICIT_TABLEAUS["kencarp4"], KENCARP4_PARTNER)
}
"""Implicit methods with the explicit one that goes beside them, by the pair's name."""
