"""The steps of implicit solvers: order, work on stiff equations, systems of every kind, failures and refusals."""

import math

import pytest
import torch
from torch import nn

from odegrad.checks.problems import StepLog
from odegrad.contracts import ImplicitWork
from odegrad.datasets.nets.stiff_fields import ProtheroRobinsonField, RobertsonField, VanDerPolField
from odegrad.errors import NewtonError, NonFiniteError, TooManyStepsError, UnsupportedError, UsageError
from odegrad.measuring.counting import CountedField, Counts
from odegrad.methods.gradients.naive import Naive
from odegrad.methods.solvers.dynamics import FlatField
from odegrad.methods.solvers.implicit.krylov import gmres
from odegrad.methods.solvers.loop import steps
from odegrad.methods.solvers.solver import make_solver
from odegrad.methods.solvers.steppers import plain_stepper
from odegrad.states import Layout

ORDERS = {
    "implicit_euler": 1,
    "implicit_midpoint": 2,
    "tr_bdf2": 2,
    "kvaerno3": 3,
    "kencarp4": 4,
    "kvaerno5": 5,
}


class _Swinging(nn.Module):
    """Nonlinear, and dependent on time: a tableau with a wrong c passes without that."""

    def __init__(self):
        super().__init__()
        self.rates = nn.Parameter(torch.tensor([1.3, 0.7], dtype=torch.float64))

    def forward(self, t, y):
        x, v = y.unbind(-1)
        a, b = self.rates
        return torch.stack([-a * x * v + torch.sin(2 * t), -b * v + torch.cos(3 * t) * x], dim=-1)


def _solved(field, y0, end, name, **options):
    """Return (end state, step log, f calls) of a solve without a graph."""
    log, counts = StepLog(), Counts()
    solver = make_solver(name, **options).observed_by(log)
    with torch.no_grad():
        ys = Naive()(CountedField(field, counts), solver, y0, torch.tensor([0.0, end], dtype=torch.float64))
    return ys[-1], log, counts.calls["forward"]


def _work(log):
    return sum(log.works, ImplicitWork())


def _end_and_gradient(name, steps_taken):
    field, y0 = _Swinging(), torch.tensor([[1.0, 0.5]], dtype=torch.float64, requires_grad=True)
    solver = make_solver(name, num_steps=steps_taken, rtol=1e-10, atol=1e-10, newton=1e-4)
    ys = Naive()(field, solver, y0, torch.tensor([0.0, 2.0], dtype=torch.float64))
    grads = torch.autograd.grad((ys[-1] ** 2).sum(), (y0, *field.parameters()))
    return ys[-1].detach(), torch.cat([g.reshape(-1) for g in grads])


@pytest.fixture(scope="module")
def truth():
    field, y0 = _Swinging(), torch.tensor([[1.0, 0.5]], dtype=torch.float64, requires_grad=True)
    solver = make_solver("dopri8", num_steps=200)
    ys = Naive()(field, solver, y0, torch.tensor([0.0, 2.0], dtype=torch.float64))
    grads = torch.autograd.grad((ys[-1] ** 2).sum(), (y0, *field.parameters()))
    return ys[-1].detach(), torch.cat([g.reshape(-1) for g in grads])


@pytest.mark.parametrize(("name", "order"), ORDERS.items())
def test_slopes_of_state_and_gradient(name, order, truth):
    """On fixed grids both errors fall with the order, on a field that depends on time."""
    coarse, fine = (_end_and_gradient(name, n) for n in (20, 40))
    for before, after, true in zip(coarse, fine, truth, strict=True):
        slope = math.log2(float((before - true).norm() / (after - true).norm()))
        assert abs(slope - order) <= 0.15, slope


