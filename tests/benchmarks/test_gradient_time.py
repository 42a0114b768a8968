"""Time of one gradient as a ratio to torchdiffeq's and to the bare calls, interleaved in one process.

Run with ``tox -e benchmarks``, which tunes the allocator. Each case stores in ``extra_info`` the median ratio, its
quartiles, both gradient errors and both counts of calls: a time without its error says nothing.
"""

import dataclasses
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from odegrad.contracts import GradientMethod
from odegrad.errors import UnsupportedError
from odegrad.measuring.counting import CountedField, Counts
from odegrad.methods.solvers.compiled import compile_seconds
from odegrad.methods.solvers.solver import OneStepSolver
from odegrad.registry import build_gradient
from odegrad.user.files import load_from_file

build = load_from_file(f"{Path(__file__).with_name('problems.py')}:build", "problem")

ROUNDS = int(os.environ.get("ODEGRAD_BENCHMARK_PAIRS", "6"))
PROBLEMS = ("P1", "P2", "P3", "P4")
PEERS = {
    "naive": "torchdiffeq_naive",
    "anode": "torchdiffeq_naive",
    "aca": "torchdiffeq_naive",
    "adjoint": "torchdiffeq_adjoint",
    "interpolation": "torchdiffeq_adjoint",
}
FACTORS = (1.0, 3.0, 10.0, 30.0, 100.0)
"""Tolerances tried for an equal error, as multiples of the problem's."""

Way = tuple[GradientMethod, OneStepSolver]


def _error(problem, way: Way, reference: torch.Tensor) -> float:
    found = problem.gradient(*way).double()
    return float((found - reference).norm() / reference.norm())


def _calls(problem, way: Way) -> Counts:
    """Return the calls of one gradient."""
    counts = Counts()
    method, solver = way
    loss = problem.loss(
        method(CountedField(problem.field, counts), solver.uncompiled().observed_by(counts), problem.y0, problem.ts)
    )
    with counts.during("backward"):
        torch.autograd.grad(loss, list(problem.field.parameters()))
    return counts


def _floor(problem, way: Way, counts: Counts) -> Callable[[], float]:
    """Return a timed run of the same calls of the field, the same pull-backs and the loss, with nothing around them."""
    method, solver = way
    with torch.no_grad():
        ys = method(problem.field, solver, problem.y0, problem.ts)
    ends = [p.requires_grad_() for p in ((ys,) if torch.is_tensor(ys) else ys)]
    leaf = tuple(p.clone().requires_grad_() for p in ((problem.y0,) if torch.is_tensor(problem.y0) else problem.y0))
    y, t = leaf[0] if torch.is_tensor(problem.y0) else leaf, torch.tensor(0.5)
    inputs = [*leaf, *problem.field.parameters()]
    kept_graphs, pulls = counts.graph_calls["forward"], counts.vjps["backward"]

    def call() -> tuple[torch.Tensor, ...]:
        dy = problem.field(t, y)
        return (dy,) if torch.is_tensor(dy) else dy

    def pull(dy: tuple[torch.Tensor, ...]) -> None:
        torch.autograd.grad(dy, inputs, [torch.ones_like(p) for p in dy], allow_unused=True)

    def run() -> float:
        start = time.perf_counter()
        with torch.no_grad():
            for _ in range(counts.calls["forward"] - kept_graphs + counts.calls["backward"] - pulls):
                call()
        graphs = [call() for _ in range(kept_graphs)]
        torch.autograd.grad(problem.loss(ys), ends, allow_unused=True)
        for _ in range(pulls):
            pull(graphs.pop() if graphs else call())
        return time.perf_counter() - start

    return run


def _timed(problem, way: Way) -> Callable[[], float]:
    def run() -> float:
        start = time.perf_counter()
        problem.gradient(*way)
        return time.perf_counter() - start

    return run


def _ratios(first: Callable[[], float], second: Callable[[], float]) -> dict[str, object]:
    """Return median and quartiles of first over second, timed as first, second, second, first."""
    first(), second()
    ratios = []
    for _ in range(ROUNDS):
        a, b, c, d = first(), second(), second(), first()
        ratios.append((a + d) / (b + c))
    low, _, high = statistics.quantiles(ratios, n=4)
    return {"ratio": statistics.median(ratios), "quartiles": [low, high]}


