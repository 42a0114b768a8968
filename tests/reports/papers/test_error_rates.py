"""How often verdicts are wrong where there is no effect, and right where there is one: simulated from a seed."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from odegrad.reports.statistics import ERROR_RATE, least_seeds

PATH = Path(__file__).parents[2] / "make_error_rates.py"


def _script():
    spec = importlib.util.spec_from_file_location("make_error_rates", PATH)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


rates = _script()


@pytest.mark.parametrize("effects", list(rates.EFFECTS))
@pytest.mark.parametrize("tasks", [1, 3, 9])
@pytest.mark.parametrize("seeds", rates.SEEDS)
def test_no_answer_is_wrong_more_often_than_said(seeds, tasks, effects):
    """Each of the three, on any task of the claim, in at most 5 % of samples; with too few seeds never."""
    found = rates.wrong(seeds, tasks, effects)
    assert max(found) <= ERROR_RATE
    assert max(found) == 0.0 or seeds >= least_seeds(tasks)


def test_the_old_rule_would_fail_here():
    """Three seeds, three tasks, no effect: that every seed of some task lies beyond comes up in a third of samples."""
    effects = rates.EFFECTS["normal"](np.random.default_rng(0), (rates.SAMPLES, 3, 3))
    assert (effects > 0).all(axis=2).any(axis=1).mean() == pytest.approx(1 - (7 / 8) ** 3, abs=0.02)
    assert rates.wrong(3, 3, "normal") == [0.0, 0.0, 0.0]


@pytest.mark.parametrize(("seeds", "tasks", "least"), [(6, 1, 0.6), (8, 1, 0.85), (15, 1, 0.95), (15, 3, 0.9)])
def test_an_effect_that_is_there_is_found(seeds, tasks, least):
    """1.5 standard deviations of a seed; and equal costs are found to be so within 2."""
    assert min(rates.right(seeds, tasks)) >= least


@pytest.mark.parametrize("effects", list(rates.EFFECTS))
@pytest.mark.parametrize(("methods", "tied"), [(2, 2), (3, 2), (3, 3), (7, 2), (7, 4), (7, 7)])
@pytest.mark.parametrize("seeds", [2, 6, 8, 12])
def test_nobody_is_named_best_among_equals(seeds, methods, tied, effects):
    """In at most 5 % of samples, whether all are equal or only the best."""
    assert rates.named_best(seeds, methods, tied, effects) <= ERROR_RATE


def test_rates_in_the_documents_are_those_simulated():
    """The page holds what the script writes."""
    text = rates.PAGE.read_text(encoding="utf-8")
    assert rates.page(text) == text