@pytest.mark.parametrize("rate", [1e2, 1e6])
@pytest.mark.parametrize("name", ["tr_bdf2", "kvaerno3", "kencarp4", "kvaerno5"])
def test_stiff_order_does_not_fall_below_the_stage_order(name, rate):
    """Prothero and Robinson's equation on fixed grids, from off its slow solution's curvature: at least order 1.8."""
    field, errors = ProtheroRobinsonField(rate), []
    for n in (20, 40):
        y, _, _ = _solved(
            field, torch.ones(1, 1, dtype=torch.float64), 2.0, name, num_steps=n, rtol=1e-9, atol=1e-9, newton=1e-3
        )
        errors.append(abs(float(y) - math.cos(2.0)))
    assert errors[1] <= 1e-13 or math.log2(errors[0] / errors[1]) >= 1.8, errors


@pytest.mark.parametrize(
    ("name", "rtol", "accepted", "calls"),
    [
        ("tr_bdf2", 1e-4, 137, 550),
        ("kvaerno3", 1e-4, 154, 949),
        ("kencarp4", 1e-4, 46, 498),
        ("kencarp4", 1e-6, 92, 1074),
        ("kvaerno5", 1e-4, 57, 737),
    ],
)
def test_robertson_to_ten_thousand_seconds(name, rtol, accepted, calls):
    """Steps and f calls are within 25 % of the figures known from a prototype, and the counts are told exactly.

    ``f = 1 + 1 trial + iterations``, beside one call for each accepted step's Jacobian.
    """
    y0 = torch.tensor([[1.0, 0.0, 0.0]], dtype=torch.float64)
    y, log, found = _solved(RobertsonField(), y0, 1e4, name, rtol=rtol, atol=1e-4 * rtol)
    work = _work(log)
    of_stages = found - work.jacobians
    assert of_stages == 2 + work.newton + work.newton_lost
    assert work.jacobians == len(log.ends)
    assert work.factorisations == len(log.ends) + log.rejections + work.failures
    assert work.solves == work.newton + work.newton_lost + len(log.ends) + log.rejections
    assert work.products == 3 * work.jacobians
    assert abs(of_stages - calls) <= 0.25 * calls
    assert abs(len(log.ends) - accepted) <= 0.25 * accepted
    assert float(y.sum()) == pytest.approx(1.0, abs=1e-6)


def test_stiffness_does_not_bind_the_steps():
    """Prothero and Robinson's equation at a rate of 1e6: 12 steps, where a stability limit asks for millions."""
    y, log, _ = _solved(
        ProtheroRobinsonField(1e6), torch.ones(1, 1, dtype=torch.float64), 10.0, "kencarp4", rtol=1e-4, atol=1e-6
    )
    assert len(log.ends) <= 15
    assert abs(float(y) - math.cos(10.0)) <= 3 * 6e-7


@pytest.mark.parametrize("parts", [False, True])
def test_systems_of_every_kind_take_the_same_steps(parts):
    """Blocks, one matrix, and GMRES to a hundredth of Newton's tolerance: the same grid, the same solution."""
    y0 = torch.tensor([[2.0, 0.0], [1.0, 0.5], [-0.3, 1.0]], dtype=torch.float64)
    inner = VanDerPolField(10.0)

    class Parts(nn.Module):
        def forward(self, t, y):
            x, v = y
            dy = inner(t, torch.cat([x, v[:, :, 0]], dim=1))
            return dy[:, :1], dy[:, 1:, None]

    field, start = (Parts(), (y0[:, :1], y0[:, 1:, None])) if parts else (inner, y0)
    ends, grids = {}, {}
    for linear in ("blocks", "dense", "krylov"):
        log = StepLog()
        solver = make_solver("kencarp4", rtol=1e-5, atol=1e-7, linear=linear).observed_by(log)
        with torch.no_grad():
            ys = Naive()(field, solver, start, torch.tensor([0.0, 3.0], dtype=torch.float64))
        ends[linear] = torch.cat([y[-1].reshape(3, -1) for y in ys], dim=1) if parts else ys[-1]
        grids[linear] = log.ends
    assert len(grids["blocks"]) > 20
    torch.testing.assert_close(ends["dense"], ends["blocks"], rtol=1e-11, atol=1e-12)
    torch.testing.assert_close(ends["krylov"], ends["blocks"], rtol=1e-4, atol=1e-5)
    assert grids["dense"] == pytest.approx(grids["blocks"], rel=1e-9)
    assert abs(len(grids["krylov"]) - len(grids["blocks"])) <= 2


