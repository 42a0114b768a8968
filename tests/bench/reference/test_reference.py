"""The reference against closed forms, planted faults, kinks and budgets; the verdict's cap over random models."""

import dataclasses
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from odegrad.advice.candidates import candidate, measure
from odegrad.binding import solve_with
from odegrad.reference import reference as references
from odegrad.reference.accuracy import CAPS, accuracy, largest_error
from odegrad.reference.grids import Budget
from odegrad.reference.referee import rule
from odegrad.reference.reference import reference
from odegrad.reference.sensitivity import sensitivity_error
from odegrad.reference.shared import shared_reference
from odegrad.reference.subject import in_float64, of_model, of_problem
from odegrad.reference.two_ways import both, relative_distance
from odegrad.registry import build_gradient, build_solver, build_task
from odegrad.user.models import Model

CPU = torch.device("cpu")
SIZES = ("tiny", "default", "paper")
RESTING = [(task, size) for task in ("equilibrium", "quiet_start") for size in SIZES]
NINE = (
    "contracting", "logistic", "rotation", "lotka_volterra", "van_der_pol", "robertson", "moons", "latent_spiral",
    "digits_mlp",
)  # fmt: skip


def problem_of(task, size="tiny"):
    return build_task(task).build(size, 0, CPU, torch.float64)


def bound(name, tolerance=1e-5, solver="dopri5"):
    return solve_with(build_gradient(name), build_solver(solver, tolerance, tolerance / 10))


@pytest.mark.parametrize(("task", "size"), RESTING)
def test_resting_states_do_not_fool_it(task, size):
    """Both ways meet the closed form to 1e-10, the referee to 1e-8; naive is inaccurate, the adjoint accurate."""
    problem = problem_of(task, size)
    subject = of_problem(problem)
    true = torch.cat([g.reshape(-1) for g in problem.true_gradient(problem.probe_batch())])
    ways = both(subject, Budget())
    assert relative_distance(ways.replayed, true) <= 1e-10
    assert relative_distance(ways.costate, true) <= 1e-10
    assert rule(subject, true, 2 * true, Budget()).first <= 1e-8
    errors = {name: relative_distance(subject.gradient(bound(name)), true) for name in ("naive", "adjoint")}
    limit = largest_error(errors["naive"], 1e-5)
    assert errors["naive"] > 30.0
    assert accuracy(errors["naive"], 1e-12, limit) == "inaccurate"
    assert accuracy(errors["adjoint"], 1e-12, limit) == "accurate"
    assert sensitivity_error(subject, build_solver("dopri5", 1e-5, 1e-6)) > 0.1


@pytest.mark.parametrize(("size", "expected"), list(zip(SIZES, (1.02, 0.94, 0.71), strict=True)))
def test_halved_steps_tell_that_the_state_rests(size, expected):
    """The published figures of equilibrium at k = 5, 10, 20."""
    found = sensitivity_error(of_problem(problem_of("equilibrium", size)), build_solver("dopri5", 1e-5, 1e-6))
    assert found == pytest.approx(expected, abs=0.005)


@pytest.mark.parametrize("task", NINE)
def test_two_ways_agree_on_tasks(task):
    """To 1e-11; and naive backprop through dopri8 at 1e-13, which is right where the state moves, agrees too."""
    subject = of_problem(problem_of(task))
    found = reference(subject)
    assert found.error <= 1e-11
    assert found.reason == ""
    assert relative_distance(subject.gradient(bound("naive", 1e-13, "dopri8")), found.gradient) <= 1e-12


@pytest.mark.parametrize("task", ["moons", "van_der_pol", "lotka_volterra"])
def test_halved_steps_tell_the_error_of_moving_states(task):
    """Where the state moves, the indicator is the error itself, within a tenth."""
    subject = of_problem(problem_of(task))
    error = relative_distance(subject.gradient(bound("naive")), reference(subject).gradient)
    assert sensitivity_error(subject, build_solver("dopri5", 1e-5, 1e-6)) == pytest.approx(error, rel=0.1)


