"""The gradient certificate against closed forms, and against gradients spoilt by a known amount."""

import math

import pytest
import torch
from torch import nn

from odegrad.reference.certificate import certify
from odegrad.reference.reference import Reference, reference
from odegrad.reference.subject import of_problem
from odegrad.registry import build_gradient, build_solver

THETA, END = -0.6, 2.0


class _Growth(nn.Module):
    def __init__(self):
        super().__init__()
        self.theta = nn.Parameter(torch.tensor(THETA, dtype=torch.float64))
        self.unused = nn.Parameter(torch.ones(2, dtype=torch.float64))
        self.frozen = nn.Parameter(torch.ones(3, dtype=torch.float64), requires_grad=False)

    def forward(self, t, y):
        return self.theta * y


class _Problem:
    """L = sum_k c_k y_k(END) on y' = theta y, so dL/dtheta = END L."""

    def __init__(self):
        self.model = _Growth()

    def probe_batch(self):
        return torch.tensor([[0.5], [1.0], [2.0]], dtype=torch.float64)

    def loss(self, solve, batch):
        ts = torch.tensor([0.0, END], dtype=torch.float64)
        return (torch.tensor([[1.0], [-2.0], [3.0]], dtype=torch.float64) * solve(self.model, batch, ts)[-1]).sum()


TRUE = END * (0.5 - 2.0 + 6.0) * math.exp(THETA * END)


def _solve(tolerance, solver="dopri8", gradient="naive"):
    method, solver = build_gradient(gradient), build_solver(solver, tolerance, tolerance)
    return lambda field, y0, ts: method(field, solver, y0, ts)


class _Scaled(torch.autograd.Function):
    """The identity, whose backward multiplies by a factor."""

    @staticmethod
    def forward(ctx, x, factor):
        ctx.factor = factor
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        return grad * ctx.factor, None


def _spoilt(factor):
    solve = _solve(1e-12)
    return lambda field, y0, ts: _Scaled.apply(solve(field, y0, ts), factor)


def _subject():
    return of_problem(_Problem())


REFERENCE = reference(_subject())


def test_reference_is_the_closed_form():
    """The reference meets T y_T dL/dy_T to 1e-12; a parameter that is not used counts as zeros, a frozen one not."""
    found = REFERENCE.gradient
    assert found.tolist() == pytest.approx([TRUE, 0.0, 0.0], rel=1e-12, abs=0.0)
    assert (found.dtype, found.device.type) == (torch.float64, "cpu")
    assert REFERENCE.error <= 1e-11
    assert REFERENCE.calls > 0


@pytest.mark.parametrize("gradient", ["naive", "anode", "adjoint"])
def test_error_is_the_distance_to_the_closed_form(gradient):
    """At a loose tolerance the relative error is that against T y_T dL/dy_T."""
    loose = _solve(1e-3, "dopri5", gradient)
    found = certify(_subject, loose, REFERENCE, _solve(1e-3, "dopri5"), 1e-3)
    g = _subject().gradient(loose)[0].item()
    assert found.relative_error == pytest.approx(abs(g - TRUE) / abs(TRUE), rel=1e-6)
    assert 1e-9 < found.relative_error < 1e-2
    if gradient == "adjoint":
        assert found.method_error > 1e-9
    else:
        assert found.method_error <= 1e-14


@pytest.mark.parametrize("factor", [1.25, 0.5, -1.0])
def test_a_gradient_off_by_a_factor(factor):
    """A multiple c of the true gradient: error abs(c - 1), cosine the sign of c; both errors see the method's fault."""
    found = certify(_subject, _spoilt(factor), REFERENCE, _solve(1e-12), 1e-12)
    assert found.relative_error == pytest.approx(abs(factor - 1), rel=1e-9)
    assert found.method_error == pytest.approx(abs(factor - 1), rel=1e-9)
    assert found.cosine == pytest.approx(math.copysign(1.0, factor), abs=1e-12)
    assert found.accuracy == "inaccurate"


def test_without_naive_on_the_same_grid_the_method_error_is_unknown():
    """A peer's own loop takes other steps; it is judged by naive's error all the same."""
    found = certify(_subject, _solve(1e-6), REFERENCE, _solve(1e-6), 1e-6, same_grid=False)
    assert found.method_error is None
    assert found.accuracy == "accurate"


def test_without_a_reference_nothing_is_said_of_the_error():
    """The gradient's own figures stay, the error and the cosine are unknown, the verdict is undecided."""
    found = certify(_subject, _solve(1e-6), Reference(None, None, 100, "why"), _solve(1e-6), 1e-6)
    assert (found.relative_error, found.cosine, found.accuracy) == (None, None, "undecided")
    assert found.method_error == 0.0
    assert found.norm == pytest.approx(abs(TRUE), rel=1e-5)
