"""Diagnoses of problems whose growth, costates and errors are known in closed form."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy.interpolate import BarycentricInterpolator
from torch import Tensor, nn

from odegrad.binding import solve_with
from odegrad.checks.limits import contraction_error
from odegrad.checks.problems import SmoothNet, smooth_net_start
from odegrad.diagnosis.bounds import interpolation_bounds
from odegrad.diagnosis.costates import BatchedField, Segment, interpolated, segments, solved
from odegrad.diagnosis.first_solve import first_solve
from odegrad.diagnosis.prediction import Diagnosis, diagnose
from odegrad.diagnosis.trajectory import TrajectoryNorms, log_norms
from odegrad.diagnosis.verdict import is_stiff, nature, sentences
from odegrad.errors import NonFiniteError, UsageError
from odegrad.reference.subject import of_problem
from odegrad.registry import build_gradient, build_solver, build_task
from odegrad.user.models import Model

Y0 = torch.tensor([[1.0, 0.5], [-0.3, 0.8]], dtype=torch.float64)
WEIGHTS = torch.tensor([1.0, 2.0], dtype=torch.float64)
FEW = ["naive", "adjoint", "interpolation", "reversible_rk"]


class Linear(nn.Module):
    """``y' = A y`` with eigenvalues ``values`` along axes turned by half a radian: A is symmetric."""

    def __init__(self, *values: float) -> None:
        super().__init__()
        turn = torch.tensor([[math.cos(0.5), -math.sin(0.5)], [math.sin(0.5), math.cos(0.5)]], dtype=torch.float64)
        self.matrix = nn.Parameter(turn @ torch.diag(torch.tensor(values, dtype=torch.float64)) @ turn.T)

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        return y @ self.matrix.T


class FollowsCosine(nn.Module):
    """``y' = -rate (y - cos t) - sin t``: the solution from y(0) = 1 is cos t, whatever the rate."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = nn.Parameter(torch.tensor(rate, dtype=torch.float64))

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        return -self.rate * (y - torch.cos(t)) - torch.sin(t)


def linear(*values: float, outputs: int = 2, **settings: Any) -> Diagnosis:
    ts = torch.linspace(0.0, 1.0, outputs, dtype=torch.float64)
    model = Model(Linear(*values), Y0, ts, lambda ys: (ys[-1] * WEIGHTS).sum())
    return diagnose("linear", model, **({"methods": FEW} | settings))


@pytest.fixture(scope="module")
def contracting() -> Diagnosis:
    return linear(-1.0, -20.0, rtol=1e-6, atol=1e-9)


def outcome(d: Diagnosis, name: str) -> Any:
    return next(o for o in d.outcomes if o.gradient == name)


def test_growth_is_that_of_the_eigenvalues(contracting: Diagnosis) -> None:
    """A is symmetric: mu_2(A) = -1 and mu_2(-A) = 20 at every time, for every sample."""
    assert contracting.growth.forward == pytest.approx((-1.0, -1.0), abs=1e-10)
    assert contracting.growth.backward == pytest.approx((20.0, 20.0), abs=1e-9)
    assert contracting.growth.backward_interval == pytest.approx(20.0, abs=1e-9)
    assert contracting.steps_for_stability == pytest.approx(20.0 / 3.3, rel=1e-9)


def test_errors_are_those_of_the_gold_check_and_below_the_prediction(contracting: Diagnosis) -> None:
    """The observed errors agree with those against the matrix exponential's derivative; the law is above them."""
    for name in ("naive", "adjoint", "interpolation"):
        solver = build_solver("dopri5", 1e-6, 1e-9)
        expected = contraction_error(build_gradient(name), solver, 20)
        assert outcome(contracting, name).observed == pytest.approx(expected, rel=0.05)
    adjoint = outcome(contracting, "adjoint")
    assert adjoint.predicted == pytest.approx(1e-6 * math.exp(20.0), rel=1e-8)
    assert adjoint.observed < adjoint.predicted
    assert adjoint.safe_rtol == pytest.approx(1e-2 * math.exp(-20.0), rel=1e-8)


def test_verdict_of_a_contracting_problem(contracting: Diagnosis) -> None:
    verdicts = {o.gradient: o.verdict for o in contracting.outcomes}
    assert verdicts == {
        "naive": "safe",
        "adjoint": "unsafe at any rtol that float32 holds",
        "interpolation": "safe",
        "reversible_rk": "safe as observed, not as predicted",
    }
    text = " ".join(sentences(contracting))
    assert "The dynamics are contracting" in text
    assert "int mu_2(-J) 20" in text
    assert "Safe at rtol 1e-06 for a gradient error of 0.01: naive, interpolation, reversible_rk." in text
    assert f"All {len(contracting.bounds)} bounds hold." in text


