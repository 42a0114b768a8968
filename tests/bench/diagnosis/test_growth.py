"""Predicted growth of errors: every bound holds on the smooth net for every sample, and is not far off."""

import math
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from odegrad.checks.limits import CONTRACTIONS, contraction_error
from odegrad.checks.problems import SmoothNet, smooth_net_start
from odegrad.diagnosis.growth import (
    accumulated_backward,
    adjoint_growth,
    adjoint_relative_error,
    bernstein_bound,
    costate_defect,
    costate_sandwich,
    interpolation_error_bound,
    lipschitz_costate_bound,
    lipschitz_of_jacobian,
    parameter_gradient_bound,
    parameter_sensitivity,
)
from odegrad.diagnosis.trajectory import TrajectoryNorms, log_norms
from odegrad.errors import UsageError
from odegrad.methods.gradients.adjoint import Adjoint
from odegrad.methods.gradients.naive import Naive
from odegrad.methods.solvers.chebyshev import ChebyshevNodes
from odegrad.methods.solvers.solver import make_solver

TIGHT = make_solver("dopri8", rtol=1e-12, atol=1e-12)
TIMES = torch.linspace(0.0, 1.0, 161, dtype=torch.float64)


class _Costate(nn.Module):
    """``(a, g)`` backward in ``s = t1 - t`` along a given trajectory: ``da/ds = J^T a``, ``dg/ds = f_theta^T a``."""

    def __init__(self, field, trajectory):
        super().__init__()
        self.field, self.trajectory = field, trajectory

    def forward(self, s, state):
        a, _ = state
        t = 1 - s
        with torch.enable_grad():
            z = self.trajectory(float(t)).requires_grad_()
            dy = self.field(t, z)
            pulled = torch.autograd.grad(dy, [z, *self.field.parameters()], a)
        g = torch.cat([p.reshape(-1) for p in pulled[1:]])
        return pulled[0], g[None]


@dataclass(frozen=True)
class _Smooth:
    field: nn.Module
    states: Tensor
    costates: Tensor
    gradient: Tensor
    norms: TrajectoryNorms
    fine: ChebyshevNodes
    fine_values: Tensor

    def trajectory(self, t):
        """Return z(t) [16, 8], from 33 nodes: exact to 1e-12."""
        return self.fine.evaluate(self.fine_values, [t])[0].reshape(16, 8)

    def costate(self, trajectory):
        """Return the costates at TIMES [161, 16, 8] and dL/dtheta along a trajectory."""
        _, target = smooth_net_start()
        end = (self.states[-1] - target) / 16
        p = sum(x.numel() for x in self.field.parameters())
        start = (end, torch.zeros(1, p, dtype=torch.float64))
        with torch.no_grad():
            a, g = Naive()(_Costate(self.field, trajectory), TIGHT, start, TIMES)
        return a.flip(0), g[-1, 0]

    def near(self, num_nodes):
        """Return the interpolant through ``num_nodes`` Chebyshev extrema as a callable, and its values at TIMES."""
        nodes = ChebyshevNodes(0.0, 1.0, num_nodes)
        values = self.fine.evaluate(self.fine_values, nodes.times.tolist())
        return lambda t: nodes.evaluate(values, [t])[0].reshape(16, 8), nodes.evaluate(values, TIMES.tolist()).reshape(
            -1, 16, 8
        )


@pytest.fixture(scope="module")
def smooth():
    """Return the smooth net, its states, costates and gradient to 1e-11."""
    field, (y0, _) = SmoothNet(), smooth_net_start()
    fine = ChebyshevNodes(0.0, 1.0, 33)
    with torch.no_grad():
        values = Naive()(field, TIGHT, y0, torch.from_numpy(fine.times)).reshape(33, -1)
    states = fine.evaluate(values, TIMES.tolist()).reshape(-1, 16, 8)
    norms = log_norms(field, TIMES, states)
    bare = _Smooth(field, states, states, states, norms, fine, values)
    costates, gradient = bare.costate(bare.trajectory)
    return _Smooth(field, states, costates, gradient, norms, fine, values)


