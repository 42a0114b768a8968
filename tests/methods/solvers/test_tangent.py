"""Step control by a tangent, and bounded steps: gradients where the state rests, against closed forms."""

import math

import pytest
import torch
from torch import nn

from odegrad import odeint
from odegrad.checks.problems import SmoothNet, StepLog
from odegrad.errors import UnsupportedError, UsageError
from odegrad.measuring.counting import CountedField, Counts
from odegrad.methods.gradients.naive import Naive
from odegrad.methods.solvers.solver import make_solver
from odegrad.registry import build_gradient, build_task

RTOL, ATOL = 1e-5, 1e-6
TS = torch.tensor([0.0, 1.0], dtype=torch.float64)


class _Sizes(StepLog):
    def __init__(self):
        super().__init__()
        self.largest = 0.0

    def accepted(self, t, h):
        super().accepted(t, h)
        self.largest = max(self.largest, abs(h))


class _Equilibrium(nn.Module):
    """``y' = -k (y - c)(2 + sin 20t)``: with y0 = c the state rests, and its derivative by c does not."""

    def __init__(self, k):
        super().__init__()
        self.k, self.c = k, nn.Parameter(torch.tensor(1.0, dtype=torch.float64))

    def forward(self, t, y):
        return -self.k * (y - self.c) * (2 + torch.sin(20 * t))

    @property
    def slope(self):
        """``dy(1)/dc = 1 - exp(-k int_0^1 (2 + sin 20t) dt)``."""
        return 1 - math.exp(-self.k * (2 + (1 - math.cos(20)) / 20))


class _QuietStart(nn.Module):
    """``y' = W2 tanh(W1 y + b1) + b2`` with biases 0: rests at 0 with the Jacobian ``W2 W1``."""

    def __init__(self, smallest, d=4, hidden=16):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        w1 = torch.randn(hidden, d, generator=generator, dtype=torch.float64)
        scale = (-smallest / torch.linalg.eigvalsh(w1.T @ w1).max()).sqrt()
        self.w1, self.w2 = nn.Parameter(scale * w1), nn.Parameter(-scale * w1.T.clone())
        self.b1, self.b2 = (nn.Parameter(torch.zeros(n, dtype=torch.float64)) for n in (hidden, d))

    def forward(self, t, y):
        return torch.tanh(y @ self.w1.T + self.b1) @ self.w2.T + self.b2


def _tangent(name="dopri5", **options):
    return make_solver(name, rtol=RTOL, atol=ATOL, sees="tangent", **options)


def _solved(method, solver, field, y0, ts=TS):
    """Return the solution and the number of accepted steps of the forward solve."""
    log = StepLog()
    ys = build_gradient(method)(field, solver.observed_by(log), y0, ts)
    return ys, len(log.ends)


@pytest.mark.parametrize(
    "method", ["naive", "aca", "anode", "revolve", "symplectic_adjoint", "adjoint", "interpolation"]
)
@pytest.mark.parametrize(("k", "steps"), [(5, 14), (10, 17), (20, 23)])
def test_gradient_of_a_state_at_rest(method, k, steps):
    """The closed form within ten tolerances, in the steps that another implementation has taken and a fifth more."""
    field, y0 = _Equilibrium(k), torch.ones(1, 1, dtype=torch.float64)
    ys, taken = _solved(method, make_solver("dopri5", rtol=RTOL, atol=RTOL, sees="tangent"), field, y0)
    (slope,) = torch.autograd.grad(ys[-1].sum(), field.c)
    assert float(slope) == pytest.approx(field.slope, rel=10 * RTOL)
    assert taken <= math.ceil(1.2 * steps)


