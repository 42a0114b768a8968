"""Chebyshev interpolation and the interpolation method against the figures of their theory."""

import math

import numpy as np
import pytest
import torch
from scipy.interpolate import BarycentricInterpolator
from torch import nn

from odegrad.checks.problems import Recorded, SmoothNet, gradient, relative, smooth_net_start
from odegrad.errors import UnsupportedError, UsageError
from odegrad.methods.gradients.adjoint import Adjoint
from odegrad.methods.gradients.interpolation import InterpolatedNode, Interpolation
from odegrad.methods.gradients.naive import Naive
from odegrad.methods.solvers.chebyshev import ChebyshevNodes
from odegrad.methods.solvers.dynamics import FlatField
from odegrad.methods.solvers.solver import make_solver
from odegrad.states import Layout

UNHEEDED = pytest.mark.filterwarnings("ignore::odegrad.errors.InaccurateGradientWarning")
"""For tests that look at gradients which are wrong, or less exact than the tolerance, on purpose."""


def _interpolate(nodes, f, times):
    return nodes.coefficients(times) @ f(nodes.times)


@pytest.mark.parametrize("kind", ["first", "second"])
@pytest.mark.parametrize("n", range(2, 33, 3))
def test_polynomials_below_the_number_of_nodes_are_reproduced(kind, n):
    """Monomials of degree < n come back to 1e-12 of their scale, and exactly at the nodes."""
    nodes = ChebyshevNodes(-1.0, 1.0, n, kind)
    times = np.linspace(-1, 1, 101)
    for degree in range(n):
        assert np.abs(_interpolate(nodes, lambda t, q=degree: t**q, times) - times**degree).max() <= 1e-12
    assert np.array_equal(nodes.coefficients(nodes.times), np.eye(n))


@pytest.mark.parametrize(("n", "error"), [(4, 1.085e-3), (5, 5.183e-5), (8, 2.512e-9), (10, 1.743e-12)])
def test_exponential(n, error):
    """The largest error on [0, 1] for exp with nodes of the second kind."""
    times = np.linspace(0, 1, 20001)
    found = np.abs(_interpolate(ChebyshevNodes(0.0, 1.0, n), np.exp, times) - np.exp(times)).max()
    assert found == pytest.approx(error, rel=2e-3)


@pytest.mark.parametrize(("n", "error"), [(16, 9.93e-2), (32, 4.15e-3)])
def test_runge(n, error):
    """The largest error for Runge's function on [-1, 1]."""
    times = np.linspace(-1, 1, 20001)
    runge = lambda t: 1 / (1 + 25 * t**2)  # noqa: E731
    found = np.abs(_interpolate(ChebyshevNodes(-1.0, 1.0, n), runge, times) - runge(times)).max()
    assert found == pytest.approx(error, rel=2e-3)


@pytest.mark.parametrize(
    ("kind", "n", "constant"),
    [
        ("second", 8, 2.2022),
        ("second", 16, 2.6867),
        ("second", 32, 3.1487),
        ("first", 8, 2.2870),
        ("first", 16, 2.7278),
        ("first", 32, 3.1689),
    ],
)
def test_lebesgue_constants(kind, n, constant):
    """The Lebesgue constant, below (2 / pi) ln n + 1 for extrema."""
    times = np.linspace(-1, 1, 100001)
    found = np.abs(ChebyshevNodes(-1.0, 1.0, n, kind).coefficients(times)).sum(1).max()
    assert found == pytest.approx(constant, abs=1e-4)
    assert found <= 2 / math.pi * math.log(n) + 1


@pytest.mark.parametrize("interval", [(0.0, 1.0), (2.0, -1.0)])
def test_agrees_with_scipy(interval):
    """The formula agrees with scipy's barycentric interpolator on the same nodes, in both directions of time."""
    nodes = ChebyshevNodes(*interval, 12)
    times = np.linspace(*interval, 57)
    values = np.sin(3 * nodes.times)
    assert np.allclose(
        nodes.coefficients(times) @ values, BarycentricInterpolator(nodes.times, values)(times), atol=1e-13
    )


def _smooth():
    y0, target = smooth_net_start()
    ts = torch.tensor([0.0, 1.0], dtype=torch.float64)
    return SmoothNet(), y0, ts, lambda ys: 0.5 * ((ys[-1] - target) ** 2).sum(-1).mean()


def test_smooth_net_figures():
    """The reference problem: its loss and the norms of its gradients, to the quoted digits."""
    field, y0, ts, loss = _smooth()
    tight = make_solver("dopri8", rtol=1e-13, atol=1e-13)
    with torch.no_grad():
        assert loss(Naive()(field, tight, y0, ts)).item() == pytest.approx(12.661202485130, abs=1e-11)
    g = gradient(Naive(), field, tight, y0, ts, loss)
    assert torch.linalg.vector_norm(g[y0.numel() :]).item() == pytest.approx(12.610389360370, abs=1e-10)
    assert torch.linalg.vector_norm(g[: y0.numel()]).item() == pytest.approx(2.062084505578, abs=1e-10)


