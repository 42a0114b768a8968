"""Costs at equal gradient error: curves whose ratio is known, and sweeps from records."""

import dataclasses
import math

import numpy as np
import pytest

from odegrad.records.record import Status
from odegrad.reports.equal_error import RatioBound, bounded_ratio, ratio_at_equal_error
from odegrad.reports.papers import irdm
from odegrad.reports.papers.decision import Answer
from odegrad.reports.papers.equal_error import sweep_rows
from odegrad.reports.papers.verdict import decide
from odegrad.reports.summary import Results

INF = math.inf


def curve(*points):
    return np.array(points, dtype=float).reshape(-1, 2)


@pytest.mark.parametrize(("mine", "base", "ratio"), [
    (curve((1e-6, 20), (1e-3, 10)), curve((1e-6, 40), (1e-3, 20)), 0.5),  # half everywhere
    (curve((1e-6, 80), (1e-2, 20)), curve((1e-4, 20)), 2.0),  # 40 in the middle of two decades on a log scale
    (curve((1e-6, 30), (1e-4, 10)), curve((1e-4, 20), (1e-2, 10)), 0.5),  # one error in common
    (curve((1e-6, 30), (1e-5, 10)), curve((1e-4, 20), (1e-2, 10)), math.nan),  # none
    (curve((1e-4, 10), (1e-2, 10)), curve((1e-4, 10), (1e-2, 40)), 0.5),  # from 1 to 1/4: 1/2 on average
    (curve(), curve((1e-4, 10)), math.nan),
])  # fmt: skip
def test_ratio_by_hand(mine, base, ratio):
    """Logarithms of costs are linear in those of errors; beyond the measured errors nothing is said."""
    assert ratio_at_equal_error(mine, base) == pytest.approx(ratio, nan_ok=True)
    assert ratio_at_equal_error(base, mine) == pytest.approx(1 / ratio, nan_ok=True)


def test_ratio_is_that_of_two_power_laws():
    """C e^-p over d e^-q, integrated by a fine grid; the knots of the two curves are unlike."""
    errors = [np.logspace(-6, -2, 5), np.logspace(-7, -3, 9)]
    mine, base = (np.column_stack([e, c * e**-p]) for e, c, p in zip(errors, (3.0, 2.0), (0.2, 0.3), strict=True))
    grid = np.linspace(math.log(1e-6), math.log(1e-3), 10_001)
    expected = math.exp(np.mean(math.log(3 / 2) + (0.3 - 0.2) * grid))
    assert ratio_at_equal_error(mine, base) == pytest.approx(expected)


@pytest.mark.parametrize(("mine", "base", "ratio", "bound"), [
    ([(1e-6, 8.0), (1e-5, 4.0)], [(1e-6, 4.0), (1e-5, 2.0)], 2.0, RatioBound.EQUAL),
    ([(1e-8, 8.0), (1e-7, 4.0)], [(1e-5, 10.0), (1e-3, 10.0)], 0.4, RatioBound.AT_MOST),
    ([(1e-5, 10.0), (1e-3, 10.0)], [(1e-8, 8.0), (1e-7, 4.0)], 2.5, RatioBound.AT_LEAST),
    ([(1e-8, 4.0)], [(1e-5, 16.0), (1e-3, 4.0)], 0.5, RatioBound.AT_MOST),  # the mean logarithm over the other's errors
    ([(1e-8, 4.0)], [(1e-5, 16.0)], 0.25, RatioBound.AT_MOST),
    ([], [(1e-5, 16.0)], math.nan, RatioBound.EQUAL),
])  # fmt: skip
def test_the_cheapest_cost_of_the_more_exact_one_bounds_the_ratio(mine, base, ratio, bound):
    """It reaches the other's errors at no more than that; nothing is made up where they have errors in common."""
    curves = [np.array(curve, dtype=float).reshape(-1, 2) for curve in (mine, base)]
    found = bounded_ratio(*curves)
    assert found == (pytest.approx(ratio, nan_ok=True), bound)


