"""Random fields, shapes, times and tolerances: exact methods agree with naive, continuous ones to the tolerance."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from odegrad.checks.problems import SmoothNet, gradient, relative
from odegrad.methods.gradients.naive import Naive
from odegrad.methods.solvers.solver import make_solver
from odegrad.registry import build_gradient

EXACT = ["anode", "aca", "symplectic_adjoint"]
CONTINUOUS = ["adjoint", "interpolation", "interpolation_dense", "gauss_adjoint"]


class _Pair(nn.Module):
    """A field on a tuple of two states of different shapes."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, t, state):
        y, s = state
        return self.net(t, y) * torch.cos(s).mean(-1, keepdim=True), torch.tanh(s) - y.mean(-1, keepdim=True)


@st.composite
def problems(draw):
    """Draw (field, y0, ts, tolerance)."""
    d, batch = draw(st.integers(1, 5)), draw(st.integers(1, 4))
    seed = draw(st.integers(0, 10_000))
    net = SmoothNet(d=d, hidden=draw(st.integers(1, 8)), seed=seed, scale=draw(st.floats(0.2, 1.5)))
    generator = torch.Generator().manual_seed(seed + 1)
    y0 = torch.randn(batch, d, generator=generator, dtype=torch.float64)
    gaps = draw(st.lists(st.floats(0.05, 0.8), min_size=1, max_size=4))
    times = torch.tensor([0.0, *gaps], dtype=torch.float64).cumsum(0) * draw(st.sampled_from([1.0, -1.0]))
    times = times + draw(st.floats(-2.0, 2.0))
    if draw(st.booleans()):
        extra = torch.randn(batch, draw(st.integers(1, 3)), generator=generator, dtype=torch.float64)
        return _Pair(net), (y0, extra), times, draw(st.sampled_from([1e-3, 1e-5, 1e-7]))
    return net, y0, times, draw(st.sampled_from([1e-3, 1e-5, 1e-7]))


def _loss(ys):
    parts = ys if isinstance(ys, tuple) else (ys,)
    return torch.stack([(p.sin() * (1 + k)).sum() for k, p in enumerate(parts)]).sum()


@settings(max_examples=40, deadline=None, derandomize=True)
@given(problem=problems(), solver=st.sampled_from(["dopri5", "bosh3", "rk4"]), name=st.sampled_from(EXACT))
def test_exact_methods_equal_naive(problem, solver, name):
    """On one grid the gradients agree to rounding, whatever the field, state, times and tolerance."""
    field, y0, ts, tol = problem
    built = make_solver("rk4", num_steps=3) if solver == "rk4" else make_solver(solver, rtol=tol, atol=tol)
    found = gradient(build_gradient(name), field, built, y0, ts, _loss, of_times=True)
    true = gradient(Naive(), field, built, y0, ts, _loss, of_times=True)
    assert relative(found, true) <= 1e-12


@settings(max_examples=25, deadline=None, derandomize=True)
@given(problem=problems(), name=st.sampled_from(CONTINUOUS))
def test_continuous_methods_agree_with_naive_to_the_tolerance(problem, name):
    """Solved at 1e-9 the gradients agree to 1e-5 of their size or better."""
    field, y0, ts, _ = problem
    tight = make_solver("dopri5", rtol=1e-9, atol=1e-9)
    options = {"num_nodes": 24} if name in {"interpolation", "gauss_adjoint"} else {}
    found = gradient(build_gradient(name, options), field, tight, y0, ts, _loss, of_times=True)
    assert relative(found, gradient(Naive(), field, tight, y0, ts, _loss, of_times=True)) <= 1e-5
