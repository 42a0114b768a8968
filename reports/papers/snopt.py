"""The claims of Liu, Chen and Theodorou, "Second-Order Neural ODE Optimizer" (NeurIPS 2021)."""

from functools import partial

from odegrad.reports.papers.claim import SAME_COST, SAME_METRIC, Arm, Claim, Statistic
from odegrad.reports.papers.quantity import (
    BASELINE_TARGET_SECONDS,
    END_TIME_CHANGE,
    MEAN_END_TIME,
    METRIC_AS_LOSS,
)

SNOPT_PAPER = "snopt"
SNOPT_TASKS = ("digits", "circles", "japanese_vowels")
"""Images, flows, time series."""
NINE = (
    "mnist", "svhn", "cifar10",
    "character_trajectories", "articulary_word_recognition", "spoken_arabic_digits",
    "circles", "gas", "miniboone",
)  # fmt: skip
"""The paper's own tasks, which size ``paper`` takes."""

END_TIME_TASKS = ("digits",)
"""Tasks whose integration time can be trained."""

ADJOINT_SNOPT = Arm("adjoint", "snopt")
FIRST_ORDER = {name: Arm("adjoint", name) for name in ("adam", "sgd")}
FEEDBACK = Arm("adjoint", "snopt", (("t1_policy", "feedback"),))
FIRST_ORDER_TIME = Arm("adjoint", "snopt", (("t1_policy", "baseline"),))

CLOSE = 1.5
"""Times a first-order training's seconds that still count as close to it; our choice, the paper's is not known."""

CONSTANT = 0.1
"""Largest exponent of memory in steps that counts as O(1): ten times the steps, a quarter more memory."""

_of_snopt = partial(Claim, paper=SNOPT_PAPER, tasks=SNOPT_TASKS, method=ADJOINT_SNOPT)
_of_end_time = partial(Claim, paper=SNOPT_PAPER, tasks=END_TIME_TASKS, method=FEEDBACK, suite="paper-snopt-horizon")

SNOPT_CLAIMS = (
    *(
        _of_snopt(
            identifier=f"snopt-1-{name}",
            sentence=f"SNOpt gets to the test metric that {name} ends at in less wall-clock time than {name} does, on "
            "every kind of task.",
            baseline=arm,
            quantity=BASELINE_TARGET_SECONDS,
            statistic=Statistic.RATIO,
            margin=1.0,
            equal_within=SAME_COST,
        )
        for name, arm in FIRST_ORDER.items()
    ),
    _of_snopt(
        identifier="snopt-2-memory",
        sentence="SNOpt's memory does not grow with the depth of the ODE, which is the number of its solver's steps.",
        baseline=None,
        quantity="peak_bytes",
        statistic=Statistic.EXPONENT,
        margin=CONSTANT,
        suite="paper-snopt-depth",
        deterministic=True,  # a count of bytes: the same for every seed on the same fixed grid
    ),
    _of_snopt(
        identifier="snopt-2-time",
        sentence="An iteration of SNOpt, refreshes included, costs about as much time as one of a first-order method.",
        baseline=FIRST_ORDER["adam"],
        quantity="train_seconds",
        statistic=Statistic.RATIO,
        margin=CLOSE,
    ),
    *(
        _of_snopt(
            identifier=f"snopt-3-{name}",
            sentence=f"After the same number of iterations SNOpt's test metric is better than that of {name}.",
            baseline=arm,
            quantity=METRIC_AS_LOSS,
            statistic=Statistic.CHANGE,
            margin=0.0,
            equal_within=SAME_METRIC,
        )
        for name, arm in FIRST_ORDER.items()
    ),
    _of_end_time(
        identifier="snopt-4-shorter",
        sentence="The feedback policy finds a shorter integration time than it starts from.",
        baseline=None,
        quantity=END_TIME_CHANGE,
        statistic=Statistic.VALUE,
        margin=1.0,
    ),
    _of_end_time(
        identifier="snopt-4-accuracy",
        sentence="The shorter integration time costs no accuracy.",
        baseline=ADJOINT_SNOPT,
        quantity=METRIC_AS_LOSS,
        statistic=Statistic.CHANGE,
        margin=SAME_METRIC,
    ),
    _of_end_time(
        identifier="snopt-4-sooner",
        sentence="The feedback policy gets to short integration times sooner than the first-order one: the mean over "
        "the training is smaller.",
        baseline=FIRST_ORDER_TIME,
        quantity=MEAN_END_TIME,
        statistic=Statistic.RATIO,
        margin=1.0,
        equal_within=SAME_COST,
    ),
)
