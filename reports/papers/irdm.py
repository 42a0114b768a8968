"""The claims of Daulbaev et al., "Interpolation Technique to Speed Up Gradients Propagation in Neural ODEs" (2020)."""

from functools import partial

from odegrad.reports.papers.claim import SAME_METRIC, Arm, Claim, Statistic
from odegrad.reports.papers.quantity import BASELINE_TARGET_SECONDS, METRIC_AS_LOSS

PAPER = "irdm"
TASKS = ("digits", "circles", "vae_digits")
"""Classification, density estimation, inference."""

_claim = partial(Claim, paper=PAPER, tasks=TASKS, method=Arm("interpolation"), baseline=Arm("adjoint"))

CLAIMS = (
    _claim(
        identifier="irdm-1",
        sentence="With the interpolation method, training gets to the same test loss in less wall-clock time than "
        "with the adjoint method, in classification, density estimation and inference.",
        quantity=BASELINE_TARGET_SECONDS,
        statistic=Statistic.RATIO,
        margin=1.0,
        tolerance=SAME_METRIC,  # the trainings are the same but for the gradients' errors: chance puts one ahead
    ),
    _claim(
        identifier="irdm-2",
        sentence="Its backward pass evaluates the dynamics less often than that of the adjoint method.",
        quantity="nfe_backward",
        statistic=Statistic.RATIO,
        margin=1.0,
    ),
    _claim(
        identifier="irdm-3",
        sentence="The error of its gradient costs no accuracy: after the same number of iterations the test metric is "
        "as good as with the adjoint method.",
        quantity=METRIC_AS_LOSS,
        statistic=Statistic.CHANGE,
        margin=SAME_METRIC,
    ),
)
