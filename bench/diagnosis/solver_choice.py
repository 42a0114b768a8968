"""Whether stability or accuracy sets an explicit solver's steps, and what an implicit one would take: by counts.

A step is bound by stability where its size times the fastest decay there fills the solver's stability interval
(Hairer and Wanner, Solving ODEs II, section IV.2): it is more accurate than was asked for, and a longer one would blow
up. The implicit solver is then run at the same tolerances, so that what it takes is seen and not guessed.
"""

from dataclasses import asdict, dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from odegrad.contracts import ImplicitWork
from odegrad.diagnosis.costates import BatchedField
from odegrad.diagnosis.trajectory import DENSE_BELOW, log_norms
from odegrad.errors import OdegradError
from odegrad.methods.gradients.naive import Naive
from odegrad.methods.solvers.solver import OneStepSolver, make_solver
from odegrad.methods.solvers.switching.rule import FILLED, stability_interval
from odegrad.methods.solvers.tableau import Tableau
from odegrad.reference.grids import Budget

IMPLICIT = "kencarp4"
"""The implicit solver to take where nothing is known."""
MIN_BOUND_SHARE, MAX_UNBOUND_SHARE = 0.5, 0.25
"""From the first share of steps on stability sets the steps, below the second accuracy does; between them neither."""
MAX_JUDGED = 64
"""Steps at which a Jacobian is taken, evenly among all."""
MIN_JUDGED = 5
"""Of fewer steps nothing is said."""


@dataclass(frozen=True)
class Taken:
    """What a forward solve took."""

    solver: str
    steps: int
    calls: int
    """f calls."""
    products: int = 0
    """Pull-backs that formed Jacobians."""

    def __str__(self) -> str:
        """Return the costs in words."""
        return f"{self.calls:,} f calls" + (f" and {self.products:,} products" if self.products else "")


@dataclass(frozen=True)
class SolverChoice:
    """Both solvers at the same tolerances, and what sets the explicit one's steps."""

    explicit: Taken
    judged: int
    """Steps of it at which the Jacobian was taken; 0 where that is too large to be formed."""
    bound: int
    """Of them those that fill the stability interval."""
    implicit: Taken | None
    failure: str = ""
    """Why the implicit one was not run, or what it raised."""

    @property
    def by_stability(self) -> bool | None:
        """Return whether stability sets the explicit steps; None where that is undecided."""
        if self.judged < MIN_JUDGED:
            return None if self.judged < min(MIN_JUDGED, self.explicit.steps) else False
        share = self.bound / self.judged
        return True if share >= MIN_BOUND_SHARE else False if share < MAX_UNBOUND_SHARE else None

    @property
    def implicit_pays(self) -> bool | None:
        """Return whether the implicit solver takes fewer calls and products; None where it is not known."""
        if self.implicit is None:
            return None
        return self.implicit.calls + self.implicit.products < self.explicit.calls

    def to_dict(self) -> dict[str, object]:
        """Return everything as plain data."""
        return asdict(self) | {"by_stability": self.by_stability, "implicit_pays": self.implicit_pays}

    def sentence(self) -> str:
        """Return what to take, with the counts behind it."""
        e, i = self.explicit, self.implicit
        every = e.steps == self.judged
        seen = f"{self.bound} of {e.steps}" if every else f"{self.bound} of {self.judged} looked at, {e.steps} in all"
        if self.by_stability is False:
            return f"Explicit steps are bound by accuracy ({seen} by stability): stay with {e.solver}."
        if self.by_stability is None:
            why = f"{seen} steps are bound by stability" if self.judged else self.failure
            return f"Whether an implicit solver pays is undecided: {why}."
        if i is None:
            return f"Explicit steps are bound by stability ({seen}), and {IMPLICIT} is undecided: {self.failure}."
        costs = f"{IMPLICIT} takes {i.steps}, {i} against {e}"
        advised = f"take {IMPLICIT}" if self.implicit_pays else f"{e.solver} costs less all the same"
        return f"Explicit steps are bound by stability ({seen}): {costs}; {advised}."


