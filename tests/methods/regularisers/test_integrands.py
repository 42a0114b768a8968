"""``kinetic``, ``jacobian`` and ``taylor`` against matrix exponentials, whole Jacobians and each other."""

import itertools
import math

import pytest
import torch
from torch import nn

from odegrad.contracts import StepObserver
from odegrad.datasets.nets.flow import FlowField
from odegrad.errors import UnknownNameError, UsageError
from odegrad.methods.regularisers.chosen import NAMES, Regularisers
from odegrad.methods.regularisers.integrands import FieldCall, jacobian
from odegrad.methods.regularisers.regularised import RegularisedSolve
from odegrad.registry import build_gradient, build_solver, default_gradients

A = torch.tensor([[-0.3, 1.2], [-0.9, -0.1]], dtype=torch.float64)
Y0 = torch.tensor([[1.0, 0.5], [0.2, -0.7], [1.0, 1.0]], dtype=torch.float64)
TS = torch.tensor([0.0, 0.6, 1.5], dtype=torch.float64)


class Linear(nn.Module):
    """``y' = A y``."""

    def __init__(self):
        super().__init__()
        self.matrix = nn.Parameter(A.clone())

    def forward(self, t, y):
        return y @ self.matrix.T


class Net(nn.Module):
    """A net that depends on t."""

    def __init__(self, dim=2):
        super().__init__()
        generator = torch.Generator().manual_seed(3)
        self.first = nn.Parameter(torch.randn(dim + 1, 5, generator=generator, dtype=torch.float64) * 0.7)
        self.second = nn.Parameter(torch.randn(5, dim, generator=generator, dtype=torch.float64) * 0.7)

    def forward(self, t, y):
        return torch.tanh(torch.cat([y, t.expand(len(y), 1)], dim=1) @ self.first) @ self.second


class Log(StepObserver):
    """The accepted steps."""

    def __init__(self):
        self.steps = []

    def accepted(self, t, h):
        self.steps.append((t, h))

    def rejected(self, t, h):
        pass


def regularised(given, gradient="naive", solver="dopri5", tol=1e-9, seed=0, **options):
    made = build_solver(solver, tol, tol, options)
    return RegularisedSolve(build_gradient(gradient), made, Regularisers.of(given), seed)


def exact_integral(matrix, order, end):
    """Return ``int |A^K y|^2 / n dt``, by one matrix exponential (Van Loan, IEEE Trans. Automatic Control, 1978)."""
    n = len(matrix)
    q = torch.linalg.matrix_power(matrix, order)
    block = torch.cat([torch.cat([-matrix.T, q.T @ q], 1), torch.cat([torch.zeros_like(matrix), matrix], 1)])
    e = torch.linalg.matrix_exp(block * end)
    return torch.einsum("bi,ij,bj->b", Y0, e[n:, n:].T @ e[:n, n:], Y0).mean() / n


CASES = [(name, 2) for name in (*default_gradients(), "forward_sensitivity") if name != "mali"]
CASES += [(name, order) for name in ("naive", "adjoint", "interpolation") for order in (1, 3)]


@pytest.mark.parametrize(("gradient", "order"), CASES)
def test_the_integral_and_its_gradient_are_those_of_the_matrix_exponential(gradient, order):
    field = Linear()
    given = {"kinetic": 1.0} if order == 1 else {"taylor": 1.0, "taylor.order": order}
    solve = regularised(given, gradient, solver="dopri5")
    ys = solve(field, Y0, TS)
    penalty = solve.penalty()
    penalty.backward()
    matrix = A.clone().requires_grad_()
    expected = exact_integral(matrix, order, 1.5)
    expected.backward()
    assert torch.allclose(ys[-1], Y0 @ torch.linalg.matrix_exp(1.5 * A).T, atol=1e-7)
    assert penalty.item() == pytest.approx(expected.item(), rel=2e-8)
    assert torch.linalg.vector_norm(field.matrix.grad - matrix.grad) < 5e-8 * torch.linalg.vector_norm(matrix.grad)


def test_mali_takes_them_too():
    field = Linear()
    solve = regularised({"kinetic": 1.0}, "mali", solver="alf", tol=1e-6)
    solve(field, Y0, TS)
    penalty = solve.penalty()
    assert penalty.item() == pytest.approx(exact_integral(A, 1, 1.5).item(), rel=1e-4)
    penalty.backward()
    assert torch.isfinite(field.matrix.grad).all()