def _norm(x):
    return x.reshape(*x.shape[:2], -1).norm(dim=2)


def test_the_reference_is_the_quoted_problem(smooth):
    """Costate and gradient have the quoted sizes."""
    assert smooth.gradient.norm().item() == pytest.approx(12.610389360370, rel=1e-9)
    assert smooth.costates[0].norm().item() == pytest.approx(2.062084505578, rel=1e-9)


@pytest.mark.parametrize(("num_nodes", "published"), [(4, 1.622e-3), (6, 7.745e-5), (8, 4.769e-6)])
def test_bounds_of_the_interpolation_method(smooth, num_nodes, published):
    """(A), (C), (D), (E) hold for every sample; and are not too large by orders of magnitude."""
    interpolant, near = smooth.near(num_nodes)
    costates, gradient = smooth.costate(interpolant)
    error = _norm(costates - smooth.costates)
    assert ((gradient - smooth.gradient).norm() / smooth.gradient.norm()).item() == pytest.approx(published, rel=2e-3)

    mu_near = log_norms(smooth.field, TIMES, near).mu_2
    defect = costate_defect(smooth.field, TIMES, smooth.states, near, smooth.costates)
    bound = accumulated_backward(TIMES, mu_near, defect)
    _holds("A", num_nodes, bound[0], error[0], most={4: 20, 6: 40, 8: 80}[num_nodes])
    assert (bound[:-9] >= error[:-9]).all()  # the trapezoid rule falls short in the last, unresolved intervals

    eps, end = _norm(near - smooth.states).amax(0), _norm(smooth.costates)[-1]
    lipschitz = lipschitz_of_jacobian(smooth.field, TIMES, smooth.states, near)
    mu_max = torch.maximum(smooth.norms.mu_2, mu_near).amax(0)
    _holds("C", num_nodes, lipschitz_costate_bound(lipschitz, eps, 1.0, mu_max, end), error[0], most=1000)

    norms, lipschitz_theta = parameter_sensitivity(smooth.field, TIMES[::8], smooth.states[::8], near[::8])
    whole = parameter_gradient_bound(
        TIMES[::8], bound[::8], norms, _norm(smooth.costates)[::8], 1.05 * lipschitz_theta, eps
    )
    _holds("D", num_nodes, whole, (gradient - smooth.gradient).norm(), most=1000)

    predicted = interpolation_error_bound(
        lambda t: smooth.fine.evaluate(smooth.fine_values, t.tolist()).numpy(), 0.0, 1.0, num_nodes, samples=32
    )
    seen = (near - smooth.states).reshape(len(TIMES), -1).abs().amax(0)
    _holds("E", num_nodes, torch.from_numpy(predicted), seen, most=1000)


def _holds(name, num_nodes, bound, observed, most):
    ratio = bound / observed
    print(f"({name}) N = {num_nodes}: bound / observed {ratio.min():.3g} to {ratio.max():.3g}")
    assert ratio.min() >= 1 - 1e-9
    assert ratio.median() <= most


def test_costates_lie_in_the_sandwich(smooth):
    """(B) at every time and sample; the upper bound at t0 is at most 6 times too large."""
    size = _norm(smooth.costates)
    lower, upper = costate_sandwich(TIMES, smooth.norms.mu_2, smooth.norms.mu_2_minus, size[-1])
    print(f"(B) upper / observed at t0 {(upper / size)[0].min():.3g} to {(upper / size)[0].max():.3g}")
    print(f"(B) observed / lower at t0 {(size / lower)[0].min():.3g} to {(size / lower)[0].max():.3g}")
    assert (lower <= size * (1 + 1e-6)).all()
    assert (size <= upper * (1 + 1e-6)).all()
    assert (upper / size)[0].max() < 6
    assert torch.equal(upper[-1], size[-1])


def test_accumulation_in_closed_form():
    """Constant mu and rate give rate (exp(mu (t1 - t)) - 1) / mu, also for falling times."""
    ts = torch.linspace(2.0, 0.0, 4001, dtype=torch.float64)
    found = accumulated_backward(ts, torch.full((4001, 1), 1.5).double(), torch.full((4001, 1), 0.3).double())[:, 0]
    assert torch.allclose(found, 0.3 * torch.expm1(1.5 * ts) / 1.5, rtol=1e-6)


