"""Costates solved backwards by implicit steps over a stored solution: linear systems only, no iteration."""

import pytest
import torch

from odegrad.checks.problems import StepLog
from odegrad.datasets.nets.stiff_fields import RobertsonField, VanDerPolField
from odegrad.errors import UnsupportedError
from odegrad.measuring.counting import CountedField, Counts
from odegrad.methods.gradients.aca import Aca
from odegrad.methods.solvers.solver import make_solver
from odegrad.registry import build_gradient


def _solved(method, solver, field, y0, ts):
    """Return (gradients, counts, log, accepted and rejected steps forward, works forward)."""
    counts, log = Counts(), StepLog()
    leaf = y0.clone().requires_grad_()
    ys = method(CountedField(field, counts), solver.observed_by(log), leaf, ts)
    forward, works = (len(log.ends), log.rejections), tuple(log.works)
    with counts.during("backward"):
        grads = torch.autograd.grad(ys[1:, ..., 0].sum(), (leaf, *field.parameters()))
    return grads, counts, log, forward, works


@pytest.mark.parametrize(("rtol", "bound"), [(1e-4, 3 * 5e-5), (1e-6, 3 * 7e-7)])
def test_robertsons_costate_over_the_dense_output(rtol, bound):
    """kvaerno3 to 1e4 s: the costate at 0 is within three times the error known from a prototype."""
    field, y0 = RobertsonField(), torch.tensor([[1.0, 0.0, 0.0]], dtype=torch.float64)
    ts, solver = torch.tensor([0.0, 1e4], dtype=torch.float64), make_solver("kvaerno3", rtol=rtol, atol=1e-4 * rtol)
    true = _solved(Aca(), solver, field, y0, ts)[0][0]
    found = _solved(build_gradient("interpolation_dense"), solver, field, y0, ts)[0][0]
    assert float((found - true).norm() / true.norm()) <= bound


@pytest.mark.parametrize("name", ["interpolation", "interpolation_dense", "gauss_adjoint"])
def test_continuous_methods_converge_and_their_counts_are_predicted(name):
    """Several outputs, state and parameter: the gradient to a few tolerances, every backward count an equality."""
    field, y0 = VanDerPolField(5.0), torch.tensor([[2.0, 0.0], [1.0, 0.5]], dtype=torch.float64)
    ts, solver = torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64), make_solver("kencarp4", rtol=1e-5, atol=1e-7)
    true = _solved(Aca(), solver, field, y0, ts)[0]
    method = build_gradient(name)
    found, counts, log, forward, works = _solved(method, solver, field, y0, ts)
    for a, b in zip(found, true, strict=True):
        assert float((a - b).norm() / b.norm()) <= 1e-3
    backward = (len(log.ends) - forward[0], log.rejections - forward[1])
    predicted = method.predicted_calls(solver.counted(2, forward, backward, works))
    assert (counts.calls["forward"], counts.calls["backward"]) == (predicted.forward, predicted.backward)
    assert counts.vjps["backward"] == predicted.vjps
    done = log.works[len(works) :]
    assert sum(work.newton for work in done) == 0
    assert sum(work.jacobians for work in done) == predicted.jacobians == 5 * sum(backward)
    assert sum(work.factorisations for work in done) == predicted.factorisations
    assert sum(work.solves for work in done) == predicted.solves


def test_what_a_backward_solve_cannot_do_is_refused():
    """The published forms carry the parameters in the state, of which there are no blocks."""
    method = build_gradient("interpolation_dense", {"parameters": "state"})
    with pytest.raises(UnsupportedError, match="parameters = 'quadrature'"):
        _solved(
            method, make_solver("kencarp4"), VanDerPolField(5.0), torch.ones(1, 2).double(), torch.ones(2).cumsum(0)
        )
    assert "dense output" in build_gradient("interpolation").refuses(make_solver("implicit_euler"))