@pytest.mark.parametrize("gradient", ["naive", "adjoint"])
def test_backwards_in_time_the_integral_is_as_large(gradient):
    field = Linear()
    solve = regularised({"kinetic": 1.0}, gradient)
    end = solve(field, Y0, TS)[-1]
    forward = solve.penalty().item()
    solve(field, end.detach(), TS.flip(0))
    assert solve.penalty().item() == pytest.approx(forward, rel=1e-7)


@pytest.mark.parametrize(
    ("gradient", "given"),
    [
        ("naive", {"kinetic": 1e3}),
        ("naive", {"error": 1e3, "kinetic": 1.0}),
        ("adjoint", {"jacobian": 1e3, "taylor": 1e3}),
        ("torchdiffeq_naive", {"jacobian": 1e3, "taylor": 1e3}),
    ],
)
def test_the_accepted_grid_is_that_without(gradient, given):
    field, without, with_penalty = Net(), Log(), Log()
    solver = build_solver("dopri5", 1e-5, 1e-5)
    plain = build_gradient(gradient)(field, solver.observed_by(without), Y0, TS)
    solve = RegularisedSolve(build_gradient(gradient), solver.observed_by(with_penalty), Regularisers.of(given))
    ys = solve(field, Y0, TS)
    assert torch.allclose(plain, ys, rtol=0, atol=1e-12)
    assert len(with_penalty.steps) == len(without.steps)
    for (t, h), (u, k) in zip(with_penalty.steps, without.steps, strict=True):
        assert t == pytest.approx(u, abs=1e-8)
        assert h == pytest.approx(k, rel=1e-6)


def test_the_mean_over_all_signs_is_the_frobenius_norm():
    y = torch.randn(1, 2, dtype=torch.float64, requires_grad=True)
    field = Net()
    time = torch.tensor(0.3, dtype=torch.float64)
    j = torch.autograd.functional.jacobian(lambda x: field(time, x[None])[0], y[0])
    values = []
    for signs in itertools.product([-1.0, 1.0], repeat=2):
        probe = torch.tensor([signs], dtype=torch.float64)
        values.append(jacobian(FieldCall(time, [y], [field(time, y)], [probe], 0.0 * y.sum())).detach())
    values = torch.cat(values)
    g = j @ j.T
    assert values.mean().item() == pytest.approx(j.square().sum().item() / 2, rel=1e-13)
    variance = 2 * (g[0, 1] ** 2 + g[1, 0] ** 2) / 4
    assert values.var(correction=0).item() == pytest.approx(variance.item(), rel=1e-12)


