"""A comparison that has little time: what it tells on the way, where it ends, and what it says it does not know."""

import json
from pathlib import Path

import pytest
import torch
from torch import nn

import odegrad
from odegrad.advice import race as races
from odegrad.advice.candidates import Candidate, candidate, measure
from odegrad.advice.race import FEW_ROUNDS, race
from odegrad.errors import UsageError
from odegrad.reference.allowance import Allowance
from odegrad.reference.reference import reference
from odegrad.reference.subject import in_float64, of_model
from odegrad.registry import build_solver
from odegrad.user.models import Model, load_model

EXAMPLE = Path(__file__).parents[3] / "docs" / "examples" / "latent_model.py"


class Decay(nn.Module):
    """``y' = -rate y``."""

    def __init__(self):
        super().__init__()
        self.rate = nn.Parameter(torch.tensor(0.7, dtype=torch.float64))

    def forward(self, t, y):
        return -self.rate * y


Y0 = torch.ones(2, 1, dtype=torch.float64)
TIMES = torch.tensor([0.0, 1.0], dtype=torch.float64)
NAMES = ["naive", "adjoint", "aca"]


class EndsAfter(Allowance):
    """Is over from the given question on."""

    def __init__(self, answers):
        super().__init__(60.0)
        self.answers = answers

    def left(self, share=1.0):
        self.answers -= 1
        return 1e9 if self.answers >= 0 else 0.0


def test_each_stage_and_each_method_is_told_as_it_comes():
    """An estimate first, then the reference, a line a method with its figures, and the timing."""
    lines = []
    odegrad.compare_gradients(Decay(), Y0, TIMES, gradients=NAMES, rounds=1, tell=lines.append)
    assert lines[0].startswith("about ")
    assert "for 3 methods: one gradient by naive takes" in lines[0]
    assert lines[1] == "solving for the float64 reference"
    assert lines[2].startswith("the reference is known to")
    assert [line.partition(":")[0] for line in lines[3:6]] == NAMES
    assert all("accurate, error" in line and "NFE" in line and "peak" in line for line in lines[3:6])
    assert lines[6:] == ["timing 3 methods in rounds"]


def test_no_time_at_all_is_told_plainly():
    """Nothing is measured, nothing is advised, and both are said."""
    table = odegrad.compare_gradients(Decay(), Y0, TIMES, gradients=NAMES, rounds=1, budget=1e-9)
    assert (table["verdict"] == "not measured: the budget of 1e-09 s was spent").all()
    assert table.advice.startswith("No method is advised, since no gradient can be held against a reference: its refer")
    assert table.notes == [
        "The budget of 1e-09 s was spent: naive, adjoint, aca were not measured. A larger budget measures them."
    ]
    assert table.reasons() == []  # the note says it once


def test_what_is_measured_by_then_stands():
    """The first method has its verdict, the others have none of their own."""
    model = Model(Decay(), Y0, TIMES)
    solver = build_solver("dopri5", 1e-5, 1e-6)
    candidates = [candidate(name, solver) for name in NAMES]
    measure(of_model(model), solver, candidates, reference(in_float64(model)), EndsAfter(1))
    assert [c.row["verdict"] for c in candidates] == ["accurate", *["not measured: the budget of 60 s was spent"] * 2]


def test_methods_without_a_time_are_not_advised():
    """Two are timed before the time is over; the third one is accurate and has no times."""
    candidates = [Candidate(None, None, {"gradient": name, "verdict": "accurate"}) for name in NAMES]
    found = timed(candidates, {"naive": 1.0, "adjoint": 2.0, "aca": 0.5}, EndsAfter(2))
    assert (found.first, found.second, found.rounds) == ("naive", "adjoint", 1)
    assert "forward_seconds" not in candidates[2].row


def test_far_slower_methods_are_timed_a_few_times_only():
    """The two fastest go on to the last round; so does one that was inaccurate and as fast."""
    candidates = [Candidate(None, None, {"gradient": name, "verdict": "accurate"}) for name in [*NAMES, "slow"]]
    candidates[2].row["verdict"] = "inaccurate: off by 1"
    times = {"naive": 1.0, "adjoint": 1.05, "aca": 1.0, "slow": 4.0}
    calls = []
    found = timed(candidates, times, Allowance(), calls, rounds=7)
    assert (found.first, found.second) == ("naive", "adjoint")
    assert {name: calls.count(name) for name in times} == {"naive": 7, "adjoint": 7, "aca": 7, "slow": FEW_ROUNDS}
    assert candidates[3].row["forward_seconds"] == 4.0


def timed(candidates, times, allowance, calls=None, rounds=2):
    """Race with the given seconds in place of a clock."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(races._Runner, "run", _runs(times, calls))
        return race(None, candidates, rounds, allowance)


def _runs(times, calls):
    def run(self, _subject):
        name = self.candidate.row["gradient"]
        if calls is not None:
            calls.append(name)
        self.forward.append(times[name])
        self.backward.append(0.0)

    return run


@pytest.mark.parametrize("budget", [0.0, -1.0])
def test_wrong_budget_is_refused(budget):
    with pytest.raises(UsageError, match="budget: expected a positive number of seconds or None, got"):
        odegrad.compare_gradients(Decay(), Y0, TIMES, budget=budget)


def test_latent_model_is_the_one_that_it_says():
    """A state of 4 in a batch of 16 that an encoder's graph leads to, a field 4-20-4, thirty outputs."""
    model = load_model(f"{EXAMPLE}:build")
    assert tuple(model.y0.shape) == (16, 4)
    assert model.y0.requires_grad
    assert [tuple(p.shape) for p in model.field.parameters()] == [(20, 4), (20,), (4, 20), (4,)]
    assert len(model.ts) == 30


def test_shell_tells_progress_on_standard_error(run_main):
    """Standard output holds the JSON alone; the error stream has the lines, the first before the model is read."""
    arguments = ("compare", f"{EXAMPLE}:build", "--gradients", "naive,adjoint", "--rounds", "1", "--budget", "1000")
    code, out, error = run_main(*arguments, "--json")
    found = json.loads(out)
    assert code == 0
    assert found["notes"] == []
    lines = error.splitlines()
    assert "0 s  reading" in lines[0]
    assert "for at most about 1000 s (--budget)" in lines[0]
    assert all(word in error for word in ("one gradient by naive takes", "solving", "known to", "timing 2 methods"))
    assert sum(": accurate" in line for line in lines) == 2