def _report(benchmark, title: str, info: dict[str, object], run: Callable[[], float]) -> None:
    info["malloc"] = {k: v for k, v in os.environ.items() if k.startswith("MALLOC_")}
    benchmark.extra_info |= info
    shown = {k: v for k, v in info.items() if k != "malloc"}
    print(f"\n{title}: {shown}")
    benchmark.pedantic(run, rounds=1, iterations=1)


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("name", PROBLEMS)
@pytest.mark.parametrize("gradient", PEERS)
def test_equal_tolerance(benchmark, gradient, name):
    """Against torchdiffeq at the same tolerances, and against the bare calls."""
    problem = build(name)
    reference = problem.reference()
    ours = (build_gradient(gradient), problem.solver())
    theirs = (build_gradient(PEERS[gradient]), problem.solver(outputs="step_ends"))
    counts = _calls(problem, ours)
    run = _timed(problem, ours)
    info = _ratios(run, _timed(problem, theirs)) | {
        "floor": _ratios(run, _floor(problem, ours, counts))["ratio"],
        "error": _error(problem, ours, reference),
        "peer_error": _error(problem, theirs, reference),
        "calls": dict(counts.calls),
        "peer_calls": dict(_calls(problem, theirs).calls),
    }
    _report(benchmark, f"{name} {gradient}/{PEERS[gradient]}, equal tolerance", info, run)


def _ways(problem, gradient: str) -> dict[str, Way]:
    """Return ways to compute a cheaper gradient: looser tolerances, and another solver on the way back."""
    ways = {}
    backward = ({}, {"solver": "bosh3"}) if gradient in ("adjoint", "interpolation") else ({},)
    for options in backward:
        for factor in FACTORS:
            label = f"{factor:g} x tolerance{', bosh3 backward' if options else ''}"
            ways[label] = (build_gradient(gradient, options), problem.solver(factor))
    return ways


def _cheapest(problem, ways: dict[str, Way], reference: torch.Tensor, allowed: float):
    """Return label, way, error and calls of the way of fewest calls whose error is allowed; None if there is none."""
    best, fewest = None, 0
    for label, way in ways.items():
        error, counts = _error(problem, way, reference), _calls(problem, way)
        calls = sum(counts.calls.values()) + 2 * counts.vjps["backward"]
        if error <= allowed and (best is None or calls < fewest):
            best, fewest = (label, way, error, dict(counts.calls)), calls
    return best


@pytest.mark.parametrize("name", PROBLEMS)
@pytest.mark.parametrize("gradient", PEERS)
def test_error_no_larger(benchmark, gradient, name):
    """Against torchdiffeq at the problem's tolerances: of the ways with no larger an error, the one of fewest calls."""
    problem = build(name)
    reference = problem.reference()
    theirs = (build_gradient(PEERS[gradient]), problem.solver(outputs="step_ends"))
    allowed = _error(problem, theirs, reference)
    best = _cheapest(problem, _ways(problem, gradient), reference, allowed)
    if best is None:
        info: dict[str, object] = {"ratio": None, "peer_error": allowed}
        _report(benchmark, f"{name} {gradient}: no way is as exact", info, lambda: 0.0)
        return
    label, way, error, calls = best
    run = _timed(problem, way)
    info = {"way": label} | _ratios(run, _timed(problem, theirs)) | {"error": error, "peer_error": allowed}
    if gradient == "interpolation":  # the published interpolation code is known as a multiple of this
        naive = (build_gradient("torchdiffeq_naive"), problem.solver(outputs="step_ends"))
        info["over_torchdiffeq_naive"] = _ratios(run, _timed(problem, naive))["ratio"]
    info |= {"calls": calls, "peer_calls": dict(_calls(problem, theirs).calls)}
    _report(benchmark, f"{name} {gradient}/{PEERS[gradient]}, error no larger", info, run)


@pytest.mark.parametrize("name", PROBLEMS)
def test_compiled(benchmark, name):
    """Compiled ``aca`` against torchdiffeq's naive with no larger an error, and against itself eager.

    Compiling is timed apart.
    """
    problem = build(name)
    peer = (build_gradient("torchdiffeq_naive"), problem.solver(outputs="step_ends"))
    reference = problem.reference()
    best = _cheapest(problem, _ways(problem, "aca"), reference, _error(problem, peer, reference))
    label, eager, error, _ = best or ("1 x tolerance", (build_gradient("aca"), problem.solver()), None, None)
    compiled = (eager[0], dataclasses.replace(eager[1], compile=True))
    try:
        problem.gradient(*compiled)
    except UnsupportedError as refusal:
        pytest.skip(str(refusal))
    run = _timed(problem, compiled)
    info = {"way": label, "error": error} | _ratios(run, _timed(problem, peer))
    info |= {"over_eager": _ratios(run, _timed(problem, eager))["ratio"]}
    info |= {"compile_seconds": compile_seconds(problem.field.modules())}
    _report(benchmark, f"{name} compiled aca/torchdiffeq_naive", info, run)