@pytest.mark.parametrize(
    "given",
    [
        {"kinetic": 1.0},
        {"jacobian": 1.0},
        {"taylor": 1.0},
        {"error": 1.0},
        {"error": 1.0, "error.scaled": True},
        {"stiffness": 1.0},
        {"local": 1.0},
        {"log_norm": 1.0, "log_norm.of": "forward"},
        {"kinetic": 1.0, "jacobian": 0.5, "steer": 0.2},
    ],
    ids="+".join,
)
def test_the_gradient_is_that_of_differences(given):
    """On a fixed grid the penalty is a smooth function of parameters and start; ``local`` detaches its state."""
    field = Net()
    parameters = dict(field.named_parameters())

    def penalty(*values):
        held = dict(zip(parameters, values[1:], strict=True))
        solve = regularised(given, tol=1e-3, num_steps=2)
        solve(lambda t, y: torch.func.functional_call(field, held, (t, y)), values[0], TS)
        return solve.penalty()

    inputs = [Y0[:2].clone().requires_grad_(), *(p.detach().clone().requires_grad_() for p in parameters.values())]
    if "local" in given:
        start = penalty(*inputs)
        assert torch.autograd.grad(start, inputs[0], allow_unused=True, retain_graph=True)[0] is None
        found = torch.autograd.grad(start, inputs[2])[0]
        assert torch.isfinite(found).all()
        assert found.abs().max() > 0
    else:
        assert torch.autograd.gradcheck(penalty, inputs, eps=1e-6, atol=1e-7, rtol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_a_weight_of_zero_is_the_solve_without_bit_for_bit(name):
    field = Net()
    solve = regularised({name: 0.0}, tol=1e-5)
    plain = build_gradient("naive")(field, build_solver("dopri5", 1e-5, 1e-5), Y0, TS)
    assert torch.equal(solve(field, Y0, TS), plain)
    assert solve.penalty() == 0.0


@pytest.mark.parametrize("name", ["jacobian", "local", "steer", "log_norm"])
def test_random_numbers_come_from_seed_and_iteration_alone(name):
    field = Net()

    def values(seed):
        solve = regularised({name: 0.1, "kinetic": 1.0}, tol=1e-6, seed=seed)
        found = []
        for _ in range(4):
            solve(field, Y0, TS)
            found.append(float(solve.penalty().detach()))
        return found

    state = torch.get_rng_state()
    first = values(1)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(7)
    assert values(1) == first
    assert len(set(first)) > 1
    assert values(2) != first


def test_parts_that_do_not_move_are_left_out():
    """The log-density of a flow is an integral: only its positions count."""

    class Velocity(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = Net()

        def forward(self, t, z):
            return self.net(t, z)

    field = FlowField(Velocity())
    solve = regularised({"kinetic": 1.0, "jacobian": 1.0, "taylor": 1.0}, "aca", tol=1e-8)
    solve(field, (Y0, torch.zeros(3, dtype=torch.float64)), TS)
    of_flow = solve.gathered
    alone = regularised({"kinetic": 1.0, "jacobian": 1.0, "taylor": 1.0}, "aca", tol=1e-8)
    alone(field.velocity, Y0, TS)
    for name, value in alone.gathered.items():
        assert of_flow[name] == pytest.approx(value, rel=1e-6), name


def test_a_constant_field_has_no_jacobian():
    class Constant(nn.Module):
        def __init__(self):
            super().__init__()
            self.rate = nn.Parameter(torch.tensor([1.0, 2.0], dtype=torch.float64))

        def forward(self, t, y):
            return self.rate.expand_as(y)

    field = Constant()
    solve = regularised({"kinetic": 1.0, "jacobian": 1.0, "taylor": 1.0}, "aca", tol=1e-6)
    solve(field, Y0, TS)
    assert solve.gathered["kinetic"] == pytest.approx(1.5 * 2.5, rel=1e-12)
    assert solve.gathered["jacobian"] == solve.gathered["taylor"] == 0.0
    solve.penalty().backward()
    assert torch.allclose(field.rate.grad, 1.5 * field.rate.detach())


def test_penalties_of_several_solves_add_up():
    field = Linear()
    solve = regularised({"kinetic": 2.0})
    solve(field, Y0, TS)
    one = solve.gathered["kinetic"]
    solve(field, Y0, TS)
    assert solve.gathered["kinetic"] == pytest.approx(2 * one, rel=1e-14)
    assert float(solve.penalty().detach()) == pytest.approx(4 * one, rel=1e-14)
    assert solve.penalty() == 0.0


def test_steer_moves_the_last_time_and_no_other():
    """``E y(T) = y0 (e^(a (T + b)) - e^(a (T - b))) / (2 a b)`` for ``y' = a y``; the mean of 300 draws is near."""

    class Decay(nn.Module):
        def __init__(self):
            super().__init__()
            self.rate = nn.Parameter(torch.tensor(-1.3, dtype=torch.float64))

        def forward(self, t, y):
            return self.rate * y

    field, start = Decay(), torch.ones(1, 1, dtype=torch.float64)
    solve = regularised({"steer": 0.5}, solver="rk4", num_steps=4)
    ends = []
    for _ in range(300):
        with torch.no_grad():
            ys = solve(field, start, TS)
        assert ys[1].item() == pytest.approx(math.exp(-1.3 * 0.6), rel=1e-4)
        ends.append(ys[2].item())
        solve.penalty()
    expected = (math.exp(-1.3 * 2.0) - math.exp(-1.3 * 1.0)) / (2 * -1.3 * 0.5)
    spread = torch.tensor(ends).std().item() / math.sqrt(300)
    assert abs(sum(ends) / 300 - expected) < 4 * spread
    assert math.exp(-1.3 * 2.0) * 0.999 < min(ends) < math.exp(-1.3 * 1.95)
    assert math.exp(-1.3 * 1.05) < max(ends) < math.exp(-1.3 * 1.0) * 1.001


def test_bad_input_is_answered():
    with pytest.raises(UnknownNameError, match="kinetic"):
        Regularisers.of({"kinetik": 1.0})
    with pytest.raises(UnknownNameError, match=r"taylor\.order"):
        Regularisers.of({"taylor": 1.0, "taylor.orders": 2})
    with pytest.raises(UsageError, match="weight of at least 0"):
        Regularisers.of({"kinetic": -1.0})
    with pytest.raises(UsageError, match="without a weight"):
        Regularisers.of({"taylor.order": 2})
    with pytest.raises(UsageError, match="whole number from 1 to 4"):
        Regularisers.of({"taylor": 1.0, "taylor.order": 9})
    with pytest.raises(UsageError, match="half-width below the length"):
        regularised({"steer": 2.0})(Linear(), Y0, TS)
