"""Which stepper makes the steps of rows."""

from torch import Tensor

from odegrad.methods.solvers.implicit.tableau import Implicit
from odegrad.methods.solvers.per_sample.explicit_graph import GraphRows, GraphRowStepper
from odegrad.methods.solvers.per_sample.implicit import ImplicitRowStepper
from odegrad.methods.solvers.per_sample.implicit_graph import GraphImplicitRowStepper
from odegrad.methods.solvers.per_sample.rows import RowField
from odegrad.methods.solvers.per_sample.stages import PlainRowStepper, RowDynamics, RowStepper, RowVectorField
from odegrad.methods.solvers.solver import OneStepSolver


def row_stepper(dynamics: RowDynamics, solver: OneStepSolver, like: Tensor) -> RowStepper:
    """Return what makes the steps of rows ``like [rows, n]`` without a graph."""
    if isinstance(solver.scheme, Implicit) and isinstance(dynamics, RowVectorField):
        return ImplicitRowStepper(dynamics.field, solver, solver.scheme, like)
    return PlainRowStepper(dynamics, solver.tableau, like)


def graph_row_stepper(field: RowField, solver: OneStepSolver) -> GraphRows:
    """Return what makes the steps of rows with a graph."""
    if isinstance(solver.scheme, Implicit):
        return GraphImplicitRowStepper(field, solver, solver.scheme)
    return GraphRowStepper(field, solver.tableau)
