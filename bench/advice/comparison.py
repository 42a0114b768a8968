"""Every gradient method on one model of the user's own: exactness, calls, memory, time, and which one to take."""

import gc
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from odegrad.contracts import GradientMethod, Scalar, State, equivalent_solver
from odegrad.errors import OdegradError, SolverError, UsageError
from odegrad.measuring.counting import CountedField, Counts
from odegrad.measuring.meters import Clock, memory_meter
from odegrad.methods.solvers.solver import OneStepSolver
from odegrad.registry import build_gradient, build_solver, default_gradients
from odegrad.reports.figures import comparison as figure
from odegrad.reports.units import count, error, memory, seconds_together
from odegrad.user.models import Loss, Model, half_mean_square, pulled_back

REFERENCE_TOLERANCE = 1e-13
SLACK = 10.0
"""A gradient counts as accurate if its error is at most this many times naive's, or the relative tolerance."""
PATIENCE = 5.0
"""The method advised where memory is short takes at most this many times the time of the fastest."""

COLUMNS = {
    "gradient": "the gradient method",
    "exact": "whether it is the gradient of the computed loss",
    "gradient_error": "relative distance to naive backprop through dopri8 at 1e-13 in float64",
    "method_error": "relative distance to naive backprop on the same steps: what the method adds; none for the peers",
    "nfe_forward": "f calls of the forward pass",
    "nfe_backward": "f calls of the backward pass",
    "vjps": "vector-Jacobian products of f in the backward pass",
    "saved_bytes": "tensor bytes kept between the two passes",
    "peak_bytes": "most tensor bytes that lived at one time, above those of the model and y0",
    "forward_seconds": "median of the interleaved rounds",
    "backward_seconds": "median of the interleaved rounds",
    "verdict": "accurate, inaccurate, refused or failed, with the reason",
}
"""The columns of a comparison and what they mean."""


class Comparison(pd.DataFrame):  # type: ignore[misc]
    """A dataframe with a row a gradient method (see ``COLUMNS``), a sentence of advice, and a figure."""

    advice: str
    """Which method to take, and why."""
    _metadata = ["advice"]  # noqa: RUF012

    @property
    def _constructor(self) -> type[pd.DataFrame]:
        return Comparison

    def printed(self) -> list[dict[str, str]]:
        """Return the rows as a terminal shows them: few columns, with units; ``reasons`` has the verdicts in full."""
        return [
            {
                "gradient": row["gradient"],
                "exact": "yes" if row["exact"] else "no",
                "error": error(row["gradient_error"]),
                "NFE": f"{count(row['nfe_forward'])} / {count(row['nfe_backward'])}",
                "VJPs": count(row["vjps"]),
                "saved / peak": f"{memory(row['saved_bytes'])} / {memory(row['peak_bytes'])}",
                "forward / backward": seconds_together([row["forward_seconds"], row["backward_seconds"]]),
                "verdict": row["verdict"].partition(":")[0],
            }
            for row in self.to_dict(orient="records")
        ]

    def reasons(self) -> list[str]:
        """Return what stands behind each verdict that has a reason: ``method: verdict: reason``."""
        rows = zip(self["gradient"], self["verdict"], strict=True)
        return [f"{name}: {verdict}" for name, verdict in rows if ":" in verdict]

    def plot(self) -> Figure:
        """Return the figure: gradient error against time and against memory, a point a method."""
        return figure.draw(pd.DataFrame(self))


@dataclass
class _Candidate:
    """A method with the solver that it gets and what is known of it so far."""

    method: GradientMethod
    solver: OneStepSolver
    row: dict[str, Any]
    forward: list[float] = field(default_factory=list)
    backward: list[float] = field(default_factory=list)


def compare_gradients(
    func: nn.Module,
    y0: State,
    t: Tensor,
    *,
    loss: Loss | None = None,
    gradients: Sequence[str | tuple[str, Mapping[str, Scalar]]] | None = None,
    rtol: float = 1e-5,
    atol: float = 1e-6,
    method: str = "dopri5",
    options: Mapping[str, Scalar] | None = None,
    rounds: int = 5,
) -> Comparison:
    """Compare gradient methods on a model of your own and say which one to take.

    Parameters
    ----------
    func
        The dynamics, an ``nn.Module``; it is left as it was.
    y0
        Initial state, a tensor ``[batch, *state]`` or a tuple; a part that requires a gradient is differentiated too.
    t
        Output times ``[time]``.
    loss
        From the solution ``[time, batch, *state]`` to a scalar; half the mean square of the last output if None.
    gradients
        Names, or pairs (name, options); if None every registered method whose cost does not grow with the number of
        parameters.
    rtol, atol, method, options
        The solver, as in ``odeint``; a method that can only use ``alf`` gets it, and its verdict says so.
    rounds
        Timed rounds, each of every method once, forth and back, so that a drift of the machine hits all alike.

    Returns
    -------
    Comparison
        A dataframe with a row a method, the attribute ``advice`` and the method ``plot()``.

    Raises
    ------
    UsageError
        If ``func`` is no module, nothing requires a gradient, ``rounds`` is no positive number, or a name is unknown.
    SolverError
        If the float64 reference cannot be solved.
    """
    if not isinstance(rounds, int) or rounds < 1:
        raise UsageError(f"rounds: expected a positive whole number, got {rounds!r}")
    model = Model(func, y0, t, loss or half_mean_square)
    solver = build_solver(method, rtol, atol, options)
    candidates = [_candidate(chosen, solver) for chosen in _names(gradients)]
    before = {name: b.detach().clone() for name, b in func.named_buffers()}
    try:
        with torch.random.fork_rng(devices=[t.device] if t.device.type == "cuda" else []):
            _measure(model, solver, candidates)
            _time(model, [c for c in candidates if "peak_bytes" in c.row], rounds)
    finally:
        with torch.no_grad():
            for name, b in func.named_buffers():
                b.copy_(before[name])
    rows = [c.row for c in candidates]
    table = Comparison(rows, columns=list(COLUMNS))
    table.advice = advice(rows)
    return table