def test_gmres_solves_a_system_that_needs_restarts():
    """Against a dense solve; a system that it cannot solve in the spaces allowed is told."""
    generator = torch.Generator().manual_seed(2)
    a = torch.eye(90, dtype=torch.float64) + 0.08 * torch.randn(90, 90, generator=generator, dtype=torch.float64)
    r = torch.randn(90, generator=generator, dtype=torch.float64)
    found = gmres(lambda v: a @ v, r, 1e-10, 40)
    assert found.converged
    assert found.products > 20
    assert float((a @ found.x - r).norm()) <= 1e-10
    assert not gmres(lambda v: a @ v, r, 1e-10, 1).converged
    assert gmres(lambda v: a @ v, torch.zeros(90, dtype=torch.float64), 1e-10, 1).products == 0


@pytest.mark.parametrize("name", ORDERS)
def test_a_step_is_a_function_of_time_size_and_start(name):
    """Redone by a fresh stepper in any order, every step of a solve gives the same bits: a replay repeats it."""
    field, y0 = _Swinging(), torch.tensor([[1.0, 0.5], [0.2, -1.0]], dtype=torch.float64)
    flat, fixed = FlatField(field, Layout.of(y0)), {"num_steps": 20} if ORDERS[name] < 3 and name != "tr_bdf2" else {}
    solver = make_solver(name, rtol=1e-5, atol=1e-7, **fixed)
    taken = []
    with torch.no_grad():
        for step in steps(flat, solver, y0.reshape(-1), [0.0, 2.0]):
            taken.append((step.grid_step, step.x.clone(), step.x_next.clone()))
        for grid, x, x_next in reversed(taken):
            again = plain_stepper(solver, flat, y0.reshape(-1)).attempt(grid.t, grid.h, grid.t_next, x)
            assert torch.equal(again, x_next)
    assert len(taken) >= 5


def test_dense_output_is_of_order_three():
    """The cubic Hermite polynomial inside a step, and its coefficients."""
    field, y0 = _Swinging(), torch.tensor([[1.0, 0.5]], dtype=torch.float64)
    flat, errors = FlatField(field, Layout.of(y0)), []
    for n in (8, 16):
        worst = 0.0
        for step in steps(flat, make_solver("kencarp4", num_steps=n), y0.reshape(-1), [0.0, 2.0]):
            middle = step.t + 0.3 * step.h
            (inside,) = step.at([middle])
            powers = torch.tensor([0.3**j for j in range(4)], dtype=torch.float64)
            torch.testing.assert_close(powers @ step.polynomial(), inside, rtol=1e-12, atol=1e-13)
            with torch.no_grad():
                fine = make_solver("dopri8", num_steps=20)
                times = torch.tensor([step.t, middle], dtype=torch.float64)
                true = Naive()(field, fine, step.y[None].clone(), times)[-1]
            worst = max(worst, float((inside - true).norm()))
        errors.append(worst)
    assert math.log2(errors[0] / errors[1]) >= 3.5


class _Mixing(nn.Module):
    def forward(self, t, y):
        return -50.0 * (y - y.mean(0))


def test_a_field_that_mixes_samples_is_refused_by_blocks_only():
    """Blocks would be wrong in silence; one matrix of the whole batch is right."""
    y0 = torch.tensor([[1.0, 0.5], [0.2, -1.0], [0.4, 0.1]], dtype=torch.float64)
    with pytest.raises(UnsupportedError, match=r"samples depend on each other.*'dense'"):
        _solved(_Mixing(), y0, 1.0, "kencarp4", rtol=1e-4, atol=1e-6)
    y, _, _ = _solved(_Mixing(), y0, 1.0, "kencarp4", rtol=1e-4, atol=1e-6, linear="dense")
    torch.testing.assert_close(y, y0.mean(0).expand(3, 2), rtol=1e-4, atol=1e-5)


