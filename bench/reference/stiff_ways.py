"""The same two gradients where explicit steps are too many: by implicit ones, of two methods with two tableaus.

(A) Discretise first: `aca` along the accepted steps of `kvaerno5`, cut until the gradient stands still; each stage is
pulled back by a transposed system at its root.

(B) Differentiate first: `interpolation_dense` by `kencarp4`, whose costate is solved back by linear systems without
iteration, over a cubic polynomial of each of its own steps; it ends a step at each of the cut ones' ends.

They share the field, its Jacobians and the times, and nothing else: no tableau, no recorded state, no pull-back.
"""

from torch import Tensor

from odegrad.methods.gradients.aca import Aca
from odegrad.methods.gradients.interpolation_dense import InterpolationDense
from odegrad.methods.gradients.naive import Naive
from odegrad.methods.solvers.solver import make_solver
from odegrad.reference.grids import Budget, Grids
from odegrad.reference.subject import Subject

RECORD, BACK = "kvaerno5", "kencarp4"
STIFF_RTOL, STIFF_ATOL = 1e-8, 1e-12
"""Of both solves: components far smaller than the others, as Robertson's, still have their digits."""
CUT_RTOL, CUT_ATOL = 1e-11, 1e-14
"""What the stages of cut steps are solved to, a hundredth of it."""
MAX_CUTS = 8
"""Parts of a step at most: a method of order 5 has then no more to gain from them than rounding."""


def recorded_implicitly(subject: Subject, budget: Budget, max_steps: int) -> Grids:
    """Return the implicit steps of the subject's solves.

    Raises
    ------
    SolverError
        If implicit steps do not solve it either.
    UnsupportedError
        If they cannot: its samples mix, and are too many for one matrix.
    """
    grids = Grids()
    solver = make_solver(RECORD, rtol=STIFF_RTOL, atol=STIFF_ATOL, max_steps=max_steps)
    subject.value(grids.recording(Naive(), solver, budget))
    return grids


def cut_implicitly(subject: Subject, grids: Grids, pieces: int, budget: Budget) -> Tensor:
    """Return the gradient along the recorded steps, each cut into ``pieces``."""
    solver = make_solver(RECORD, num_steps=1, rtol=CUT_RTOL, atol=CUT_ATOL)
    return subject.gradient(grids.along(Aca(), solver, pieces, budget))


def costate_implicitly(subject: Subject, grids: Grids, pieces: int, budget: Budget) -> Tensor:
    """Return the gradient by a costate that is solved back between the ends of the cut steps."""
    solver = make_solver(BACK, rtol=STIFF_RTOL, atol=STIFF_ATOL)
    return subject.gradient(grids.along(InterpolationDense(), solver, pieces, budget))
