"""The solver: what everybody may know of it."""

from typing import Protocol, Self

from typing_extensions import TypeVar

from odegrad.contracts.observers import StepObserver

SolverT = TypeVar("SolverT", bound="Solver")


class Solver(Protocol):
    """Advances a state: a tableau (or another one-step map), its step controller, tolerances and limits.

    This is what everybody may know of a solver. A method that takes steps itself knows ``OneStepSolver`` of
    ``odegrad.methods.solvers.solver``, the one kind there is, and refuses any other.
    """

    @property
    def name(self) -> str:
        """The registry's name, for example ``dopri5``."""
        ...

    @property
    def adaptive(self) -> bool:
        """Whether steps are chosen from an error estimate."""
        ...

    def observed_by(self, observer: StepObserver) -> Self:
        """Return the same solver with ``observer`` hearing of its steps."""
        ...


def gives_samples_steps(solver: object) -> bool:
    """Return whether ``solver`` gives every sample of a batch steps of its own, and so takes times of its own."""
    return getattr(solver, "batch", "joint") == "per_sample"