def test_a_loose_tolerance_is_told_from_a_safe_one() -> None:
    """Backward growth of exp(4) = 55: safe from 1e-4 / 55 on; what is seen counts before what is predicted."""
    settings: dict[str, Any] = {"methods": ["adjoint"], "wanted": 1e-4, "with_bounds": False}
    found = [outcome(linear(-1.0, -4.0, rtol=t, atol=t, **settings), "adjoint") for t in (1e-2, 1e-5, 1e-6)]
    assert [o.verdict for o in found] == ["unsafe, safe from rtol 2e-06", "safe as observed, not as predicted", "safe"]
    assert float(found[0].observed) > 1e-4 > float(found[1].observed)


def test_an_observed_error_above_the_wanted_one_is_never_safe() -> None:
    """A loose tolerance makes even naive's gradient too far off, whatever its state is read from."""
    methods = ["naive", "reversible_rk"]
    found = linear(-1.0, -6.0, rtol=1e-1, atol=1e-1, methods=methods, wanted=1e-4, with_bounds=False)
    assert all((o.observed or 0.0) > 1e-4 and o.verdict.startswith("unsafe: off by") for o in found.outcomes)


def test_outputs_start_a_backward_solve_anew() -> None:
    """With six outputs the adjoint's error grows over a fifth of the time, a reversible method's over all of it."""
    found = linear(-1.0, -20.0, outputs=6, rtol=1e-6, atol=1e-9, methods=FEW[1::2], with_bounds=False)
    assert found.growth.backward[1] == pytest.approx(20.0, abs=1e-9)
    assert found.growth.backward_interval == pytest.approx(4.0, abs=1e-9)
    adjoint = outcome(found, "adjoint")
    assert adjoint.predicted == pytest.approx(1e-6 * math.exp(4.0), rel=1e-8)
    assert adjoint.observed <= adjoint.predicted
    assert outcome(found, "reversible_rk").growth == pytest.approx(math.exp(20.0), rel=1e-8)


@pytest.mark.parametrize(
    ("values", "wanted"),
    [((-1.0, -2.0), "contracting"), ((2.0, 3.0), "expanding"), ((0.2, -0.2), "neutral"), ((2.0, -2.0), "mixed")],
)
def test_nature_follows_the_signs_of_the_eigenvalues(values: tuple[float, float], wanted: str) -> None:
    assert nature(linear(*values, methods=["naive"], with_bounds=False).growth) == wanted


@pytest.mark.parametrize(("rate", "stiff"), [(3.0, False), (200.0, True)])
def test_stiff_is_what_stability_asks_steps_for(rate: float, stiff: bool) -> None:
    """The solution is cos t for every rate; the steps that a large rate asks for are its own, 1 / 3.3 of it."""
    ts = torch.tensor([0.0, 1.0], dtype=torch.float64)
    y0 = torch.ones(1, 1, dtype=torch.float64)
    found = diagnose("cosine", Model(FollowsCosine(rate), y0, ts), methods=["naive"], with_bounds=False)
    assert is_stiff(found) is stiff
    assert found.steps_for_stability == pytest.approx(rate / 3.3, rel=1e-9)
    assert found.steps >= 0.9 * found.steps_for_stability
    assert ("They are stiff" in " ".join(sentences(found))) is stiff


def test_costates_and_jumps_are_the_matrix_exponential() -> None:
    """``a(t) = exp(A^T (t_k - t)) a(t_k)`` within an interval, and each output adds its own part."""
    field, ts = Linear(-1.0, 0.5), torch.tensor([0.2, 0.7, 1.0], dtype=torch.float64)
    flat = BatchedField(field, Y0)
    pieces = segments(flat, Y0, ts, lambda ys: (ys[1] * WEIGHTS).sum() + ys[2].square().sum(), 9)
    matrix = field.matrix.detach()
    last = Y0 @ torch.linalg.matrix_exp(0.8 * matrix).T
    for t, a in zip(pieces[1].times, pieces[1].costates, strict=True):
        expected = 2.0 * last @ torch.linalg.matrix_exp((1.0 - t) * matrix)
        torch.testing.assert_close(a, expected, rtol=1e-9, atol=1e-10)
    before = pieces[1].costates[0] + WEIGHTS
    for t, y, a in zip(pieces[0].times, pieces[0].states, pieces[0].costates, strict=True):
        torch.testing.assert_close(a, before @ torch.linalg.matrix_exp((0.7 - t) * matrix), rtol=1e-9, atol=1e-10)
        torch.testing.assert_close(y, Y0 @ torch.linalg.matrix_exp((t - 0.2) * matrix).T, rtol=1e-9, atol=1e-10)


def test_interpolant_is_scipys_through_the_same_nodes() -> None:
    field = BatchedField(Linear(-1.0, -8.0), Y0)
    (piece,) = segments(field, Y0, torch.tensor([0.0, 1.0], dtype=torch.float64), lambda ys: ys[-1].sum(), 21)
    nodes = 0.5 - 0.5 * np.cos(np.arange(6) * math.pi / 5)
    values = solved(field, Y0, nodes).reshape(6, -1).numpy()
    expected = BarycentricInterpolator(nodes, values)(piece.times.numpy()).reshape(21, 2, 2)
    np.testing.assert_allclose(interpolated(field, piece, 6).numpy(), expected, atol=1e-9)