def test_sizes_choose_the_systems():
    """What does not fit into blocks or a matrix is refused where it was asked for."""
    y0 = torch.zeros(2, 300, dtype=torch.float64)
    for linear, match in (
        ("blocks", "a sample of this state holds 300"),
        ("dense", "the batch of this state holds 600"),
    ):
        with pytest.raises(UnsupportedError, match=match):
            _solved(nn.Identity(), y0, 1.0, "kencarp4", linear=linear)


class _Cliff(nn.Module):
    """Decays with a forcing, and is not a number where ``|y| > 3``, which a first guess of a long step reaches."""

    def forward(self, t, y):
        dy = -100.0 * (y - 2.5 * torch.cos(t))
        return torch.where(y.abs() > 3.0, torch.full_like(y, torch.nan), dy)


def test_newton_fails_and_the_step_is_shortened():
    """A field that is not a number beyond ``|y| > 3`` is solved after failures, which count apart from rejections."""
    field = _Cliff()
    y, log, _ = _solved(
        field, torch.zeros(1, 1, dtype=torch.float64), 2.0, "kencarp4", rtol=1e-3, atol=1e-5, first_step=1.0
    )
    work = _work(log)
    assert work.failures >= 1
    assert work.newton_lost >= 1
    assert work.factorisations == len(log.ends) + log.rejections + work.failures
    # y = 2.5 (r^2 cos t + r sin t) / (1 + r^2) once the start is forgotten
    true = 2.5 * (1e4 * math.cos(2.0) + 100.0 * math.sin(2.0)) / (1 + 1e4)
    assert float(y) == pytest.approx(true, abs=1e-3)


class _Blows(nn.Module):
    def forward(self, t, y):
        return torch.where(t > 0.5, torch.full_like(y, torch.nan), -y)


def test_nothing_hangs():
    """A field that no step gets past, a budget of attempts, a fixed step that Newton cannot solve: errors say so."""
    y0 = torch.ones(1, 1, dtype=torch.float64)
    with pytest.raises((NonFiniteError, RuntimeError), match=r"0\.5") as caught:
        _solved(_Blows(), y0, 1.0, "kencarp4", rtol=1e-4, atol=1e-6)
    assert not isinstance(caught.value, TooManyStepsError)
    start = torch.tensor([[2.0, 0.0]], dtype=torch.float64)
    with pytest.raises(TooManyStepsError, match=r"t = .*h = .*logarithmic norm mu_2"):
        _solved(VanDerPolField(100.0), start, 200.0, "kencarp4", rtol=1e-6, atol=1e-8, max_steps=20)
    with pytest.raises(NewtonError, match=r"stage 2 of the step from t = 0 with h = 20.*num_steps"):
        _solved(VanDerPolField(100.0), start + 0.5, 200.0, "kencarp4", num_steps=10)


class _Root(nn.Module):
    def forward(self, t, y):
        return -torch.sqrt(y.abs()) - 1.0


def test_a_jacobian_that_is_not_finite_is_named():
    """The root's slope at zero is infinite: no step gets away from there, and the error says why."""
    with pytest.raises(NonFiniteError, match="Jacobian is not finite at t = 0"):
        _solved(_Root(), torch.zeros(1, 1, dtype=torch.float64), 1.0, "kencarp4", rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "options", "match"),
    [
        ("kencarp4", {"newton": 0.0}, "newton: expected"),
        ("kencarp4", {"linear": "sparse"}, "linear: expected 'auto'"),
        ("kencarp4", {"compile": True}, "compile: solver kencarp4 is no explicit"),
        ("kencarp4", {"sees": "tangent"}, "sees: the tangent"),
        ("kencarp4", {"coupling": 0.99}, "no inverse"),
        ("implicit_euler", {"outputs": "dense"}, "no dense output"),
        ("implicit_euler", {"max_step": 0.1}, "max_step: it is for adaptive steps"),
        ("dopri5", {"newton": 1e-2}, "newton: it is for implicit solvers"),
        ("dopri5", {"linear": "blocks"}, "linear: it is for implicit solvers"),
    ],
)
def test_options_that_cannot_work(name, options, match):
    """Each is one sentence with the way out."""
    with pytest.raises(UsageError, match=match):
        make_solver(name, **options)


