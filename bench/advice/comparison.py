"""Every gradient method on one model of the user's own: exactness, calls, memory, time, and which one to take."""

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
from matplotlib.figure import Figure
from torch import Tensor, nn

from odegrad.advice.candidates import candidate, measure
from odegrad.advice.race import MIN_ROUNDS, race
from odegrad.advice.sentence import advice
from odegrad.contracts import Scalar, State
from odegrad.errors import InaccurateGradientWarning, OdegradError, UsageError
from odegrad.methods.fields.held import hooks_at_rest
from odegrad.methods.solvers.solver import OneStepSolver
from odegrad.reference.reference import reference
from odegrad.reference.sensitivity import sensitivity_error
from odegrad.reference.subject import in_float64, of_model
from odegrad.registry import build_gradient, build_solver, default_gradients
from odegrad.reports.figures import comparison as figure
from odegrad.reports.units import count, error, memory, seconds_together
from odegrad.states import undisturbed
from odegrad.user.models import Loss, Model, half_mean_square

COLUMNS = {
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
    "verdict": "accurate, inaccurate, undecided, solver too loose, refused or failed, with the reason",
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
        Timed rounds at the least, each of every method once, forth and back, so that a drift of the machine hits all
        alike. More follow until the two fastest accurate methods are told apart, or some seconds are spent.

    Returns
    -------
    Comparison
        A dataframe with a row a method, the attribute ``advice`` and the method ``plot()``.

    Raises
    ------
    UsageError
        If ``func`` is no module, nothing requires a gradient, ``rounds`` is no positive number, or a name is unknown.
    """
    if not isinstance(rounds, int) or rounds < 1:
        raise UsageError(f"rounds: expected a positive whole number, got {rounds!r}")
    model = Model(func, y0, t, loss or half_mean_square)
    solver = build_solver(method, rtol, atol, options)
    candidates = [candidate(chosen, solver) for chosen in _names(gradients)]
    subject = of_model(model)
    model.check_loss(build_gradient("naive"), solver.uncompiled())
    # What a method says of its gradient stands in its row: wrong ones are what a comparison looks for.
    unsaid = warnings.catch_warnings(action="ignore", category=InaccurateGradientWarning)
    # Hooks act on the whole gradient, whichever method it comes from, and the float64 twin has none.
    with undisturbed(subject.device, func), hooks_at_rest(subject.inputs), unsaid:
        true = reference(in_float64(model))
        measure(subject, solver, candidates, true)
        told = race(subject, [c for c in candidates if "peak_bytes" in c.row], rounds)
    rows = [c.row for c in candidates]
    table = Comparison(rows, columns=list(COLUMNS))
    table.advice = advice(rows, told, true, lambda: sensitivity_of(model, solver))
    return table


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
