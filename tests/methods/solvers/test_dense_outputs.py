"""Outputs read from dense output: fewer steps, the solution to tolerance, and naive's gradient for exact methods."""

from dataclasses import replace

import pytest
import torch

import odegrad
from odegrad.checks.choice import naive_gradient
from odegrad.checks.problems import CLOSED_FORMS, Recorded, SmoothNet, StepLog, gradient, relative
from odegrad.datasets.nets.stiff_fields import ProtheroRobinsonField
from odegrad.errors import UnsupportedError, UsageError
from odegrad.methods.solvers.solver import make_solver
from odegrad.registry import build_gradient, odeint_solver

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


@pytest.mark.parametrize(
    ("solver", "options", "reads"),
    [
        ("dopri5", {}, True),
        ("tsit5", {}, True),
        ("bosh3", {}, True),
        ("kencarp4", {}, False),  # its cubic has the order that is controlled, on slow modes only
        ("kvaerno5", {}, False),
        ("dopri8", {}, False),
        ("alf", {}, False),
        ("dopri5", {"coupling": 0.99}, False),
        ("rk4", {}, False),
        ("dopri5", {"step_size": 0.1}, False),
    ],
)
def test_auto_reads_where_the_dense_output_is_as_good_as_the_steps(solver, options, reads):
    """And has the bits of the way that it takes."""
    ys = {}
    assert make_solver(solver, outputs="auto", **options).reads_inside_steps is reads
    for outputs in ("auto", "dense" if reads else "step_ends"):
        chosen = make_solver(solver, rtol=1e-4, atol=1e-6, outputs=outputs, **options)
        ys[outputs] = build_gradient("aca")(SmoothNet(d=3, hidden=8), chosen, _start(), TS).detach()
    first, second = ys.values()
    assert torch.equal(first, second)


def test_implicit_steps_are_too_long_to_be_read_inside():
    """On a fast mode steps grow past all that a cubic can follow: ``auto`` ends one at each output."""
    ts = torch.linspace(0.0, 10.0, 21, dtype=torch.float64)
    errors = {}
    for outputs in ("auto", "dense"):
        solver = make_solver("kencarp4", rtol=1e-6, atol=1e-8, outputs=outputs)
        ys = build_gradient("naive")(ProtheroRobinsonField(1e6), solver, torch.ones(1, 1, dtype=torch.float64), ts)
        errors[outputs] = float((ys[:, 0, 0] - torch.cos(ts)).detach().abs().max())
    assert errors["auto"] <= 1e-6
    assert errors["dense"] >= 1e-3


def test_samples_with_steps_of_their_own_land_on_their_outputs():
    assert not make_solver("dopri5", outputs="auto", batch="per_sample").reads_inside_steps


@pytest.mark.parametrize(("solver", "order"), [("dopri5", 5), ("tsit5", 5), ("bosh3", 3)])
def test_what_auto_reads_converges_with_the_order_that_is_controlled(solver, order):
    """Inside of a step h the dense output is off by h^order at the most, as the embedded result is at its end."""
    problem = CLOSED_FORMS[2]
    ts = torch.tensor([0.0, 0.37, 0.4], dtype=torch.float64)
    errors = []
    for scale in (1.0, 0.5):
        times = ts * scale
        whole = make_solver(solver, num_steps=1, outputs="dense")
        ys = build_gradient("naive")(problem.field(), whole, problem.start(), times)
        true = problem.solution(problem.field().theta, problem.start(), times[0], times[1])
        errors.append(float((ys[1] - true).detach().abs().max()))
    assert errors[0] / errors[1] > 2 ** (order - 0.4)


@pytest.mark.parametrize("name", [*EXACT, *CONTINUOUS])
def test_outputs_cost_no_call_by_default(name):
    """In ``odeint`` a solve to 21 outputs takes the forward steps of one to a single output."""
    calls = []
    for ts in (TS, TS[[0, -1]]):
        log, field = StepLog(), SmoothNet(d=3, hidden=8)
        solver = odeint_solver("dopri5", 1e-5, 1e-7).observed_by(log)
        build_gradient(name)(field, solver, _start(), ts)
        calls.append(len(log.ends))
    assert calls[0] == calls[1] < 10
    recorded = [Recorded(SmoothNet(d=3, hidden=8)) for _ in range(2)]
    for each, ts in zip(recorded, (TS, TS[[0, -1]]), strict=True):
        odegrad.odeint(each, _start(), ts, rtol=1e-5, atol=1e-7)
    assert len(recorded[0].times) == len(recorded[1].times)


def test_blocks_end_with_the_steps_that_reach_outputs():
    """So that anode keeps a block's start for each of them, and no graph of the whole solve."""
    kept = {}
    for steps_per_block in (None, 1):
        method = build_gradient("anode", {"steps_per_block": steps_per_block})
        # 30 steps, of which 20 reach an output and begin a new block
        ys = method(SmoothNet(d=3, hidden=8), make_solver("rk4", num_steps=30, outputs="dense"), _start(), TS)
        (solve, _), *_ = ys.grad_fn.next_functions
        kept[steps_per_block] = sum(x.shape == (15,) for x in solve.saved_tensors)
    assert kept[1] - kept[None] == 10


def test_solvers_without_dense_output_refuse():
    with pytest.raises(UsageError, match="dopri8 has no dense output; use 'step_ends'"):
        make_solver("dopri8", outputs="dense")
    with pytest.raises(UsageError, match="expected 'step_ends', 'dense' or 'auto', got 'none'"):
        make_solver("dopri5", outputs="none")
    with pytest.raises(UnsupportedError, match="the wrapped method has no dense output"):
        build_gradient("reversible_rk")(SmoothNet(d=3), make_solver("dopri5", outputs="dense"), _start(), TS)
