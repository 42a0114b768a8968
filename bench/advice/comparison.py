"""Every gradient method on one model of the user's own: exactness, calls, memory, time, and which one to take."""

import html
import math
import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd
from torch import Tensor, nn

from odegrad.advice.candidates import UNMEASURED, candidate, measure
from odegrad.advice.estimate import estimate
from odegrad.advice.race import MIN_ROUNDS, race
from odegrad.advice.sentence import advice, of_time
from odegrad.contracts import Scalar, State
from odegrad.diagnosis.costates import BatchedField
from odegrad.diagnosis.field_checks import check_field
from odegrad.diagnosis.solver_choice import choose_solver
from odegrad.errors import InaccurateGradientWarning, OdegradError, UsageError
from odegrad.methods.fields.hooks import hooks_at_rest
from odegrad.methods.solvers.solver import OneStepSolver
from odegrad.reference.accuracy import enough
from odegrad.reference.allowance import Allowance, Tell, in_silence
from odegrad.reference.reference import Reference, reference
from odegrad.reference.sensitivity import sensitivity_error
from odegrad.reference.subject import in_float64, of_model
from odegrad.registry import build_gradient, default_gradients, odeint_solver
from odegrad.reports.units import count, error, memory, seconds_together
from odegrad.states import flatten, undisturbed
from odegrad.user.models import Loss, Model, half_mean_square

if TYPE_CHECKING:
    from matplotlib.figure import Figure

REFERENCE_SHARE = 0.45
"""Of the time that a comparison may take, for what the gradients are held against."""
FAR_LARGER = 10.0
"""Errors that are so many times as large as the reference's are told to a digit at least."""

_EMULATED = "Times are left out: a CPU emulates {}, and its seconds say nothing of a device that computes in it."

COMPARISON_COLUMNS = {
    "gradient": "the gradient method",
    "exact": "whether it is the gradient of the computed loss",
    "gradient_error": "relative distance to the float64 reference; none where there is no reference",
    "method_error": "relative distance to naive backprop on the same steps: what the method adds; none for the peers",
    "reconstruction_error": "what the state of the backward pass is off by; none where it is kept or replayed",
    "nfe_forward": "f calls of the forward pass",
    "nfe_backward": "f calls of the backward pass",
    "vjps": "vector-Jacobian products of f in the backward pass",
    "saved_bytes": "tensor bytes kept between the two passes",
    "peak_bytes": "most tensor bytes that lived at one time, above those of the model and y0",
    "forward_seconds": "median of the interleaved rounds",
    "backward_seconds": "median of the interleaved rounds",
    "verdict": "accurate, inaccurate, undecided, solver too loose, refused, failed or not measured, with the reason",
}
"""The columns of a comparison and what they mean."""