def test_without_the_tangent_that_gradient_is_far_off():
    """What the option is for: the state is right, and naive's slope is -313 in place of 1."""
    field = _Equilibrium(5)
    ys, _ = _solved("naive", make_solver("dopri5", rtol=RTOL, atol=ATOL), field, torch.ones(1, 1, dtype=torch.float64))
    (slope,) = torch.autograd.grad(ys[-1].sum(), field.c)
    assert float(ys.detach()[-1]) == pytest.approx(1.0, abs=1e-12)
    assert abs(float(slope) - field.slope) > 100


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("smallest", [-9.0, -36.0, -139.0])
def test_gradient_of_a_quiet_start(smallest, seed):
    """``dL/db2 = int_0^1 exp(J^T s) ds v``, ``dL/db1 = W2^T dL/db2``, the weights' vanish; one matrix exponential."""
    field, y0 = _QuietStart(smallest), torch.zeros(1, 4, dtype=torch.float64)
    v = torch.tensor([1.0, 2.0, -1.0, 0.5], dtype=torch.float64)
    ys, _ = _solved("naive", _tangent(tangent_seed=seed), field, y0)
    w1, w2, b1, b2 = torch.autograd.grad((ys[-1] @ v).sum(), [field.w1, field.w2, field.b1, field.b2])
    block = torch.zeros(8, 8, dtype=torch.float64)
    block[:4, :4], block[:4, 4:] = (field.w2 @ field.w1).detach().T, torch.eye(4)
    of_b2 = torch.linalg.matrix_exp(block)[:4, 4:] @ v
    assert float((b2 - of_b2).norm() / of_b2.norm()) <= 10 * RTOL
    of_b1 = field.w2.detach().T @ of_b2
    assert float((b1 - of_b1).norm() / of_b1.norm()) <= 10 * RTOL
    assert not w1.any()
    assert not w2.any()


@pytest.mark.parametrize(
    ("task", "of_state", "of_tangent"),
    [
        ("contracting", 17, 19),
        ("rotation", 31, 32),
        ("lotka_volterra", 6, 6),
        ("van_der_pol", 6, 6),
        ("robertson", 11, 11),
        ("moons", 4, 4),
    ],
)
def test_steps_where_the_state_moves(task, of_state, of_tangent):
    """The tangent costs next to no step there; the state's own steps are those recorded before there was a tangent."""
    problem = build_task(task).build("tiny", 0, torch.device("cpu"), torch.float64)
    taken = {}
    for sees in ("state", "tangent"):
        log = StepLog()
        solver = make_solver("dopri5", rtol=RTOL, atol=ATOL, sees=sees).observed_by(log)
        problem.loss(lambda field, y0, ts, solver=solver: Naive()(field, solver, y0, ts), problem.probe_batch())
        taken[sees] = len(log.ends)
    assert taken["state"] == of_state
    assert taken["tangent"] <= math.ceil(1.2 * of_tangent)


