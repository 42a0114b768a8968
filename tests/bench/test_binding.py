"""Times of each sample's own on shared steps: the union of all, each sample's own rows of it, and what is refused."""

import pytest
import torch
from torch import nn

from odegrad.advice.comparison import compare_gradients
from odegrad.binding import UnionOfTimes, solve_with
from odegrad.contracts import gives_samples_steps
from odegrad.diagnosis.first_solve import first_solve
from odegrad.diagnosis.prediction import diagnose
from odegrad.diagnosis.probe import largest_norms
from odegrad.errors import UnsupportedError, UsageError
from odegrad.measuring.call_counts import count_columns
from odegrad.methods.regularisers.chosen import Regularisers
from odegrad.methods.regularisers.regularised import RegularisedSolve
from odegrad.methods.solvers.solver import make_solver
from odegrad.reference.reference import reference
from odegrad.reference.subject import of_model
from odegrad.registry import build_gradient, build_task
from odegrad.user.models import Model

TS = torch.tensor([[0.0, 0.5, 1.0, 1.0], [0.0, 0.3, 0.5, 1.4], [0.0, 0.2, 0.2, 0.2]], dtype=torch.float64)
RATES = torch.tensor([0.5, -1.0], dtype=torch.float64)


class Decay(nn.Module):
    """``y' = r y``, and so ``y(t) = y0 exp(r (t - t0))``."""

    sample_time = True

    def __init__(self):
        super().__init__()
        self.rate = nn.Parameter(RATES.clone())

    def forward(self, _t, y):
        return self.rate * y


def starts():
    return torch.tensor([[1.0, 2.0], [0.5, -1.0], [3.0, 0.1]], dtype=torch.float64)


def solution(ts):
    return starts() * torch.exp(RATES * (ts.t() - ts[:, 0])[..., None])


def test_union_holds_every_time_once_and_hands_each_its_own():
    """By hand, forwards and backwards."""
    field = Decay()
    union = UnionOfTimes.of(TS, field)
    assert union.times.tolist() == [0.0, 0.2, 0.3, 0.5, 1.0, 1.4]
    assert union.places.tolist() == [[0, 3, 4, 4], [0, 2, 3, 5], [0, 1, 1, 1]]
    assert union.seen(field) is field
    back = UnionOfTimes.of(-TS, field)
    assert back.times.tolist() == [-t for t in union.times.tolist()]
    assert back.places.tolist() == union.places.tolist()
    ys = torch.arange(18.0).view(6, 3, 1)
    picked = union.picked((ys, -ys))
    assert picked[0][:, 1, 0].tolist() == [1.0, 7.0, 10.0, 16.0]
    torch.testing.assert_close(picked[1], -picked[0])


@pytest.mark.parametrize("way", [1.0, -1.0])
@pytest.mark.parametrize("name", ["naive", "adjoint", "torchdiffeq_naive"])
def test_shared_steps_reach_every_samples_own_times(name, way):
    """The closed form and its gradient, by our methods and by another library's."""
    field, y0 = Decay(), starts().requires_grad_()
    solver = make_solver("dopri5", rtol=1e-9, atol=1e-11)
    assert not gives_samples_steps(solver)
    ys = solve_with(build_gradient(name), solver)(field, y0, way * TS)
    torch.testing.assert_close(ys, solution(way * TS), rtol=1e-7, atol=1e-8)
    (found,) = torch.autograd.grad(ys.sum(), y0)
    expected = torch.exp(RATES * (way * TS.t())[..., None]).sum(0)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-7)


APART = TS + torch.tensor([0.0, 0.1, -0.4], dtype=torch.float64)[:, None]


class Driven(nn.Module):
    """``y' = r cos(t)``, and so ``y(t) = y0 + r (sin t - sin t0)``."""

    sample_time = True

    def __init__(self):
        super().__init__()
        self.rate = nn.Parameter(RATES.clone())

    def forward(self, t, y):
        return self.rate * torch.cos(t) + 0 * y


@pytest.mark.parametrize("way", [1.0, -1.0])
@pytest.mark.parametrize("name", ["aca", "adjoint", "mali", "torchdiffeq_adjoint"])
def test_samples_that_start_apart_count_their_times_from_their_own_starts(name, way):
    """The closed form and its gradient; equal times since unlike starts are one of the union."""
    union = UnionOfTimes.of(APART.float(), Driven())
    assert len(union.times) == 6
    field, ts = Driven(), way * APART
    solver = make_solver("alf" if name == "mali" else "dopri5", rtol=1e-6, atol=1e-8)
    ys = solve_with(build_gradient(name), solver)(field, starts(), ts)
    moved = (torch.sin(ts) - torch.sin(ts[:, :1])).t()[..., None]
    torch.testing.assert_close(ys, starts() + RATES * moved, rtol=1e-5, atol=1e-5)
    (found,) = torch.autograd.grad(ys.sum(), field.rate)
    torch.testing.assert_close(found, moved.sum().expand(2), rtol=1e-5, atol=1e-5)


