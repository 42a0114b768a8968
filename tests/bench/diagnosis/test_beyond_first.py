"""Losses of more than one solve: what they are of in words, and errors that are observed on all of it."""

import re

import pytest
import torch

from odegrad.contracts import Problem
from odegrad.diagnosis.first_solve import first_solve
from odegrad.diagnosis.observation import METHOD_REFUSES, observe
from odegrad.diagnosis.outcomes import Growth, outcome_of
from odegrad.reference.allowance import Allowance, in_silence
from odegrad.reference.subject import of_problem
from odegrad.registry import build_solver, build_task


def built(name: str) -> Problem:
    return build_task(name).build("tiny", 0, torch.device("cpu"), torch.float64)


@pytest.mark.parametrize(
    ("name", "beyond"),
    [
        ("latent_periodic", ""),
        ("bouncing_ball", r"it solves \d+ times and its solves end at events"),
        ("dosing", r"it solves \d+ times"),
    ],
)
def test_what_else_a_loss_is_of(name: str, beyond: str) -> None:
    """One solve to times of each sample's own is one; doses are solves from each to the next."""
    assert re.fullmatch(beyond, first_solve(built(name)).beyond)


def test_methods_that_refuse_events_are_not_safe() -> None:
    """Mali and reversible_rk have no dense output: on the first solve to a known time they would be as good as any."""
    tight = build_solver("dopri5", 1e-5, 1e-6)
    subject = of_problem(built("integrate_and_fire"))
    seen = observe(subject, ["aca", "mali", "reversible_rk"], tight, 1e-2, Allowance(None), in_silence)
    grown = Growth((0.0, 0.0), (0.0, 0.0), 0.0)
    found = [outcome_of(each, seen.true, grown, {}, 1e-2, torch.float32) for each in seen.methods]
    assert found[0].verdict == "safe"
    for outcome in found[1:]:
        assert outcome.verdict.startswith(f"{METHOD_REFUSES}: event_fn: solver ")
        assert "it has no dense output" in outcome.verdict
        assert (outcome.observed, outcome.safe_rtol) == (None, 0.0)