@UNHEEDED
@pytest.mark.parametrize(("n", "error"), [(4, 1.622e-3), (6, 7.745e-5), (8, 4.769e-6), (12, 2.830e-8), (16, 2.977e-10)])
def test_gradient_error_falls_with_the_number_of_nodes(n, error):
    """Everything else solved finely, dL/dtheta is off by the interpolation error alone."""
    field, y0, ts, loss = _smooth()
    fine = make_solver("dopri5", rtol=1e-11, atol=1e-11)
    true = gradient(Naive(), field, make_solver("dopri8", rtol=1e-13, atol=1e-13), y0, ts, loss)[y0.numel() :]
    found = gradient(Interpolation(num_nodes=n), field, fine, y0, ts, loss)[y0.numel() :]
    assert relative(found, true) == pytest.approx(error, rel=0.02)


def test_node_states_are_as_good_as_the_end_point():
    """The states at the nodes, from dense output, are within 5x the end point's error (mean over tolerances)."""
    field, y0, ts, _ = _smooth()
    nodes = ChebyshevNodes(0.0, 1.0, 16)
    times = torch.from_numpy(nodes.times)
    with torch.no_grad():
        true = Naive()(field, make_solver("dopri8", rtol=1e-13, atol=1e-13), y0, times)
        for tol in (1e-5, 1e-7):
            flat = FlatField(field, Layout.of(y0))
            route = InterpolatedNode(flat, make_solver("dopri5", rtol=tol, atol=tol), ts.tolist(), Interpolation())
            _, (values, _) = route.forward(y0.reshape(-1))
            worst = (values[0] - true.flatten(1)).abs().amax(1)
            assert worst.max() <= 5 * worst[-1]


@UNHEEDED
def test_linear_field_needs_no_interpolation():
    """For f = A z the Jacobian does not depend on z, so dL/dz0 is exact with two nodes; dL/dA is not."""

    class Linear(nn.Module):
        def __init__(self):
            super().__init__()
            self.A = nn.Parameter(torch.tensor([[-0.5, 1.0], [-1.0, 0.2]], dtype=torch.float64))

        def forward(self, t, z):
            return z @ self.A.T

    field, y0 = Linear(), torch.tensor([[1.0, 0.5]], dtype=torch.float64)
    ts, fine = torch.tensor([0.0, 2.0], dtype=torch.float64), make_solver("dopri5", rtol=1e-11, atol=1e-11)
    end = lambda ys: (ys[-1] ** 2).sum()  # noqa: E731
    true, found = (gradient(m, field, fine, y0, ts, end) for m in (Naive(), Interpolation(num_nodes=2)))
    assert relative(found[:2], true[:2]) <= 1e-9
    assert relative(found[2:], true[2:]) > 1e-2


@pytest.mark.parametrize("n", [2, 8, 32])
def test_forward_does_not_depend_on_the_number_of_nodes(n):
    """z(t1) and the forward f calls are those of the plain solve."""
    field, y0, ts, _ = _smooth()
    solver = make_solver("dopri5", rtol=1e-5, atol=1e-5)
    plain, recorded = Recorded(field), Recorded(field)
    with torch.no_grad():
        assert torch.equal(Naive()(plain, solver, y0, ts), Interpolation(num_nodes=n)(recorded, solver, y0, ts))
    assert plain.times == recorded.times


@UNHEEDED
def test_contracting_dynamics_need_fewer_backward_calls_than_the_adjoint():
    """With f - 30 z the state cannot be solved backwards cheaply; the interpolation method need not."""

    class Contracting(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = SmoothNet()

        def forward(self, t, z):
            return self.net(t, z) - 30 * z

    y0, target = smooth_net_start()
    ts, calls = torch.tensor([0.0, 1.0], dtype=torch.float64), {}
    for method in (Adjoint(), Interpolation(num_nodes=32)):
        field = Recorded(Contracting())
        ys = method(field, make_solver("dopri5", rtol=1e-7, atol=1e-7), y0, ts)
        forward = len(field.times)
        (0.5 * (ys[-1] - target) ** 2).sum().backward()
        calls[method.traits.name] = len(field.times) - forward
    assert calls["adjoint"] >= 1.5 * calls["interpolation"]


def test_field_never_sees_a_state_that_is_not_finite():
    """Every state that reaches f, forward and backward, is finite: also for a field that ignores t."""

    class Watching(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(torch.eye(8, dtype=torch.float64) * 0.3)
            self.bad = 0

        def forward(self, t, z):
            self.bad += int(not torch.isfinite(z).all())
            return torch.tanh(z @ self.w)

    field, (y0, _) = Watching(), smooth_net_start()
    ts = torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64)
    Interpolation()(field, make_solver("dopri5"), y0, ts).pow(2).sum().backward()
    assert field.bad == 0


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"num_nodes": 1}, "num_nodes: expected a whole number of at least 2"),
        ({"num_nodes": 4.0}, "num_nodes: expected a whole number"),
        ({"kind": "third"}, "kind: expected 'first' or 'second'"),
        ({"parameters": "none"}, "parameters: expected 'quadrature', 'state' or 'seminorm'"),
        ({"rtol": -1.0}, "rtol: expected a positive number"),
    ],
)
def test_bad_options_are_refused(options, match):
    """Options out of range are refused with their name."""
    with pytest.raises(UsageError, match=match):
        Interpolation(**options)


def test_solver_without_dense_output_is_refused_with_the_reason():
    """dopri8 has no continuous extension here, so the node states cannot be had from it."""
    field, y0, ts, _ = _smooth()
    with pytest.raises(
        UnsupportedError, match="interpolation cannot use solver dopri8: the node states come from dense"
    ):
        Interpolation()(field, make_solver("dopri8"), y0, ts)
