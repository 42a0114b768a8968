"""``error``, ``stiffness``, ``local`` and ``log_norm`` against closed forms and dense matrices."""

import math

import pytest
import torch
from torch import nn

from odegrad.contracts import StepObserver
from odegrad.errors import UnsupportedError
from odegrad.methods.regularisers.chosen import Regularisers
from odegrad.methods.regularisers.regularised import RegularisedSolve
from odegrad.methods.regularisers.sampled import growth
from odegrad.registry import build_gradient, build_solver, default_gradients

EXACT = ["naive", "anode", "aca", "revolve", "symplectic_adjoint"]
OTHERS = ["adjoint", "adjoint_seminorm", "interpolation", "interpolation_dense", "gauss_adjoint", "reversible_rk"]
TS = torch.tensor([0.0, 1.0], dtype=torch.float64)


class Scalar(nn.Module):
    """``y' = a y``."""

    def __init__(self, rate):
        super().__init__()
        self.rate = nn.Parameter(torch.tensor(rate, dtype=torch.float64))

    def forward(self, t, y):
        return self.rate * y


class Net(nn.Module):
    """A net that depends on t, on states of any width."""

    def __init__(self, dim=3):
        super().__init__()
        generator = torch.Generator().manual_seed(5)
        self.first = nn.Parameter(torch.randn(dim + 1, 6, generator=generator, dtype=torch.float64))
        self.second = nn.Parameter(torch.randn(6, dim, generator=generator, dtype=torch.float64))

    def forward(self, t, y):
        return torch.tanh(torch.cat([y, t.expand(len(y), 1)], dim=1) @ self.first) @ self.second


class Steps(StepObserver):
    """The accepted steps."""

    def __init__(self):
        self.taken = []

    def accepted(self, t, h):
        self.taken.append((t, h))

    def rejected(self, t, h):
        pass


def regularised(given, gradient="naive", solver="dopri5", tol=1e-6, seed=0, **options):
    made = build_solver(solver, tol, tol, options)
    return RegularisedSolve(build_gradient(gradient), made, Regularisers.of(given), seed)


@pytest.mark.parametrize("gradient", EXACT)
def test_the_error_of_dopri5_is_its_polynomial(gradient):
    """For ``y' = a y`` the estimate is ``y_n (-97/180000 z^5 + 13/60000 z^6 - 1/36000 z^7)``, ``z = a h``."""
    field, start = Scalar(-1.7), torch.full((1, 1), 2.0, dtype=torch.float64)
    solve = regularised({"error": 1.0}, gradient, num_steps=4)
    solve(field, start, TS)
    solve.penalty().backward()

    rate = torch.tensor(-1.7, dtype=torch.float64, requires_grad=True)
    z = rate * 0.25
    # The stability polynomial of dopri5 (Hairer, Norsett and Wanner, Solving ODEs I, II.5).
    factor = 1 + z + z**2 / 2 + z**3 / 6 + z**4 / 24 + z**5 / 120 + z**6 / 600
    y, total = torch.tensor(2.0, dtype=torch.float64), torch.tensor(0.0, dtype=torch.float64)
    for _ in range(4):
        total = total + (y * (-97 / 180000 * z**5 + 13 / 60000 * z**6 - 1 / 36000 * z**7)).abs() * 0.25
        y = y * factor
    total.backward()
    again = regularised({"error": 1.0}, gradient, num_steps=4)
    again(field, start, TS)
    assert again.gathered["error"] == pytest.approx(total.item(), rel=1e-11)
    assert field.rate.grad.item() == pytest.approx(rate.grad.item(), rel=1e-10)


@pytest.mark.parametrize("solver", ["dopri5", "tsit5"])
@pytest.mark.parametrize("gradient", EXACT)
def test_the_stiffness_of_a_scalar_is_its_rate_in_every_step(gradient, solver):
    field, start = Scalar(-3.1), torch.full((2, 1), 2.0, dtype=torch.float64)
    solve = regularised({"stiffness": 1.0}, gradient, solver, num_steps=5)
    solve(field, start, TS)
    assert solve.gathered["stiffness"] == pytest.approx(5 * 3.1, rel=1e-12)
    solve.penalty().backward()
    assert field.rate.grad.item() == pytest.approx(-5.0, rel=1e-11)


