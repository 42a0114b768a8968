"""The claims of Fronk and Petzold, "The Vanishing Gradient Problem for Stiff Neural Differential Equations" (2025).

arXiv 2508.01519: the derivative of an A-stable method's stability function falls to zero for large stiffness, so that
gradients by the parameters of fast modes vanish, whatever the method. Judged is whether the method is the cause: is
the gradient of the equation itself, which the certificate's reference is, larger?
"""

from functools import partial

from odegrad.reports.papers.claim import SAME_COST, Arm, Claim, Direction, Statistic

PAPER = "stiff-gradients"
TASKS = ("robertson_raw", "pollu", "davis_skodje")
"""Rate constants of two reactions, and a net that is to learn a fast mode; mild enough for an explicit solver."""

A_STABLE = ("kencarp4", "tr_bdf2")
EXPLICIT = Arm("aca", solver="dopri5")
MIN_MISSING = 0.5
"""Share of the true gradient that must be missing to call it lost; our choice."""

_of_paper = partial(Claim, paper=PAPER, tasks=TASKS)

CLAIMS = tuple(
    claim
    for solver in A_STABLE
    for claim in (
        _of_paper(
            identifier=f"stiff-gradients-1-{solver}",
            sentence=f"The gradient by {solver}, an A-stable method, is smaller than by an explicit one.",
            method=Arm("aca", solver=solver),
            baseline=EXPLICIT,
            quantity="gradient_norm",
            statistic=Statistic.RATIO,
            margin=1.0,
            equal_within=SAME_COST,
        ),
        _of_paper(
            identifier=f"stiff-gradients-2-{solver}",
            sentence=f"Most of the equation's own gradient is missing in that by {solver}.",
            method=Arm("aca", solver=solver),
            baseline=None,
            quantity="gradient_relative_error",
            statistic=Statistic.VALUE,
            margin=MIN_MISSING,
            direction=Direction.ABOVE,
        ),
    )
)
