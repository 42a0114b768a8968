"""The claims of Liu, Chen and Theodorou, "Second-Order Neural ODE Optimizer" (NeurIPS 2021)."""

from odegrad.reports.papers.claim import Arm, Claim, Statistic
from odegrad.reports.papers.quantity import END_TIME_CHANGE, MEAN_END_TIME, METRIC_AS_LOSS, TARGET_SECONDS

PAPER = "snopt"
TASKS = ("digits", "circles", "japanese_vowels")
"""Images, flows, time series."""

END_TIME_TASKS = ("digits",)
"""Tasks whose integration time can be trained."""

SNOPT = Arm("adjoint", "snopt")
FIRST_ORDER = {name: Arm("adjoint", name) for name in ("adam", "sgd")}
FEEDBACK = Arm("adjoint", "snopt", (("t1_policy", "feedback"),))
FIRST_ORDER_TIME = Arm("adjoint", "snopt", (("t1_policy", "baseline"),))

CLOSE = 1.5
"""Times a first-order training's seconds that still count as close to it; our choice, the paper's is not known."""

CONSTANT = 0.1
"""Largest exponent of memory in steps that counts as O(1): ten times the steps, a quarter more memory."""

SAME_METRIC = 0.02
"""By how much a final metric may be worse, relative to its size, and still count as the same; our choice."""


def _faster_than(name: str) -> Claim:
    return Claim(
        identifier=f"snopt-1-{name}",
        paper=PAPER,
        sentence=f"SNOpt gets to a good test metric in less wall-clock time than {name}, on all three kinds of task.",
        tasks=TASKS,
        method=SNOPT,
        baseline=FIRST_ORDER[name],
        quantity=TARGET_SECONDS,
        statistic=Statistic.RATIO,
        margin=1.0,
    )


def _better_than(name: str) -> Claim:
    return Claim(
        identifier=f"snopt-3-{name}",
        paper=PAPER,
        sentence=f"After the same number of iterations SNOpt's test metric is better than that of {name}.",
        tasks=TASKS,
        method=SNOPT,
        baseline=FIRST_ORDER[name],
        quantity=METRIC_AS_LOSS,
        statistic=Statistic.CHANGE,
        margin=0.0,
    )


CLAIMS = (
    *(_faster_than(name) for name in FIRST_ORDER),
    Claim(
        identifier="snopt-2-memory",
        paper=PAPER,
        sentence="SNOpt's memory does not grow with the depth of the ODE, which is the number of its solver's steps.",
        tasks=TASKS,
        method=SNOPT,
        baseline=None,
        quantity="peak_bytes",
        statistic=Statistic.EXPONENT,
        margin=CONSTANT,
        least_seeds=1,  # a count of bytes: the same for every seed on the same fixed grid
    ),
    Claim(
        identifier="snopt-2-time",
        paper=PAPER,
        sentence="An iteration of SNOpt, refreshes included, costs about as much time as one of a first-order method.",
        tasks=TASKS,
        method=SNOPT,
        baseline=FIRST_ORDER["adam"],
        quantity="train_seconds",
        statistic=Statistic.RATIO,
        margin=CLOSE,
    ),
    *(_better_than(name) for name in FIRST_ORDER),
    Claim(
        identifier="snopt-4-shorter",
        paper=PAPER,
        sentence="The feedback policy finds a shorter integration time than it starts from.",
        tasks=END_TIME_TASKS,
        method=FEEDBACK,
        baseline=None,
        quantity=END_TIME_CHANGE,
        statistic=Statistic.VALUE,
        margin=1.0,
    ),
    Claim(
        identifier="snopt-4-accuracy",
        paper=PAPER,
        sentence="The shorter integration time costs no accuracy.",
        tasks=END_TIME_TASKS,
        method=FEEDBACK,
        baseline=SNOPT,
        quantity=METRIC_AS_LOSS,
        statistic=Statistic.CHANGE,
        margin=SAME_METRIC,
    ),
    Claim(
        identifier="snopt-4-sooner",
        paper=PAPER,
        sentence="The feedback policy gets to short integration times sooner than the first-order one: the mean over "
        "the training is smaller.",
        tasks=END_TIME_TASKS,
        method=FEEDBACK,
        baseline=FIRST_ORDER_TIME,
        quantity=MEAN_END_TIME,
        statistic=Statistic.RATIO,
        margin=1.0,
    ),
)