def advice(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return one sentence: which method to take for this model, and why; ``rows`` are those of a comparison."""
    good = [row for row in rows if str(row["verdict"]).startswith("accurate")]
    if not good:
        return "No method is accurate here: tighten rtol and atol, or look at the logarithmic norm of the dynamics."

    def seconds(row: Mapping[str, Any]) -> float:
        return float(row["forward_seconds"] + row["backward_seconds"])

    fast = min(good, key=seconds)
    small = min((row for row in good if seconds(row) <= PATIENCE * seconds(fast)), key=lambda row: row["peak_bytes"])
    text = (
        f"Take {fast['gradient']}: of {len(good)} accurate methods it is the fastest, {seconds(fast) * 1e3:.3g} ms a "
        f"gradient with an error of {fast['gradient_error']:.1e} and {fast['peak_bytes'] / 1e6:.3g} MB at the peak"
    )
    if small["gradient"] != fast["gradient"]:
        less, slower = fast["peak_bytes"] / small["peak_bytes"], seconds(small) / seconds(fast)
        text += (
            f"; where memory is short, {small['gradient']} needs {less:.2g} times less at {slower:.2g} times the time"
        )
    return text + "."


def _names(chosen: Sequence[str | tuple[str, Mapping[str, Scalar]]] | None) -> Sequence[Any]:
    if isinstance(chosen, str) or (chosen is not None and not chosen):
        raise UsageError(f"gradients: expected a list of names or (name, options), got {chosen!r}")
    return chosen or default_gradients()


def _candidate(chosen: str | tuple[str, Mapping[str, Scalar]], solver: OneStepSolver) -> _Candidate:
    name, settings = (chosen, {}) if isinstance(chosen, str) else chosen
    method = build_gradient(name, settings)
    row: dict[str, Any] = {"gradient": name, "exact": method.traits.exact}
    reason = method.refuses(solver)
    if reason is not None:
        other = build_solver("alf", solver.controller.rtol, solver.controller.atol)
        if method.refuses(other) is not None:
            return _Candidate(method, solver, row | {"verdict": f"refused: {reason}"})
        solver = other
    return _Candidate(method, solver, row)


def _measure(model: Model, solver: OneStepSolver, candidates: Sequence[_Candidate]) -> None:
    """Fill in errors, counts, bytes and the verdict of every candidate that is not refused."""
    naive = build_gradient("naive")
    tight = build_solver("dopri8", REFERENCE_TOLERANCE, REFERENCE_TOLERANCE)
    try:
        reference = model.in_float64().gradient(naive, tight)
    except SolverError as raised:
        raise SolverError(f"float64 reference with dopri8 at {REFERENCE_TOLERANCE:g}: {raised}") from raised
    limit = SLACK * max(_distance(model.gradient(naive, solver.uncompiled()), reference), solver.controller.rtol)
    for c in candidates:
        if "verdict" in c.row:
            continue
        try:
            found = model.gradient(c.method, c.solver)
            error_ = _distance(found, reference)
            c.row["gradient_error"] = error_
            if c.method.traits.shared_loop:
                same_grid = equivalent_solver(c.method, c.solver.uncompiled())
                c.row["method_error"] = _distance(found, model.gradient(naive, same_grid))
            c.row |= _counted(model, c) | _memory(model, c)
        except (OdegradError, RuntimeError) as raised:
            c.row["verdict"] = f"failed: {str(raised).splitlines()[0]}"
            continue
        fine = f"off by {error_:.1e}, accurate is {limit:.1e}"
        on = "" if c.solver is solver else f", with solver {c.solver.name}"
        c.row["verdict"] = f"accurate{on}" if error_ <= limit else f"inaccurate: {fine}{on}"


def _counted(model: Model, c: _Candidate) -> dict[str, Any]:
    counts, back = Counts(), c.method.traits.backward_phase
    solver = c.solver.uncompiled().observed_by(counts)
    loss, inputs = model.forward(c.method, solver, CountedField(model.field, counts))
    with counts.during(back):
        pulled_back(loss, inputs)
    return {"nfe_forward": counts.calls["forward"], "nfe_backward": counts.calls[back], "vjps": counts.vjps[back]}


def _memory(model: Model, c: _Candidate) -> dict[str, Any]:
    gc.collect()
    with memory_meter(model.ts.device) as meter:
        loss, inputs = model.forward(c.method, c.solver.uncompiled())
        saved = meter.current_bytes()
        torch.autograd.grad(loss, inputs, allow_unused=True)
        return {"saved_bytes": saved, "peak_bytes": meter.peak_bytes()}


def _time(model: Model, candidates: Sequence[_Candidate], rounds: int) -> None:
    for i in range(rounds):
        for c in candidates if i % 2 == 0 else candidates[::-1]:
            forward, backward = Clock(model.ts.device), Clock(model.ts.device)
            with forward:
                loss, inputs = model.forward(c.method, c.solver)
            with backward:
                torch.autograd.grad(loss, inputs, allow_unused=True)
            c.forward.append(forward.seconds)
            c.backward.append(backward.seconds)
    for c in candidates:
        c.row["forward_seconds"], c.row["backward_seconds"] = map(statistics.median, (c.forward, c.backward))


def _distance(a: Tensor, b: Tensor) -> float:
    norm = float(torch.linalg.vector_norm(b))
    return float(torch.linalg.vector_norm(a - b)) / norm if norm > 0 else math.inf