class _Noisy(nn.Module):
    """A fast decay to the cosine whose value is off by up to ``noise``, as by the rounding of sums inside of a net."""

    def __init__(self, noise):
        super().__init__()
        self.noise = noise

    def forward(self, t, y):
        # Its slope is that of the decay: rounding is not differentiated.
        return 1e4 * (torch.cos(t) - y + self.noise * torch.sin(1e8 * y.detach()))


def test_rounding_inside_the_field_does_not_shrink_steps():
    """In float32 Newton's corrections stand still at the field's rounding: steps as in float64, or a reason.

    At 24 epsilons the stage is as good as the field (with a floor of 8 it took 94 steps, 78 more failed); at 400 the
    tolerance is out of reach, and the error says why.
    """
    eps, found = torch.finfo(torch.float32).eps, []
    for dtype, noise in ((torch.float32, 24 * eps), (torch.float64, 0.0)):
        log = StepLog()
        solver = make_solver("kencarp4", rtol=1e-4, atol=1e-6).observed_by(log)
        Naive()(_Noisy(noise), solver, torch.ones(1, 1, dtype=dtype), torch.tensor([0.0, 2.0], dtype=dtype))
        found.append(len(log.ends) + _work(log).failures)
    assert found[0] <= 1.5 * found[1], found
    solver = make_solver("kencarp4", rtol=1e-4, atol=1e-6, num_steps=4)
    with pytest.raises(NewtonError, match=r"stand still at .* by the field's own rounding in torch\.float32"):
        Naive()(_Noisy(400 * eps), solver, torch.ones(1, 1), torch.tensor([0.0, 2.0]))


def test_a_singular_system_says_so():
    """Where ``h gamma`` times an eigenvalue is 1 there is no correction: fixed steps end with a sentence."""

    class Growing(nn.Module):
        def forward(self, t, y):
            return 4.0 * y

    y0, ts = torch.ones(2, 1, dtype=torch.float64), torch.tensor([0.0, 1.0], dtype=torch.float64)
    with pytest.raises(
        NewtonError, match=r"linear system of the step from t = 0 with h = 1 is singular.*shorter steps"
    ):
        Naive()(Growing(), make_solver("kencarp4", num_steps=1), y0, ts)
    ys = Naive()(Growing(), make_solver("kencarp4", first_step=1.0, rtol=1e-6, atol=1e-6), y0, ts)
    torch.testing.assert_close(ys[-1], y0 * math.exp(4.0), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["dopri5", "kencarp4", "rodas5p", "auto_stiff"])
def test_a_first_rate_whose_square_overflows_is_no_failure(name):
    """In float32, of size 1e20 in units of the tolerance, as of POLLU's fastest species; one that is NaN still is."""
    rate = torch.tensor([1e12], dtype=torch.float32)

    def field(t, y):
        return rate * (1.0 - y)

    solver, y0, ts = make_solver(name, rtol=1e-4, atol=1e-8), torch.zeros(1, 1), torch.tensor([0.0, 1e-11])
    with torch.no_grad():
        assert float(Naive()(_Module(field), solver, y0, ts)[-1]) == pytest.approx(1.0 - math.exp(-10.0), abs=1e-3)
        rate.fill_(math.nan)
        with pytest.raises(NonFiniteError, match=r"f\(t0, y0\) is not finite"):
            Naive()(_Module(field), solver, y0, ts)


class _Module(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, t, y):
        return self.function(t, y)