def choose_solver(field: BatchedField, y0: Tensor, ts: Tensor, solver: OneStepSolver) -> SolverChoice | None:
    """Return what both solvers take on ``y' = field(t, y)``; None if ``solver`` is no adaptive explicit tableau.

    None too where every sample has steps of its own, whose one largest Jacobian says nothing of the others.

    The implicit one is run where stability sets the steps.

    Parameters
    ----------
    field, y0, ts
        The problem: initial states ``[batch, n]``, output times ``[K]``.
    solver
        The explicit solver, whose tolerances the implicit one gets.

    Raises
    ------
    SolverError
        If the explicit solver cannot solve it.
    NonFiniteError
        If a Jacobian is not finite.
    """
    if not solver.adaptive or solver.per_sample or not isinstance(solver.scheme, Tableau):
        return None
    explicit, starts = _taken(field, y0, ts, solver)
    if y0.shape[1] > DENSE_BELOW:
        why = f"of {y0.shape[1]} numbers per sample no Jacobian is formed"
        return SolverChoice(explicit, 0, 0, None, why)
    filled = _filled(field, y0, [*starts, float(ts[-1])], ts, solver.scheme)
    found = SolverChoice(explicit, len(filled), sum(share >= FILLED for share in filled), None)
    if found.by_stability is not True:
        return found
    controller = solver.controller
    other = make_solver(IMPLICIT, rtol=controller.rtol, atol=controller.atol)
    try:
        implicit, _ = _taken(field, y0, ts, other)
    except (OdegradError, RuntimeError) as raised:  # of a field without what its Jacobians need, too
        return SolverChoice(explicit, found.judged, found.bound, None, str(raised).splitlines()[0])
    return SolverChoice(explicit, found.judged, found.bound, implicit)


class _Heard:
    """Starts of accepted steps, and the pull-backs of implicit ones."""

    def __init__(self) -> None:
        self.starts: list[float] = []
        self.products = 0

    def accepted(self, t: float, _h: float) -> None:
        """Note where a step starts."""
        self.starts.append(t)

    def rejected(self, t: float, h: float) -> None:
        """Leave it out."""

    def worked(self, work: ImplicitWork) -> None:
        """Count pull-backs."""
        self.products += work.products


def _taken(field: BatchedField, y0: Tensor, ts: Tensor, solver: OneStepSolver) -> tuple[Taken, list[float]]:
    """Return what a forward solve takes, and the starts of its accepted steps."""
    heard, calls = _Heard(), Budget()
    with torch.no_grad():
        Naive()(calls.watched(field), solver.uncompiled().observed_by(heard), y0, ts)
    return Taken(solver.name, len(heard.starts), calls.calls, heard.products), heard.starts


def _filled(field: BatchedField, y0: Tensor, ends: list[float], ts: Tensor, tableau: Tableau) -> list[float]:
    """Return which share of the stability interval steps fill, at most ``MAX_JUDGED`` of them.

    ``ends`` are those of all steps, the last one's end included.
    """
    picked = np.unique(np.linspace(0, len(ends) - 2, MAX_JUDGED).round().astype(int))
    grid = torch.tensor(ends, dtype=torch.float64).to(ts)
    with torch.no_grad():
        ys = Naive()(field, make_solver(tableau.name, num_steps=1), y0, grid)
    norms = log_norms(field, grid[picked], ys[picked], with_norm=False)
    if norms.eigenvalues is None:
        return []
    # The fastest decay of any mode of any sample.
    fastest = (-norms.eigenvalues.real).amax(-1).amax(-1)
    sizes = torch.tensor([abs(b - a) for a, b in pairwise(ends)], dtype=torch.float64)[picked]
    shares: list[float] = (fastest.clamp_min(0.0) * sizes / stability_interval(tableau)).tolist()
    return shares