class Comparison(pd.DataFrame):  # type: ignore[misc]
    """A dataframe with a row a gradient method (see ``COMPARISON_COLUMNS``), a sentence of advice, and a figure."""

    advice: str
    """Which method to take, and why."""
    notes: list[str]
    """How far the reference is known where that is not far, what sets the solver's steps where that is not accuracy,
    and what there was no time for."""
    _metadata = ["advice", "notes"]  # noqa: RUF012

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

    def _repr_html_(self) -> str | None:
        """Return what a notebook shows: the rows as a terminal shows them, reasons, advice and notes."""
        if not set(COMPARISON_COLUMNS) <= set(self.columns):  # a selection of columns is a frame like any other
            shown: str | None = super()._repr_html_()
            return shown
        table = pd.DataFrame(self.printed()).to_html(index=False, border=0)  # escapes every cell
        said = [*self.reasons(), getattr(self, "advice", ""), *getattr(self, "notes", [])]
        lines = "".join(f"<p>{html.escape(line)}</p>" for line in said if line)
        return f'<div style="overflow-x: auto">{table}</div>{lines}'

    def reasons(self) -> list[str]:
        """Return what stands behind each verdict that has a reason: ``method: verdict: reason``."""
        rows = zip(self["gradient"], self["verdict"], strict=True)
        return [f"{name}: {verdict}" for name, verdict in rows if ":" in verdict and not verdict.startswith(UNMEASURED)]

    def plot(self) -> "Figure":
        """Return the figure: gradient error against time and against memory, a point a method."""
        from odegrad.reports.figures import comparison as figure  # noqa: PLC0415

        return figure.draw(pd.DataFrame(self))


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
    rounds: int = MIN_ROUNDS,
    budget: float | None = None,
    tell: Tell = in_silence,
) -> Comparison:
    """Compare gradient methods on a model of your own and say which one to take.

    Parameters
    ----------
    func
        The dynamics, an ``nn.Module``; it is left as it was.
    y0
        Initial state, a tensor ``[batch, *state]`` or a tuple; a part that requires a gradient is differentiated too.
    t
        Output times ``[time]``, or ``[batch, time]``: a row for each sample, which may repeat its last time. Samples
        that share their steps are solved for at the union of all times, and then start at one time.
    loss
        From the solution ``[time, batch, *state]`` to a scalar; half the mean square of the last output if None.
    gradients
        Names, or pairs (name, options); if None every registered method whose cost does not grow with the number of
        parameters.
    rtol, atol, method, options
        The solver, as in ``odeint``; a method that can only use ``alf`` gets it, and its verdict says so.
    rounds
        Timed rounds at the least, each of every method once, forth and back, so that a drift of the machine hits all
        alike; one that is far slower than the two fastest accurate ones is timed three times. More follow until these
        two are told apart, or some seconds are spent.
    budget
        Seconds after which nothing new is begun: the comparison ends with what is known, and ``notes`` says what is
        not. None for as long as it takes.
    tell
        Takes a line on each stage and each method as they come.

    Returns
    -------
    Comparison
        A dataframe with a row a method, the attributes ``advice`` and ``notes`` and the method ``plot()``.

    Raises
    ------
    UsageError
        If ``func`` is no module, nothing requires a gradient, ``rounds`` or ``budget`` is no positive number, or a name
        is unknown.
    """
    if not isinstance(rounds, int) or rounds < 1:
        raise UsageError(f"rounds: expected a positive whole number, got {rounds!r}")
    if budget is not None and not budget > 0:
        raise UsageError(f"budget: expected a positive number of seconds or None, got {budget!r}")
    allowance = Allowance(budget)
    model = Model(func, y0, t, loss or half_mean_square)
    solver = odeint_solver(method, rtol, atol, options)
    candidates = [candidate(chosen, solver) for chosen in _names(gradients)]
    subject = of_model(model)
    model.check_loss(build_gradient("naive"), solver.uncompiled())
    # What a method says of its gradient stands in its row: wrong ones are what a comparison looks for.
    unsaid = warnings.catch_warnings(action="ignore", category=InaccurateGradientWarning)
    # Hooks act on the whole gradient, whichever method it comes from, and the float64 twin has none.
    with undisturbed(subject.device, func), hooks_at_rest(subject.inputs), unsaid:
        tell(estimate(subject, solver, len(candidates), rounds))
        tell("solving for the float64 reference")
        wanted = enough(solver.controller.rtol)
        true = reference(in_float64(model), wanted=wanted, seconds=allowance.left(REFERENCE_SHARE))
        tell(true.reason or f"the reference is known to {true.error:.1e}")
        measure(subject, solver, candidates, true, allowance, tell)
        emulated = bool(solver.precision) and subject.device.type == "cpu"
        timed = [] if emulated else [c for c in candidates if "peak_bytes" in c.row]
        tell(f"timing {len(timed)} methods in rounds")
        told = race(subject, timed, rounds, allowance)
        of_solver = _of_the_solver(model, solver, allowance)
    rows = [c.row for c in candidates]
    table = Comparison(rows, columns=list(COMPARISON_COLUMNS))
    # The tangent of a batch says nothing of one sample's own steps.
    bounding = ", ".join(("max_step",) if solver.per_sample else ("sees='tangent'", "max_step"))
    table.advice = advice(rows, told, true, lambda: sensitivity_of(model, solver), bounding, emulated=emulated)
    untimed = [_EMULATED.format(solver.precision)] if emulated else of_time(rows, allowance)
    table.notes = [*_of_the_reference(true, rows), *of_solver, *untimed]
    return table


def _of_the_solver(model: Model, solver: OneStepSolver, allowance: Allowance) -> list[str]:
    """Return what sets the solver's steps where that is stability, or undecided; nothing where it cannot be told."""
    if allowance.over():
        return []
    try:
        twin = model.at_all_times().in_float64()
        field, y0 = BatchedField(twin.field, twin.y0), flatten(twin.y0).detach()
        check_field(field, twin.ts[0].to(y0.device), y0)
        found = choose_solver(field, y0, twin.ts, solver)
    except (OdegradError, RuntimeError):  # of a field that is not its samples' own, or does not work in float64
        return []
    return [] if found is None or found.by_stability is False else [found.sentence()]


def _of_the_reference(true: Reference, rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return how far the reference is known where errors in the table are not far larger."""
    if true.error is None or all(row.get("gradient_error", math.inf) > FAR_LARGER * true.error for row in rows):
        return []
    return [f"The reference is known to {true.error:.1e}: errors below that are not told apart."]


def sensitivity_of(model: Model, solver: OneStepSolver) -> float | None:
    """Return by how much naive's gradient changes if every step is halved; None where that cannot be told."""
    try:
        return sensitivity_error(in_float64(model), solver)
    except OdegradError:
        return None


def _names(chosen: Sequence[str | tuple[str, Mapping[str, Scalar]]] | None) -> Sequence[Any]:
    if isinstance(chosen, str) or (chosen is not None and not chosen):
        raise UsageError(f"gradients: expected a list of names or (name, options), got {chosen!r}")
    return chosen or default_gradients()