@pytest.mark.parametrize("outputs", ["step_ends", "dense"])
@pytest.mark.parametrize("gradient", EXACT[1:])
def test_replays_give_naives_gradient(gradient, outputs):
    given = {"error": 0.7, "stiffness": 0.3, "kinetic": 0.2, "error.scaled": True}
    times = torch.tensor([0.0, 0.3, 0.5, 1.0], dtype=torch.float64)
    found = {}
    for name in ("naive", gradient):
        field, start = Net(), torch.full((4, 3), 0.4, dtype=torch.float64).requires_grad_()
        solve = regularised(given, name, tol=1e-4, outputs=outputs)
        ys = solve(field, start, times)
        (ys.square().mean() + solve.penalty()).backward()
        found[name] = torch.cat([g.reshape(-1) for g in (start.grad, field.first.grad, field.second.grad)])
    assert torch.linalg.vector_norm(found[gradient] - found["naive"]) < 1e-12 * torch.linalg.vector_norm(found["naive"])


def test_a_resting_state_has_no_stiffness_and_a_finite_gradient():
    field = Scalar(-1.0)
    solve = regularised({"stiffness": 1.0, "error": 1.0}, "aca", num_steps=3)
    solve(field, torch.zeros(2, 1, dtype=torch.float64), TS)
    assert solve.gathered == {"error": 0.0, "stiffness": 0.0}
    solve.penalty().backward()
    assert field.rate.grad.item() == 0.0


@pytest.mark.parametrize("gradient", [*OTHERS, "forward_sensitivity", "torchdiffeq_naive"])
def test_who_does_not_walk_back_through_the_steps_refuses_their_sums(gradient):
    with pytest.raises(UnsupportedError, match=r"use aca|use one such as dopri5"):
        regularised({"error": 1.0}, gradient)(Net(), torch.zeros(1, 3, dtype=torch.float64), TS)


@pytest.mark.parametrize(
    ("solver", "given", "match"),
    [
        ("rk4", {"error": 1.0}, "estimates no error"),
        ("rk4", {"stiffness": 1.0}, "two stages at the end"),
        ("alf", {"error": 1.0}, "plain steps of a Runge-Kutta method"),
    ],
)
def test_a_solver_that_does_not_tell_is_refused(solver, given, match):
    with pytest.raises(UnsupportedError, match=match):
        regularised(given, solver=solver)


@pytest.mark.parametrize("gradient", [name for name in default_gradients() if name != "mali"])
def test_local_goes_with_every_method_and_leaves_the_outputs_alone(gradient):
    """The penalty is one step's error from the detached state: its own gradient, whatever the method."""
    times = torch.tensor([0.0, 0.4, 1.0], dtype=torch.float64)
    values = {}
    for name in ("naive", gradient):
        field, start = Net(), torch.full((4, 3), 0.4, dtype=torch.float64)
        solve = regularised({"local": 1.0}, name, tol=1e-5)
        ys = solve(field, start, times)
        assert ys.shape == (3, 4, 3)
        penalty = solve.penalty()
        penalty.backward()
        values[name] = torch.cat([penalty.detach()[None], field.first.grad.reshape(-1)])
    assert values[gradient][0] > 0
    assert values[gradient].isfinite().all()
    # Another library and the reversible wrapper take other steps, so theirs has another size.
    if build_gradient(gradient).traits.shared_loop and gradient != "reversible_rk":
        assert torch.linalg.vector_norm(values[gradient] - values["naive"]) < 1e-8 * values["naive"].norm()


