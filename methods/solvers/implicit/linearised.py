"""What the steppers with linear systems share: the linearisation at the start of a step, and who hears of the work."""

import abc
from typing import Generic, TypeVar

from torch import Tensor

from odegrad.contracts import ImplicitWork
from odegrad.errors import UnsupportedError
from odegrad.methods.solvers.dynamics import FlatField
from odegrad.methods.solvers.implicit.linear import Jacobians, Linearisation
from odegrad.methods.solvers.implicit.pullback import tell
from odegrad.methods.solvers.implicit.tableau import LinearSolve
from odegrad.methods.solvers.solver import OneStepSolver
from odegrad.methods.solvers.stepper import Stepper

AtT = TypeVar("AtT", bound=Linearisation)


class LinearisedStepper(Stepper, Generic[AtT]):
    """Steps that begin with the field's Jacobian at their start; attempts from one state share it.

    Parameters
    ----------
    solver
        Tolerances and who hears of the work.
    linear
        How systems are solved.
    field
        The field.
    like
        A state ``[d]``.
    refuse_mixing
        Check at the first Jacobian that samples do not depend on each other, where it supposes so.
    """

    def __init__(
        self, solver: OneStepSolver, linear: LinearSolve, field: FlatField, like: Tensor, *, refuse_mixing: bool
    ) -> None:
        self.field = field
        self.observer = solver.observer
        self.d = like.numel()
        self.jacobians = Jacobians.of(field, linear)
        self.samples = self.jacobians.samples
        self.x_next = like
        """The carried vector after the last attempt."""
        self._refuse_mixing = refuse_mixing
        self._at: AtT | None = None
        self._built = False
        """Whether the linearisation has been made, and nobody told of it."""
        self._untold: ImplicitWork | None = None

    @abc.abstractmethod
    def linearise(self, t: float, y: Tensor) -> AtT:
        """Return the field's linearisation at ``(t, y [batch, n, 1])``."""

    def linearised(self, t: float, y: Tensor) -> AtT:
        """Return the linearisation at the start of the step; of another attempt from the same state it is known."""
        if self._at is None:
            self._at, self._built = self.linearise(t, y), True
            if self._refuse_mixing:
                self._refuse_mixing = False
                self.jacobians.refuse_mixing(self._at)
        return self._at

    @property
    def at_start(self) -> AtT:
        """Return the linearisation that the last attempt has begun from.

        Raises
        ------
        UnsupportedError
            If there is none.
        """
        if self._at is None:
            raise UnsupportedError(f"{type(self).__name__}: no step has been attempted; call attempt first")
        return self._at

    def newly_built(self) -> int:
        """Return 1 if the linearisation is one that nobody has been told of, else 0; from then on it is told."""
        built, self._built = self._built, False
        return int(built)

    def accept(self) -> None:
        """Stand on the new state: the Jacobian of the old one is no longer known."""
        self._at = None
        if self._untold is not None:
            tell(self.observer, self._untold)
            self._untold = None

    def tell_lost(self) -> None:
        """Tell of the last attempt as one that was lost, if it was."""
        if self._untold is not None:
            tell(self.observer, self._untold.lost())
            self._untold = None