@pytest.mark.parametrize("faulty", ["costate", "replayed"])
def test_planted_fault_is_seen_and_the_other_way_taken(monkeypatch, faulty):
    """A part scaled by 1.001 lets the two differ by 1e-3; differences of the loss take the other side."""

    def with_fault(subject, budget, wanted):
        ways = both(subject, budget, wanted)
        return dataclasses.replace(ways, **{faulty: 1.001 * getattr(ways, faulty)})

    subject = of_problem(problem_of("rotation"))
    sound = reference(subject)
    monkeypatch.setattr(references, "both", with_fault)
    found = reference(subject)
    assert relative_distance(found.gradient, sound.gradient) <= 1e-9
    assert found.error <= 1e-6
    assert found.calls > sound.calls


def test_fault_that_the_differences_cannot_settle_leaves_no_reference(monkeypatch):
    """Two gradients that are both off by much: there is none, and the reason holds the figures."""

    def with_faults(subject, budget, wanted):
        ways = both(subject, budget, wanted)
        return dataclasses.replace(ways, replayed=1.002 * ways.replayed, costate=0.998 * ways.costate)

    monkeypatch.setattr(references, "both", with_faults)
    found = reference(of_problem(problem_of("rotation")))
    assert (found.gradient, found.error) == (None, None)
    assert "two references differ by 4.0e-03" in found.reason


def test_strict_asks_the_referee_anyway():
    """The error is then at least the referee's distance, and its calls count."""
    subject = of_problem(problem_of("logistic"))
    plain, strict = reference(subject), reference(subject, strict=True)
    assert strict.calls > plain.calls
    assert plain.error < strict.error <= 1e-7
    assert torch.equal(plain.gradient, strict.gradient)


def test_budget_ends_in_a_reason():
    """After 100 f calls nothing is known; every verdict on it is undecided."""
    found = reference(of_problem(problem_of("rotation")), budget=100)
    assert (found.gradient, found.error, found.calls) == (None, None, 100)
    assert found.reason == "its reference takes more than 100 f calls"
    assert accuracy(None, found.error, 0.1) == "undecided"


class Kinked(nn.Module):
    """A ReLU net 2-32-2: no high order converges across its kinks."""

    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.inner = nn.Parameter(torch.randn(32, 2, generator=generator, dtype=torch.float64) / math.sqrt(2.0))
        self.outer = nn.Parameter(torch.randn(2, 32, generator=generator, dtype=torch.float64) / math.sqrt(32.0))

    def forward(self, t, y):
        return torch.relu(y @ self.inner.T) @ self.outer.T - y


def test_kinks_leave_the_reference_less_known():
    """It is the costate's, known to between 1e-7 and 1e-2, and naive at 1e-10 lies within what is said."""
    y0 = torch.tensor([[1.0, -0.5], [0.3, 0.8]], dtype=torch.float64)
    ts = torch.tensor([0.0, 3.0], dtype=torch.float64)
    subject = dataclasses.replace(in_float64(Model(Kinked(), y0, ts)), smooth=False)
    found = reference(subject)
    assert 1e-7 < found.error < 1e-2
    tight = subject.gradient(bound("naive", 1e-10))
    assert relative_distance(found.gradient, tight) <= found.error


class Drift(nn.Module):
    """``y' = W y``."""

    def __init__(self):
        super().__init__()
        self.net = nn.Linear(2, 2).double()

    def forward(self, t, y):
        return self.net(y)


@pytest.mark.parametrize(
    ("loss", "reason"),
    [
        (lambda ys: (ys[-1] * math.nan).sum(), "the gradient is not finite"),
        (lambda ys: (ys[-1] * 0.0).sum(), "the gradient is zero, and no error is relative to it"),
    ],
)
def test_nothing_to_hold_a_gradient_against(loss, reason):
    """A gradient of NaN or of zeros is no reference."""
    model = Model(Drift(), torch.ones(1, 2).double(), torch.tensor([0.0, 1.0]).double(), loss)
    found = reference(in_float64(model))
    assert found.gradient is None
    assert found.reason == reason


class BlowsUp(nn.Module):
    """``y' = a y^2`` from 1: infinite at ``t = 1 / a``."""

    def __init__(self):
        super().__init__()
        self.a = nn.Parameter(torch.tensor(2.0, dtype=torch.float64))

    def forward(self, t, y):
        return self.a * y * y


