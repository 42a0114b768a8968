"""The claims of Daulbaev et al., "Interpolation Technique to Speed Up Gradients Propagation in Neural ODEs" (2020)."""

from functools import partial

from odegrad.reports.papers.claim import SAME_METRIC, Arm, Claim, Statistic
from odegrad.reports.papers.quantity import BASELINE_TARGET_SECONDS, METRIC_AS_LOSS

PAPER = "irdm"
TASKS = ("digits", "circles", "vae_digits")
"""Classification, density estimation, inference."""

INTERPOLATION = Arm("interpolation")
ADJOINTS = {
    "adjoint": (Arm("adjoint"), "the adjoint method on the same solver loop"),
    "torchdiffeq": (Arm("torchdiffeq_adjoint"), "torchdiffeq's own adjoint, on which the paper's code builds"),
}
"""Two baselines: one that differs by the method alone, and the published implementation, with a loop of its own."""

_claim = partial(Claim, paper=PAPER, tasks=TASKS, method=INTERPOLATION)

CLAIMS = (
    *(
        _claim(
            identifier=f"irdm-1-{name}",
            sentence="With the interpolation method, training gets to the same test loss in less wall-clock time than "
            f"with {words}, in classification, density estimation and inference.",
            baseline=arm,
            quantity=BASELINE_TARGET_SECONDS,
            statistic=Statistic.RATIO,
            margin=1.0,
            tolerance=SAME_METRIC,  # the trainings are the same but for the gradients' errors: chance puts one ahead
        )
        for name, (arm, words) in ADJOINTS.items()
    ),
    *(
        _claim(
            identifier=f"irdm-2-{name}",
            sentence=f"Its backward pass evaluates the dynamics less often than that of {words}.",
            baseline=arm,
            quantity="nfe_backward",
            statistic=Statistic.RATIO,
            margin=1.0,
        )
        for name, (arm, words) in ADJOINTS.items()
    ),
    _claim(
        identifier="irdm-3",
        sentence="The error of its gradient costs no accuracy: after the same number of iterations the test metric is "
        "as good as with the adjoint method.",
        baseline=ADJOINTS["adjoint"][0],
        quantity=METRIC_AS_LOSS,
        statistic=Statistic.CHANGE,
        margin=SAME_METRIC,
    ),
)
