"""The claims of Daulbaev et al., "Interpolation Technique to Speed Up Gradients Propagation in Neural ODEs" (2020)."""

from odegrad.reports.papers.claim import Arm, Claim, Statistic
from odegrad.reports.papers.quantity import METRIC_AS_LOSS, TARGET_SECONDS

PAPER = "irdm"
TASKS = ("digits", "circles", "vae_digits")
"""Classification, density estimation, inference."""

INTERPOLATION, ADJOINT = Arm("interpolation"), Arm("adjoint")

SAME_METRIC = 0.02
"""By how much a final metric may be worse, relative to its size, and still count as the same; our choice."""

CLAIMS = (
    Claim(
        identifier="irdm-1",
        paper=PAPER,
        sentence="With the interpolation method, training gets to the same test loss in less wall-clock time than "
        "with the adjoint method, in classification, density estimation and inference.",
        tasks=TASKS,
        method=INTERPOLATION,
        baseline=ADJOINT,
        quantity=TARGET_SECONDS,
        statistic=Statistic.RATIO,
        margin=1.0,
    ),
    Claim(
        identifier="irdm-2",
        paper=PAPER,
        sentence="Its backward pass evaluates the dynamics less often than that of the adjoint method.",
        tasks=TASKS,
        method=INTERPOLATION,
        baseline=ADJOINT,
        quantity="nfe_backward",
        statistic=Statistic.RATIO,
        margin=1.0,
    ),
    Claim(
        identifier="irdm-3",
        paper=PAPER,
        sentence="The error of its gradient costs no accuracy: after the same number of iterations the test metric is "
        "as good as with the adjoint method.",
        tasks=TASKS,
        method=INTERPOLATION,
        baseline=ADJOINT,
        quantity=METRIC_AS_LOSS,
        statistic=Statistic.CHANGE,
        margin=SAME_METRIC,
    ),
)
