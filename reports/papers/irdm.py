"""The claims of Daulbaev et al., "Interpolation Technique to Speed Up Gradients Propagation in Neural ODEs" (2020)."""

from functools import partial

from odegrad.reports.papers.claim import SAME_COST, SAME_METRIC, Arm, Claim, Statistic
from odegrad.reports.papers.quantity import BASELINE_TARGET_SECONDS, METRIC_AS_LOSS, TRAINING_NFE_BACKWARD

IRDM = "irdm"
IRDM_TASKS = ("digits", "circles", "vae_digits")
"""Classification, density estimation, inference."""
IRDM_TOLERANCES = "paper-irdm-tolerances"
"""The suite whose records hold costs at several gradient errors."""

ARMS = {
    "": (
        Arm("interpolation"),
        "the interpolation method as improved here (costate scaled, parameter gradient by quadrature)",
    ),
    "published-": (
        Arm("interpolation", gradient_options=(("normalize_costate", False), ("parameters", "state"))),
        "the interpolation method as published (costate as it is, parameter gradient in the solved state)",
    ),
}
"""Two methods that are claimed to be better: what the paper describes, and what became of it here."""
ADJOINTS = {
    "adjoint": (Arm("adjoint"), "the adjoint method with the same improvements on the same solver loop"),
    "torchdiffeq": (
        Arm("torchdiffeq_adjoint"),
        "torchdiffeq's own adjoint as published, on which the paper's code builds",
    ),
}
"""Two baselines: one that shares the loop, and the published implementation, with a loop of its own."""

_claim = partial(Claim, paper=IRDM, tasks=IRDM_TASKS)

IRDM_CLAIMS = (
    *(
        _claim(
            identifier=f"irdm-1-{which}{name}",
            sentence=f"With {method}, training gets to the same test loss in less wall-clock time than with {words}, "
            "in classification, density estimation and inference.",
            method=mine,
            baseline=arm,
            quantity=BASELINE_TARGET_SECONDS,
            statistic=Statistic.RATIO,
            margin=1.0,
            equal_within=SAME_COST,
            tolerance=SAME_METRIC,  # the trainings are the same but for the gradients' errors: chance puts one ahead
        )
        for which, (mine, method) in ARMS.items()
        for name, (arm, words) in ADJOINTS.items()
    ),
    *(
        _claim(
            identifier=f"irdm-2-{which}{name}",
            sentence=f"At the same gradient error the backward pass of {method} evaluates the dynamics less often, "
            f"over the training, than that of {words}.",
            method=mine,
            baseline=arm,
            quantity=TRAINING_NFE_BACKWARD,
            statistic=Statistic.EQUAL_ERROR,
            margin=1.0,
            equal_within=SAME_COST,
            suite=IRDM_TOLERANCES,
        )
        for which, (mine, method) in ARMS.items()
        for name, (arm, words) in ADJOINTS.items()
    ),
    *(
        _claim(
            identifier=f"irdm-3{which and f'-{which[:-1]}'}",
            sentence=f"The error of the gradient costs no accuracy: after the same number of iterations the test "
            f"metric with {method} is as good as with the adjoint method.",
            method=mine,
            baseline=ADJOINTS["adjoint"][0],
            quantity=METRIC_AS_LOSS,
            statistic=Statistic.CHANGE,
            margin=SAME_METRIC,
        )
        for which, (mine, method) in ARMS.items()
    ),
)
