"""Arms that name their solvers: pairs across solvers, and the verdicts on vanishing gradients from known records."""

import dataclasses

import pytest

from odegrad.errors import UsageError
from odegrad.reports.papers.claim import Arm, Claim, Statistic
from odegrad.reports.papers.decision import Answer
from odegrad.reports.papers.stiff_gradients import STIFF_GRADIENTS_CLAIMS, STIFF_TASKS
from odegrad.reports.papers.verdict import decide

SEEDS = range(6)
SMALLER, MISSING = (
    next(c for c in STIFF_GRADIENTS_CLAIMS if c.identifier == f"stiff-gradients-{n}-kencarp4") for n in (1, 2)
)


@pytest.fixture
def records(record, frame_of):
    """Return a function that makes a frame from the norm by dopri5 and by kencarp4, and the error of the latter."""

    def make(explicit, implicit, error, tasks=STIFF_TASKS):
        rows = []
        for task in tasks:
            for seed in SEEDS:
                for solver, norm in (("dopri5", explicit), ("kencarp4", implicit)):
                    measured = {"gradient_norm": norm * (1.0 + seed), "gradient_relative_error": error}
                    rows.append(record(task, "aca", seed, settings={"solver": solver}, **measured))
        return frame_of(rows)

    return make


def test_pairs_across_solvers(records):
    """A gradient of a tenth is smaller on every seed; the ratio is of the same seed's runs, 0.1 and nothing else."""
    found = decide(SMALLER, records(1.0, 0.1, 1e-5))
    assert found.overall.answer is Answer.HOLDS
    for each in found.tasks:
        assert (each.seeds, each.agreeing) == (6, 6)
        assert (each.effect, each.low, each.high) == pytest.approx((0.1, 0.1, 0.1))
    assert "aca on kencarp4" in SMALLER.method.shown


@pytest.mark.parametrize(
    ("implicit", "error", "smaller", "missing"),
    [
        (1.001, 1e-5, Answer.EQUAL, Answer.FAILS),  # the same gradient, and it is the equation's
        (1.5, 0.4, Answer.FAILS, Answer.FAILS),
        (0.2, 0.8, Answer.HOLDS, Answer.HOLDS),  # what the paper says: small, and not the equation's
        (0.2, 1e-5, Answer.HOLDS, Answer.FAILS),  # the explicit one is wrong then, and not this one
    ],
)
def test_verdicts_on_vanishing_gradients(records, implicit, error, smaller, missing):
    """Each claim by the number that it is decided from."""
    frame = records(1.0, implicit, error)
    assert decide(SMALLER, frame).overall.answer is smaller
    assert decide(MISSING, frame).overall.answer is missing


def test_runs_of_another_solver_are_of_no_arm(record, frame_of):
    """A baseline of another solver is no baseline: nothing is decided."""
    rows = [
        record("pollu", "aca", seed, settings={"solver": solver}, gradient_norm=1.0)
        for seed in SEEDS
        for solver in ("tsit5", "kencarp4")
    ]
    found = decide(dataclasses.replace(SMALLER, tasks=("pollu",)), frame_of(rows))
    assert found.overall.answer is Answer.OPEN
    assert "nothing measured" in found.tasks[0].reason


def test_one_arm_alone_with_a_solver_is_refused():
    """Half of a pair would be any solver's."""
    with pytest.raises(UsageError, match="one for both arms or for none"):
        Claim(
            identifier="x", paper="x", sentence="", tasks=("pollu",), method=Arm("aca", solver="kencarp4"),
            baseline=Arm("aca"), quantity="gradient_norm", statistic=Statistic.RATIO, margin=1.0,
        )  # fmt: skip