def test_equation_that_cannot_be_solved_is_a_reason():
    """The solver's own first line stands in it."""
    ts = torch.tensor([0.0, 1.0], dtype=torch.float64)
    found = reference(in_float64(Model(BlowsUp(), torch.ones(1, 1, dtype=torch.float64), ts)))
    assert found.gradient is None
    assert found.reason.startswith(("its equation cannot be solved at tight tolerance: ", "its reference takes more"))


def test_reference_is_shared_by_what_it_depends_on(tmp_path, monkeypatch):
    """The same parameters read it from the file; others, or another name, have their own."""
    subject = of_problem(problem_of("linear"))
    first = shared_reference(subject, "linear tiny seed 0", tmp_path)
    monkeypatch.setattr("odegrad.reference.shared.reference", lambda _: pytest.fail("found anew"))
    again = shared_reference(of_problem(problem_of("linear")), "linear tiny seed 0", tmp_path)
    assert torch.equal(again.gradient, first.gradient)
    assert (again.error, again.calls, again.reason) == (first.error, first.calls, first.reason)
    with torch.no_grad():
        subject.inputs[0][0, 0] += 1e-12
    for other, name in ((subject, "linear tiny seed 0"), (of_problem(problem_of("linear")), "linear tiny seed 1")):
        with pytest.raises(pytest.fail.Exception, match="found anew"):
            shared_reference(other, name, tmp_path)


def test_missing_reference_is_shared_too(tmp_path):
    """Its reason comes back from the file."""
    model = Model(Drift(), torch.ones(1, 2).double(), torch.tensor([0.0, 1.0]).double(), zero)
    first, again = (shared_reference(in_float64(model), "mine", tmp_path) for _ in range(2))
    assert first == again
    assert again.gradient is None


def zero(ys):
    return (ys * 0.0).sum()


@given(
    error=st.one_of(st.none(), st.floats(0, 1e30), st.just(math.nan), st.just(math.inf)),
    known=st.one_of(st.none(), st.floats(0, 1.0)),
    naive=st.one_of(st.none(), st.floats(0, 1e30), st.just(math.nan), st.just(math.inf)),
    rtol=st.floats(1e-14, 10.0),
)
@settings(deadline=None, derandomize=True)
def test_nothing_far_off_is_accurate(error, known, naive, rtol):
    """No error above a tenth is accurate, whatever naive's and the tolerance; nor any without a reference."""
    limit = largest_error(naive, rtol)
    verdict = accuracy(error, known, limit)
    assert 0.0 <= limit <= CAPS[1]
    if verdict == "accurate":
        assert error is not None
        assert error + known <= limit <= 0.1
    if error is None or known is None:
        assert verdict == "undecided"
    elif not math.isfinite(error):
        assert verdict == "inaccurate"


@given(seed=st.integers(0, 10_000), exponent=st.integers(-7, -1), steps=st.sampled_from([None, 2, 8]))
@settings(deadline=None, derandomize=True, max_examples=12)
def test_accurate_methods_of_random_models_are(seed, exponent, steps):
    """Random nets at random tolerances or on coarse grids: what is called accurate lies within a tenth of the truth."""
    generator = torch.Generator().manual_seed(seed)
    field = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 3)).double()
    with torch.no_grad():
        for p in field.parameters():
            p.copy_(2.0 * torch.randn(p.shape, generator=generator, dtype=torch.float64))

    class Field(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = field

        def forward(self, t, y):
            return self.net(y)

    y0 = torch.randn(2, 3, generator=generator, dtype=torch.float64)
    model = Model(Field(), y0, torch.tensor([0.0, 1.0], dtype=torch.float64))
    rtol = 10.0**exponent
    name, options = ("dopri5", {}) if steps is None else ("rk4", {"num_steps": steps})
    solver = build_solver(name, rtol, rtol, options)
    candidates = [candidate(name, solver) for name in ("naive", "adjoint", "interpolation")]
    subject, true = of_model(model), reference(in_float64(model))
    measure(subject, solver, candidates, true)
    tight = subject.gradient(bound("naive", 1e-12, "dopri8"))
    for c in candidates:
        if c.row["verdict"].startswith("accurate"):
            assert relative_distance(subject.gradient(solve_with(c.method, c.solver)), tight) <= 0.1
