"""Outputs read from dense output: fewer steps, the solution to tolerance, and naive's gradient for exact methods."""

from dataclasses import replace

import pytest
import torch

from odegrad.checks.choice import naive_gradient
from odegrad.checks.problems import CLOSED_FORMS, Recorded, SmoothNet, StepLog, gradient, relative
from odegrad.errors import UnsupportedError, UsageError
from odegrad.methods.solvers.solver import make_solver
from odegrad.registry import build_gradient

EXACT = ["naive", "anode", "aca", "revolve", "symplectic_adjoint", "forward_sensitivity"]
CONTINUOUS = ["adjoint", "interpolation", "interpolation_dense", "gauss_adjoint"]
TS = torch.linspace(0.0, 1.0, 21, dtype=torch.float64)


def _start():
    return torch.randn(5, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def _loss(ys):
    return ((ys[1:] * torch.arange(1, 21, dtype=ys.dtype)[:, None, None]) ** 2).mean() + ys[7].sum()


@pytest.mark.parametrize("solver", ["dopri5", "tsit5", "bosh3"])
@pytest.mark.parametrize("name", EXACT)
def test_exact_methods_give_naives_gradient(name, solver):
    field, method = SmoothNet(d=3, hidden=8), build_gradient(name)
    dense = make_solver(solver, rtol=1e-5, atol=1e-7, outputs="dense")
    found = gradient(method, field, dense, _start(), TS, _loss)
    assert relative(found, naive_gradient(method, field, dense, _start(), TS, _loss)) <= 1e-13


@pytest.mark.parametrize("options", [{"steps_per_block": 2}, {"steps_per_block": 1}])
def test_blocks_of_any_size_give_naives_gradient(options):
    field, method = SmoothNet(d=3, hidden=8), build_gradient("anode", options)
    dense = make_solver("rk4", step_size=0.07, outputs="dense")
    found = gradient(method, field, dense, _start(), TS, _loss)
    assert relative(found, naive_gradient(method, field, dense, _start(), TS, _loss)) <= 1e-13


@pytest.mark.parametrize("name", EXACT + CONTINUOUS)
def test_gradients_converge_to_landings(name):
    """At a tight tolerance both ways to meet the outputs have one limit."""
    field, method = SmoothNet(d=3, hidden=8), build_gradient(name)
    landing = make_solver("dopri5", rtol=1e-9, atol=1e-9)
    dense = replace(landing, outputs="dense")
    found = gradient(method, field, dense, _start(), TS, _loss)
    assert relative(found, gradient(method, field, landing, _start(), TS, _loss)) <= 1e-6


@pytest.mark.parametrize("times", [(0.0, 1.5), (1.5, 0.0)])
def test_outputs_inside_steps_are_the_solution(times):
    problem = CLOSED_FORMS[2]
    field, ts = problem.field(), torch.linspace(*times, 40, dtype=torch.float64)
    recorded, log = Recorded(field), StepLog()
    ys = build_gradient("naive")(
        recorded, make_solver("dopri5", rtol=1e-7, atol=1e-9, outputs="dense").observed_by(log), problem.start(), ts
    )
    true = torch.stack([problem.solution(field.theta, problem.start(), ts[0], t) for t in ts])
    assert float((ys - true).detach().abs().max()) < 1e-6
    assert len(log.ends) < 20
    assert log.ends[-1] == times[1]
    assert all(min(times) <= t <= max(times) for t in recorded.times)


def test_dense_outputs_save_function_calls():
    calls = {}
    for outputs in ("step_ends", "dense"):
        recorded = Recorded(SmoothNet(d=3, hidden=8))
        build_gradient("naive")(recorded, make_solver("dopri5", rtol=1e-4, atol=1e-6, outputs=outputs), _start(), TS)
        calls[outputs] = len(recorded.times)
    assert calls["dense"] < 0.5 * calls["step_ends"]


def test_solvers_without_dense_output_refuse():
    with pytest.raises(UsageError, match="dopri8 has no dense output; use 'step_ends'"):
        make_solver("dopri8", outputs="dense")
    with pytest.raises(UsageError, match="expected 'step_ends' or 'dense', got 'none'"):
        make_solver("dopri5", outputs="none")
    with pytest.raises(UnsupportedError, match="the wrapped method has no dense output"):
        build_gradient("reversible_rk")(SmoothNet(d=3), make_solver("dopri5", outputs="dense"), _start(), TS)
