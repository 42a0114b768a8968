"""What a suite will cost and what of it will be refused, from one look at each of its problems.

One iteration of each problem tells the steps of its solves; a few f calls and products tell what one of each costs. The
cost models of the methods turn that into seconds and bytes of a run. A plan is a forecast at the initial parameters:
steps grow as dynamics stiffen, and evaluations and certificates come on top.
"""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from odegrad.contracts import CurvatureConsumer, GradientMethod, Problem, State, Tappable, VectorField
from odegrad.errors import OdegradError
from odegrad.measuring.building import DTYPES
from odegrad.measuring.call_counts import SolveLog, counted_iteration, solve_costs
from odegrad.measuring.cost import SolveCost, predicted_bytes, predicted_calls
from odegrad.measuring.meters import synchronize
from odegrad.processes.guarded import guarded
from odegrad.records.record import Run, with_options
from odegrad.reference.subject import of_training
from odegrad.registry import build_gradient, build_optimizer, build_solver, build_task, check_supported, is_foreign
from odegrad.states import parts
from odegrad.suites.lookup import located
from odegrad.suites.suite import GridCell, cell_of

REPEATS = 5
"""How often a call is timed."""

PROBES = ("adjoint", "naive")
"""The method of the one iteration that is looked at; the next where the solver is refused."""


@dataclass(frozen=True)
class Forecast:
    """What one run is expected to cost; None where nothing can be said."""

    train_seconds: float | None = None
    """The iterations of the training, without evaluations."""
    peak_bytes: int | None = None
    """Tensor bytes of one forward and backward pass above what stood before."""
    refused: str = ""
    """Why the run will end without a measurement; empty if it will not."""


@dataclass(frozen=True)
class _Look:
    """What one iteration of a problem showed."""

    problem: Problem
    costs: tuple[SolveCost, ...]
    call_seconds: tuple[float, ...]
    """Of one f call, a solve."""
    product_seconds: tuple[float, ...]
    """Of one vector-Jacobian product, its f call left out, a solve."""


def forecast(runs: Sequence[Run], folder: Path, timeout: float | None = None) -> dict[GridCell, Forecast]:
    """Return what each cell of a suite is expected to cost, or why it will be refused.

    Where runs name code that is not odegrad's own, they are looked at in a measuring process.

    Parameters
    ----------
    runs
        The suite's runs; the first of each cell stands for its seeds.
    folder
        Where relative names such as ``my_method.py:MyMethod`` are looked up.
    timeout
        Seconds that a user's files may take; None: no limit.

    Raises
    ------
    UsageError
        If a user's file ends the process that looks at it, or takes too long.
    """
    first = {cell_of(run): run for run in reversed(runs)}
    chosen = [run.to_dict() for run in first.values()]
    names = {name for run in first.values() for name in (run.gradient, run.optimizer, run.task)}
    if is_foreign(*names):
        foreign = ", ".join(sorted(name for name in names if is_foreign(name)))
        rows = guarded(f"{__name__}:look_at", chosen, str(folder), what=f"forecast with {foreign}", timeout=timeout)
    else:
        rows = look_at(chosen, str(folder), lambda _message: None)
    return {cell: Forecast(**row) for cell, row in zip(first, rows, strict=True)}


def look_at(runs: Sequence[Mapping[str, object]], folder: str, _progress: object) -> list[dict[str, object]]:
    """Return the fields of a forecast of every run, as plain data."""
    looks: dict[tuple[object, ...], _Look | str] = {}
    found = []
    for run in map(Run.from_dict, runs):
        kind = (run.task, run.size, run.solver, run.solver_options, run.rtol, run.atol, run.device, run.dtype)
        if kind not in looks:
            looks[kind] = _look(run, folder)
        found.append(dict(_of_run(run, looks[kind], folder).__dict__))
    return found


def _look(run: Run, folder: str) -> _Look | str:
    """Return what one iteration of the run's problem shows, or why there is none."""
    if run.device == "cuda" and not torch.cuda.is_available():
        return "no CUDA device on this machine"
    try:
        task = build_task(located(run.task, Path(folder)))
        problem = task.build(run.size, run.seed, torch.device(run.device), DTYPES[run.dtype])
        solver = build_solver(run.solver, run.rtol, run.atol, dict(run.solver_options)).uncompiled()
        method = next(m for m in map(build_gradient, PROBES) if m.refuses(solver) is None)
        subject = of_training(problem)
        with subject.left_as_it_was():
            _, solves = counted_iteration(subject, method, solver)
        with subject.left_as_it_was():
            costs = solve_costs(solves, solver, method.traits.backward_phase)
            seconds = _timed(solves)
    except OdegradError as error:
        return str(error).splitlines()[0]
    return _Look(problem, tuple(costs), *zip(*seconds, strict=True))