def test_comparisons_of_samples_that_start_apart_have_a_reference():
    """By shared steps and by own ones; the diagnosis takes their norms along the times since their starts."""
    loss = lambda ys: ys.square().mean()  # noqa: E731
    for batch in ("joint", "per_sample"):
        table = compare_gradients(
            Driven(), starts(), APART, loss=loss, gradients=["aca"], rtol=1e-7, atol=1e-9, rounds=1,
            options={"batch": batch},
        )  # fmt: skip
        assert list(table["verdict"]) == ["accurate"]
    found = diagnose("driven", Model(Driven(), starts(), APART, loss), methods=["aca"], with_bounds=False)
    assert found.duration == pytest.approx(1.4)
    assert found.outcomes[0].verdict == "safe"


def test_what_shared_steps_cannot_is_said():
    """Starts apart in a field that takes one time for all, and gradients by times."""
    solve = solve_with(build_gradient("aca"), make_solver("dopri5"))
    field = Driven()
    field.sample_time = False
    with pytest.raises(UsageError, match=r"start at one time .* got 0\.0 in row 0 and 0\.1 in row 1; .*sample_time"):
        solve(field, starts(), APART)
    with pytest.raises(UsageError, match=r"a gradient by times \[batch, K\] .* batch = 'per_sample'"):
        solve(Decay(), starts(), TS.clone().requires_grad_())


def test_reference_and_counts_take_times_of_each_samples_own():
    """The reference is the closed form's gradient; its own steps and shared ones are counted as predicted."""
    field = Decay()
    model = Model(field, starts(), TS, lambda ys: ys.square().sum())
    found = reference(of_model(model))
    growth = solution(TS)
    times = TS.t()[..., None]
    expected = (2.0 * growth.square() * times).sum((0, 1))
    torch.testing.assert_close(found.gradient, expected, rtol=1e-9, atol=0)
    for batch in ("joint", "per_sample"):
        solver = make_solver("dopri5", rtol=1e-6, atol=1e-8, batch=batch)
        columns = count_columns(of_model(model), build_gradient("aca"), solver)
        for phase in ("forward", "backward"):
            assert columns[f"predicted_nfe_{phase}"] == columns[f"nfe_{phase}"] > 0


def test_compare_and_diagnose_take_times_of_each_samples_own():
    """Own steps and shared ones are accurate against one reference; the diagnosis goes to the last time of any."""
    field = Decay()
    loss = lambda ys: ys.square().mean()  # noqa: E731
    for batch in ("joint", "per_sample"):
        table = compare_gradients(
            field, starts(), TS, loss=loss, gradients=["aca"], rtol=1e-7, atol=1e-9, rounds=1, options={"batch": batch}
        )
        assert list(table["verdict"]) == ["accurate"]
    found = diagnose("decay", Model(field, starts(), TS, loss), methods=["aca"], with_bounds=False)
    assert found.duration == pytest.approx(1.4)
    assert found.growth.forward == pytest.approx((0.5 * 1.4, 0.5 * 1.4))
    assert found.growth.backward_interval == pytest.approx(0.5, rel=1e-6)  # rate -1, longest interval 0.5 to 1.0


def test_models_say_what_is_wrong_with_their_times():
    """Before any solve."""
    with pytest.raises(UsageError, match=r"\[time\] or \[batch, time\]"):
        Model(Decay(), starts(), TS[None])
    with pytest.raises(UsageError, match="with batch = 3"):
        Model(Decay(), starts(), TS[:2])
    with pytest.raises(UsageError, match="at position 1 of row 0"):
        Model(Decay(), starts(), TS[:, [0, 2, 1, 3]])


def _tight():
    return solve_with(build_gradient("naive"), make_solver("dopri8", rtol=1e-13, atol=1e-13))


def test_a_task_with_such_times_is_diagnosed():
    """Its first solve is a model with rows of times, and its probe's norms go to the last of them."""
    problem = build_task("latent_periodic").build("tiny", 0, torch.device("cpu"), torch.float64)
    model = first_solve(problem).model
    assert model.ts.shape == (8, 11)
    with torch.no_grad():
        ys = _tight()(model.field, model.y0, model.ts)
        torch.testing.assert_close(model.loss(ys), problem.loss(_tight(), problem.probe_batch()), rtol=1e-9, atol=0.0)
    norms = largest_norms(problem)
    assert norms.mu_2 >= norms.integral / 5.0


def test_regularisers_are_refused_there():
    """They are integrals over one interval."""
    solve = RegularisedSolve(build_gradient("aca"), make_solver("dopri5"), Regularisers.of({"kinetic": 0.1}))
    with pytest.raises(UnsupportedError, match=r"one interval that all samples share, got times of shape \(3, 4\)"):
        solve(Decay(), starts(), TS)