CLAIM = dataclasses.replace(
    next(c for c in irdm.IRDM_CLAIMS if c.identifier == "irdm-2-adjoint"), tasks=("digits",), suite=""
)  # fmt: skip


@pytest.fixture
def swept(record, frame_of):
    """Return a function that makes six seeds of both methods from error and calls at each tolerance; None: failed."""

    def make(mine, base, **more):
        runs = []
        for method, points in (("interpolation", mine), ("adjoint", base)):
            for place, point in enumerate(points):
                settings = {"rtol": 10.0 ** -(3 + place), **(more if method == "interpolation" else {})}
                for seed in range(6):
                    if point is None:
                        runs.append(record("digits", method, seed, Status.DIVERGED, "x", settings=settings))
                        continue
                    error, calls = point
                    runs.append(
                        record(
                            "digits", method, seed, settings=settings, trained_gradient_relative_error=error,
                            trace_nfe_backward=[calls - 6, calls, calls + 6], nfe_backward=14,
                        )
                    )  # fmt: skip
        return frame_of(runs)

    return make


@pytest.mark.parametrize(("mine", "base", "answer", "effect"), [
    ([(2e-4, 32), (2e-5, 44)], [(2e-4, 32), (2e-5, 44)], Answer.EQUAL, 1.0),
    ([(2e-4, 20), (2e-5, 30)], [(2e-4, 40), (2e-5, 60)], Answer.HOLDS, 0.5),
    ([(2e-5, 44)], [(2e-4, 32)], Answer.OPEN, math.nan),  # more calls, but a tenth of the error
    ([(2e-4, 40), (2e-5, 60), (3e-5, 70)], [(2e-4, 20), (2e-5, 30)], Answer.FAILS, 2.0),  # a beaten run is left out
    ([(2e-3, 14), (2e-4, 14)], [(2e-3, 28), (2e-4, 28)], Answer.HOLDS, 0.5),  # calls that no tolerance changes
    ([(2e-4, 14)], [(2e-3, 28), (2e-5, 28)], Answer.HOLDS, 0.5),  # between two errors that cost the same
    ([(2e-4, 20), None], [None, None], Answer.HOLDS, 0.0),
    ([None], [(2e-4, 20)], Answer.FAILS, INF),
    ([None], [None], Answer.OPEN, math.nan),
])  # fmt: skip
def test_claims_at_equal_error(mine, base, answer, effect, swept):
    """Calls are those over the training, errors those at its end; the initial counts, 14 for both, say nothing."""
    found = decide(CLAIM, swept(mine, base)).tasks[0]
    assert found.answer is answer
    assert found.effect == pytest.approx(effect, nan_ok=True)


def test_no_common_error_is_said(swept):
    """The reason names it."""
    found = decide(CLAIM, swept([(2e-5, 44)], [(2e-4, 32)])).tasks[0]
    assert found.reason == "nothing comparable: no gradient error is common to both sweeps"


def test_arms_are_told_apart_by_their_options(swept):
    """As published and as improved are two methods; each claim takes its own."""
    published = next(c for c in irdm.IRDM_CLAIMS if c.identifier == "irdm-2-published-adjoint")
    options = published.method.gradient_options
    frame = swept([(2e-4, 20)], [(2e-4, 40)], gradient_options=options)
    assert decide(CLAIM, frame).tasks[0].seeds == 0
    assert decide(dataclasses.replace(CLAIM, method=published.method), frame).tasks[0].effect == pytest.approx(0.5)
    assert published.method.shown == "interpolation normalize_costate=False parameters=state"


def test_rows_of_the_sweep(swept):
    """A row a method and tolerance, the loosest first; medians and ends over seeds."""
    table = sweep_rows(Results.of(swept([(2e-4, 20), (2e-5, 30)], [(2e-4, 40)])))
    assert table[["method", "rtol", "error", "calls", "calls_most", "seeds"]].to_numpy().tolist() == [
        ["adjoint", 1e-3, 2e-4, 40.0, 40.0, 6],
        ["interpolation", 1e-3, 2e-4, 20.0, 20.0, 6],
        ["interpolation", 1e-4, 2e-5, 30.0, 30.0, 6],
    ]