def test_local_takes_a_step_of_the_solve_that_it_stands_in():
    field, start = Scalar(-1.0), torch.ones(1, 1, dtype=torch.float64)
    log = Steps()
    solver = build_solver("dopri5", 1e-6, 1e-6, {"num_steps": 2}).observed_by(log)
    solve = RegularisedSolve(build_gradient("naive"), solver, Regularisers.of({"local": 1.0}))
    solve(field, start, TS)
    # The sampled time splits the interval: two steps before it and two behind.
    assert len(log.taken) == 4
    t1, h = log.taken[2]
    z = -h
    error = abs(math.exp(-t1) * (-97 / 180000 * z**5 + 13 / 60000 * z**6 - 1 / 36000 * z**7)) * h
    assert float(solve.penalty().detach()) == pytest.approx(error, rel=1e-3)


def test_local_over_steps_begins_where_a_step_of_the_plain_solve_does():
    field, start = Net(), torch.full((2, 3), 0.4, dtype=torch.float64)
    plain, watched = Steps(), Steps()
    build_gradient("naive")(field, build_solver("dopri5", 1e-6, 1e-6).observed_by(plain), start, TS)
    solver = build_solver("dopri5", 1e-6, 1e-6).observed_by(watched)
    solve = RegularisedSolve(build_gradient("aca"), solver, Regularisers.of({"local": 1.0, "local.over": "steps"}))
    solve(field, start, TS)
    assert [t for t, _ in watched.taken] == pytest.approx([t for t, _ in plain.taken], abs=1e-9)


@pytest.mark.parametrize("backward", [True, False])
@pytest.mark.parametrize("dim", [1, 3, 8])
def test_growth_is_the_largest_eigenvalue_of_the_symmetric_part(dim, backward):
    field, t = Net(dim), torch.tensor(0.3, dtype=torch.float64)
    generator = torch.Generator().manual_seed(1)
    y = torch.randn(6, dim, generator=generator, dtype=torch.float64)
    signs = [torch.randint(0, 2, y.shape, generator=generator).mul(2).sub(1).double()]
    found = growth(field, y, t, signs, backward=backward)
    grads = torch.autograd.grad(found.sum(), (field.first, field.second))

    def dense(first, second):
        def row(x):
            return torch.tanh(torch.cat([x, t[None]]) @ first) @ second

        j = torch.stack([torch.autograd.functional.jacobian(row, x, create_graph=True) for x in y])
        symmetric = (j + j.transpose(1, 2)) / 2 * (-1.0 if backward else 1.0)
        return torch.relu(torch.linalg.eigvalsh(symmetric)[:, -1])

    expected = dense(field.first, field.second)
    of_dense = torch.autograd.grad(expected.sum(), (field.first, field.second))
    assert torch.allclose(found, expected, rtol=1e-9, atol=1e-12)
    for mine, theirs in zip(grads, of_dense, strict=True):
        assert torch.allclose(mine, theirs, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("gradient", ["naive", "adjoint", "interpolation"])
def test_log_norm_is_unbiased_for_the_integral_of_the_growth(gradient):
    """``y' = -a t y``: ``mu_2(-J) = a t``, whose integral over [0, 1] is a / 2."""

    class Forced(Scalar):
        def forward(self, t, y):
            return -self.rate * t * y

    field, start = Forced(2.0), torch.ones(3, 1, dtype=torch.float64)
    solve = regularised({"log_norm": 1.0}, gradient, tol=1e-3)
    draws = []
    for _ in range(150):
        solve(field, start, TS)
        draws.append(float(solve.penalty().detach()))
    draws = torch.tensor(draws)
    assert abs(draws.mean().item() - 1.0) < 4 * draws.std().item() / math.sqrt(150)
    assert draws.std().item() == pytest.approx(2 / math.sqrt(12), rel=0.25)


def test_a_flow_down_in_time_grows_by_the_other_sign():
    field, start = Scalar(2.0), torch.ones(1, 1, dtype=torch.float64)
    backward = regularised({"log_norm": 1.0})
    backward(field, start, TS.flip(0))
    # Solved from 1 to 0 the flow is that of -J = -2: its backward solve grows by 2 over the interval.
    assert backward.gathered["log_norm"] == pytest.approx(2.0, rel=1e-12)
    backward.penalty()
    backward(field, start, TS)
    assert backward.gathered["log_norm"] == 0.0
