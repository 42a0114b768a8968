"""Whether the steps that a solver took are fine enough for the gradient: told without any reference."""

import dataclasses

from odegrad.errors import UnsupportedError
from odegrad.methods.gradients.aca import Aca
from odegrad.methods.gradients.naive import Naive
from odegrad.methods.solvers.solver import OneStepSolver
from odegrad.reference.grids import Budget, Grids
from odegrad.reference.subject import Subject
from odegrad.reference.two_ways import relative_distance


def sensitivity_error(subject: Subject, solver: OneStepSolver) -> float:
    """Return by how much naive's gradient changes if every step that ``solver`` took is halved, relative to its size.

    Naive is exact for the steps that were taken. Where the state rests these grow past the stability limit, the state
    stays right and the gradient does not: this number is then near 1. Elsewhere it is the gradient's error. Three times
    naive's cost; both solves hold one step's graph at a time.

    Raises
    ------
    UnsupportedError
        If ``solver`` cannot take steps of its scheme one by one.
    """
    grids, budget = Grids(), Budget()
    subject.value(grids.recording(Naive(), solver, budget))
    single = dataclasses.replace(
        solver, num_steps=1, step_size=None, first_step=None, outputs="step_ends", compile=False
    )
    reason = Aca().refuses(single)
    if reason is not None:
        raise UnsupportedError(f"sensitivity error with solver {solver.name}: {reason}")
    as_taken, halved = (subject.gradient(grids.along(Aca(), single, pieces, budget)) for pieces in (1, 2))
    return relative_distance(halved, as_taken)