@pytest.mark.parametrize("name", ["dopri5", "bosh3", "tsit5", "dopri8"])
def test_every_method_takes_the_same_steps_and_calls(name):
    """Equal grids, solutions bit for bit, f calls as without a tangent; on the way back aca redoes the state alone."""
    field, ts = SmoothNet(), torch.tensor([0.0, 0.4, 1.5], dtype=torch.float64)
    y0 = torch.randn(4, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = {}
    for method in ("naive", "aca"):
        counts = Counts()
        gradient, solver = build_gradient(method), _tangent(name).observed_by(counts)
        ys = gradient(CountedField(field, counts), solver, y0, ts)
        counts.phase = "recompute"
        grads = torch.autograd.grad(ys[1:].square().sum(), list(field.parameters()))
        steps = (counts.accepted_steps["forward"], counts.rejected_steps["forward"])
        predicted = gradient.predicted_calls(solver.counted(len(ts) - 1, steps))
        assert counts.calls["forward"] == predicted.forward
        assert (counts.calls["recompute"], counts.vjps["recompute"]) == (predicted.backward, predicted.vjps)
        found[method] = (steps, ys.detach(), grads)
    assert found["naive"][0] == found["aca"][0]
    assert torch.equal(found["naive"][1], found["aca"][1])
    for a, b in zip(found["naive"][2], found["aca"][2], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-13)


def test_double_backward_and_functions_without_parameters():
    """Naive keeps its second derivative; a plain function is solved with ``v' = f_y v``; no graph where none is due."""
    field = _Equilibrium(5)
    ys, _ = _solved("naive", _tangent(), field, torch.full((1, 1), 2.0, dtype=torch.float64))
    (slope,) = torch.autograd.grad(ys[-1].square().sum(), field.c, create_graph=True)
    (second,) = torch.autograd.grad(slope, field.c)
    assert float(second) == pytest.approx(2 * field.slope**2, rel=1e-3)
    rate = torch.tensor(-3.0, dtype=torch.float64, requires_grad=True)
    y0 = torch.ones(1, 1, dtype=torch.float64)
    ys = Naive()(lambda t, y: rate * y, _tangent(), y0, TS)
    (of_rate,) = torch.autograd.grad(ys[-1].sum(), rate)
    assert float(of_rate) == pytest.approx(math.exp(-3), rel=1e-3)
    assert not Naive()(lambda t, y: -3.0 * y, _tangent(), y0, TS).requires_grad


@pytest.mark.parametrize("method", ["naive", "adjoint"])
def test_max_step_bounds_every_step(method):
    """Also the first one and those of the backward solve; and it, too, mends the gradient of a state at rest."""
    field, log = _Equilibrium(5), _Sizes()
    solver = make_solver("dopri5", rtol=RTOL, atol=ATOL, max_step=0.05, first_step=0.3).observed_by(log)
    ys = build_gradient(method)(field, solver, torch.ones(1, 1, dtype=torch.float64), TS)
    (slope,) = torch.autograd.grad(ys[-1].sum(), field.c)
    assert float(slope) == pytest.approx(field.slope, rel=10 * RTOL)
    assert log.largest <= 0.05 * (1 + 1e-12)


def test_odeint_takes_torchdiffeqs_max_step():
    """By its name, infinite as there by default, and with torchdiffeq's own solver too."""
    field, y0 = _Equilibrium(5), torch.full((1, 1), 2.0, dtype=torch.float64)
    free, unbounded, bounded, theirs = (
        odeint(field, y0, TS, rtol=RTOL, atol=ATOL, options=options, gradient=gradient)
        for options, gradient in (
            ({}, "naive"),
            ({"max_step": math.inf}, "naive"),
            ({"max_step": torch.tensor(0.01)}, "naive"),
            ({"max_step": 0.01}, "torchdiffeq_naive"),
        )
    )
    assert torch.equal(free, unbounded)
    true = 1 + (1 - field.slope)
    assert abs(float(bounded.detach()[-1]) - true) < 0.01 * abs(float(free.detach()[-1]) - true)
    torch.testing.assert_close(bounded, theirs, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("dopri5", {"max_step": 0.0}, "max_step: expected a positive number, got 0.0"),
        ("dopri5", {"max_step": 0.1, "num_steps": 4}, "max_step: it is for adaptive steps"),
        ("rk4", {"max_step": 0.1}, "max_step: it is for adaptive steps"),
        ("rk4", {"sees": "tangent"}, "sees: it is for adaptive steps"),
        ("dopri5", {"sees": "state and tangent"}, "sees: expected 'state' or 'tangent'"),
        ("dopri5", {"sees": "tangent", "tangent_seed": -1}, "tangent_seed: expected a whole number"),
        ("dopri5", {"sees": "tangent", "compile": True}, "sees: a compiled step has no product"),
        ("alf", {"sees": "tangent"}, "sees: the tangent goes along the stages of an explicit Runge-Kutta method"),
        ("dopri5", {"sees": "tangent", "coupling": 0.9}, "sees: the tangent goes along the stages"),
    ],
)
def test_options_that_cannot_work_say_why(name, options, message):
    with pytest.raises(UsageError, match=message):
        make_solver(name, **options)


@pytest.mark.parametrize("method", ["reversible_rk", "forward_sensitivity", "torchdiffeq_naive", "torchdiffeq_adjoint"])
def test_methods_that_carry_no_tangent_say_why(method):
    with pytest.raises(UnsupportedError, match="use sees = 'state'"):
        build_gradient(method)(_Equilibrium(5), _tangent(), torch.ones(1, 1, dtype=torch.float64), TS)