@pytest.mark.parametrize("num_nodes", [4, 8, 16, 32])
def test_bernstein_bounds_a_function_with_a_pole(num_nodes):
    """1 / (x - 1.5) is analytic inside rho = 1.5 + sqrt(1.25); the bound of each smaller ellipse holds."""
    nodes = ChebyshevNodes(-1.0, 1.0, num_nodes)
    x = np.linspace(-1, 1, 501)

    def function(x):
        return 1 / (np.asarray(x) - 1.5)

    interpolant = nodes.evaluate(torch.from_numpy(function(nodes.times))[:, None], x.tolist())[:, 0].numpy()
    observed = np.abs(interpolant - function(x)).max()
    for share in (0.3, 0.6, 0.9):
        rho = 1 + share * (0.5 + math.sqrt(1.25))
        largest = 1 / (1.5 - (rho + 1 / rho) / 2)
        assert observed <= bernstein_bound(largest, rho, num_nodes) + 1e-14
    (fitted,) = interpolation_error_bound(lambda t: function(t)[:, None], -1.0, 1.0, num_nodes)
    assert observed <= fitted
    assert fitted < 50 * observed + 1e-12


def test_no_ellipse_is_refused():
    """A rho of 1 bounds nothing."""
    with pytest.raises(UsageError, match="rho, num_nodes: expected rho > 1"):
        bernstein_bound(1.0, 1.0, 8)


class _Contracting(nn.Module):
    """``y' = A y`` with eigenvalues -1 and -lam in turned axes."""

    def __init__(self, lam):
        super().__init__()
        turn = torch.tensor([[math.cos(0.5), -math.sin(0.5)], [math.sin(0.5), math.cos(0.5)]], dtype=torch.float64)
        self.a = nn.Parameter(turn @ torch.diag(torch.tensor([-1.0, -lam], dtype=torch.float64)) @ turn.T)

    def forward(self, t, y):
        return y @ self.a.T


def _predicted(lam):
    """Return the norms along the solution of the contracting problem."""
    field, y0 = _Contracting(lam), torch.tensor([[1.0, 0.5], [-0.3, 0.8]], dtype=torch.float64)
    ts = torch.linspace(0.0, 1.0, 11, dtype=torch.float64)
    with torch.no_grad():
        ys = torch.stack([y0 @ torch.linalg.matrix_exp(t * field.a).T for t in ts])
    return log_norms(field, ts, ys)


@pytest.mark.parametrize("lam", CONTRACTIONS)
def test_growth_factor_of_contracting_dynamics(lam):
    """exp(int mu_2(-J)) along the trajectory equals exp(mu_2(-A) T) = exp(lam); the stiffness ratio is lam."""
    norms = _predicted(lam)
    assert norms.integral("mu_2_minus").exp().tolist() == pytest.approx([math.exp(lam)] * 2, rel=1e-10)
    assert adjoint_growth(norms.times, norms.mu_2_minus).tolist() == pytest.approx([math.exp(lam)] * 2, rel=1e-10)
    assert norms.stiffness_ratio.flatten().tolist() == pytest.approx([lam] * 22, rel=1e-10)


def test_prediction_follows_the_adjoint():
    """The adjoint's observed error grows with the predicted one (slope 0.8 to 1.3) and stays below it."""
    solver, lams = make_solver("dopri5", rtol=1e-6, atol=1e-9), (20, 30, 40)
    norms = {lam: _predicted(lam) for lam in lams}
    told = [adjoint_relative_error(n.times, n.mu_2_minus, 1e-6).max().item() for n in norms.values()]
    seen = [contraction_error(Adjoint(), solver, lam) for lam in lams]
    assert all(s <= t for s, t in zip(seen, told, strict=True))
    slope = math.log(seen[-1] / seen[0]) / math.log(told[-1] / told[0])
    assert 0.8 <= slope <= 1.3