@pytest.fixture(scope="module")
def smooth_net() -> tuple[BatchedField, list[Segment], list[TrajectoryNorms]]:
    """Return the smooth net, its costates on [0, 1] and the logarithmic norms along its trajectory."""
    y0, target = smooth_net_start()
    field = BatchedField(SmoothNet(), y0)
    ts = torch.tensor([0.0, 1.0], dtype=torch.float64)
    pieces = segments(field, y0, ts, lambda ys: 0.5 * (ys[-1] - target).square().sum(-1).mean(), 161)
    return field, pieces, [log_norms(field, p.times, p.states) for p in pieces]


@pytest.mark.parametrize("num_nodes", [4, 6, 8])
def test_every_bound_holds_on_the_smooth_net(
    smooth_net: tuple[BatchedField, list[Segment], list[TrajectoryNorms]], num_nodes: int
) -> None:
    """(A), (C), (D) and (E) for every sample; the gradient's error by (D)'s observed is the quoted one."""
    found = {b.letter: b for b in interpolation_bounds(*smooth_net, num_nodes)}
    assert set(found) == {"A", "C", "D", "E"}
    assert all(b.holds for b in found.values())
    assert all(1.0 <= b.ratio < 1e4 for b in found.values())
    quoted = {4: 1.622e-3, 6: 7.745e-5, 8: 4.769e-6}[num_nodes]
    assert found["D"].observed == pytest.approx(quoted, rel=0.02)


def test_a_problems_first_solve_has_its_gradient() -> None:
    """The first solve with the rest of the loss behind it: the field's gradient is that of the whole problem."""
    problem = build_task("circles").build("tiny", 0, torch.device("cpu"), torch.float64)
    model = first_solve(problem).model
    naive, solver = build_gradient("naive"), build_solver("dopri8", 1e-10, 1e-10)
    expected = of_problem(problem).gradient(solve_with(naive, solver))
    torch.testing.assert_close(model.gradient(naive, solver), expected, rtol=1e-8, atol=1e-12)


def test_several_solves_leave_the_later_ones_to_the_loss() -> None:
    """An ODE-RNN solves between observations: the first solve's cotangent comes through all that follow."""
    problem = build_task("japanese_vowels").build("tiny", 0, torch.device("cpu"), torch.float64)
    model = first_solve(problem).model
    ys = torch.stack([model.y0, model.y0]).requires_grad_()  # type: ignore[list-item]
    loss = model.loss(ys)
    (cotangent,) = torch.autograd.grad(loss, ys)
    moved = model.loss(ys.detach() + 1e-5 * cotangent)
    assert (moved - loss).item() == pytest.approx(1e-5 * cotangent.square().sum().item(), rel=1e-3)
    assert bool(cotangent[-1].abs().sum() > 0)


def test_a_large_state_is_diagnosed_from_products() -> None:
    """One hundred and fifty planes that turn: mu_2 is zero, and no matrix is formed."""

    class Turning(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rate = nn.Parameter(torch.linspace(0.5, 2.0, 75, dtype=torch.float64))

        def forward(self, t: Tensor, y: Tensor) -> Tensor:
            p, q = y.chunk(2, dim=1)
            return torch.cat([-self.rate * q, self.rate * p], dim=1)

    y0 = torch.ones(2, 150, dtype=torch.float64)
    ts = torch.tensor([0.0, 1.0], dtype=torch.float64)
    found = diagnose("turning", Model(Turning(), y0, ts), methods=["naive"])
    assert not found.norms[0].dense
    assert found.growth.forward == pytest.approx((0.0, 0.0), abs=1e-9)
    assert nature(found.growth) == "neutral"
    assert {b.letter for b in found.bounds} == {"A", "B"}


def test_the_model_is_left_as_it_was() -> None:
    field = Linear(-1.0, -2.0)
    before, rng = field.matrix.detach().clone(), torch.get_rng_state()
    diagnose("linear", Model(field, Y0, torch.tensor([0.0, 1.0], dtype=torch.float64)), methods=FEW)
    assert torch.equal(field.matrix, before)
    assert field.matrix.grad is None
    assert torch.equal(torch.get_rng_state(), rng)


def test_a_jacobian_that_is_not_finite_names_time_and_sample() -> None:
    class Kink(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones((), dtype=torch.float64))

        def forward(self, t: Tensor, y: Tensor) -> Tensor:
            return self.scale * torch.sqrt((y - 1.0).abs()) * (y - 1.0).sign()  # an infinite derivative at 1

    y0 = torch.tensor([[0.5], [1.0]], dtype=torch.float64)
    model = Model(Kink(), y0, torch.tensor([0.0, 1.0], dtype=torch.float64))
    with pytest.raises(NonFiniteError, match=r"Jacobian: not finite at t = 0, sample 1"):
        diagnose("kink", model, methods=["naive"])


def test_a_wanted_error_is_positive() -> None:
    with pytest.raises(UsageError, match=r"wanted \(--error\): expected a positive relative error, got 0"):
        linear(-1.0, -2.0, wanted=0.0)