def _timed(solves: Sequence[SolveLog]) -> list[tuple[float, float]]:
    """Return the seconds of an f call and of a product of every solve; a field is timed once a shape of its state."""
    known: dict[object, tuple[float, float]] = {}
    out = []
    for log in solves:
        kind = (id(log.vector_field), *(part.shape for part in parts(log.y0)))
        if kind not in known:
            known[kind] = _call_and_product(log.vector_field, log.ts, log.y0)
        out.append(known[kind])
    return out


def _call_and_product(field: VectorField, ts: torch.Tensor, y0: State) -> tuple[float, float]:
    leaves = [part.detach().requires_grad_() for part in parts(y0)]
    t = ts[0].detach().to(leaves[0])
    state: State = leaves[0] if isinstance(y0, torch.Tensor) else tuple(leaves)
    inputs = [*leaves, *(p for p in field.parameters() if p.requires_grad)]

    def call() -> None:
        with torch.no_grad():
            field(t, state)

    def both() -> None:
        outputs = [dy for dy in parts(field(t, state)) if dy.requires_grad]
        if outputs:
            torch.autograd.grad(outputs, inputs, [torch.ones_like(dy) for dy in outputs], allow_unused=True)

    one, two = (_median(action, leaves[0].device) for action in (call, both))
    return one, max(0.0, two - one)


def _median(action: Callable[[], None], device: torch.device) -> float:
    seconds = []
    for _ in range(REPEATS + 1):
        synchronize(device)
        start = time.perf_counter()
        action()
        synchronize(device)
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds[1:])


def _of_run(run: Run, look: _Look | str, folder: str) -> Forecast:
    if isinstance(look, str):
        return Forecast(refused=look)
    try:
        method = build_gradient(located(run.gradient, Path(folder)), dict(run.gradient_options))
        solver = build_solver(run.solver, run.rtol, run.atol, dict(run.solver_options))
        check_supported(method, solver)
        optimizer = build_optimizer(located(run.optimizer, Path(folder)), look.problem, dict(run.optimizer_options))
    except OdegradError as error:
        return Forecast(refused=str(error).splitlines()[0])
    if isinstance(optimizer, CurvatureConsumer) and not isinstance(method, Tappable):
        return Forecast(refused=f"{method.traits.name} offers no curvature samples, which {run.optimizer} needs")
    seconds = _seconds(method, look)
    sizes = predicted_bytes(method, look.costs)
    return Forecast(
        None if seconds is None else seconds * run.iterations,
        None if sizes is None else sizes.peak,
    )


def _seconds(method: GradientMethod, look: _Look) -> float | None:
    """Return the predicted seconds of one forward and one backward pass."""
    total = 0.0
    for cost, call, product in zip(look.costs, look.call_seconds, look.product_seconds, strict=True):
        calls = predicted_calls(method, [cost])
        if calls is None or (cost.pulled_back and not calls.vjps):
            return None  # a method without products pays in another coin
        total += (calls.forward + calls.backward) * call + calls.vjps * product
    return total


def plan_rows(runs: Sequence[Run], forecasts: Mapping[GridCell, Forecast]) -> list[dict[str, object]]:
    """Return one row a cell of the grid, in its order, for a table: its seeds, and what each of its runs will cost."""
    rows: dict[tuple[str, GridCell], dict[str, Any]] = {}
    counting = {cell_of(run): run.iterations for run in runs if not run.stage}  # what the forecasts are of
    for run in runs:
        key = (run.stage, cell_of(run))
        row = rows.get(key)
        if row is not None:
            row["runs"] += 1
            continue
        expected = forecasts.get(key[1], Forecast())
        share = run.iterations / counting.get(key[1], run.iterations)
        rows[key] = {
            "stage": run.stage or "run",
            "task": run.task,
            "size": run.size,
            "method": with_options(run.method, run.gradient_options),
            "solver": with_options(run.solver, run.solver_options),
            "rtol": run.rtol,
            "atol": run.atol,
            "device": run.device,
            "dtype": run.dtype,
            "precision": run.precision,
            "iterations": run.iterations,
            "runs": 1,
            "train s": None if expected.train_seconds is None else float(f"{expected.train_seconds * share:.3g}"),
            "peak MB": None if expected.peak_bytes is None else float(f"{expected.peak_bytes / 1e6:.3g}"),
            "refused": expected.refused,
        }
    return list(rows.values())
