"""What a solver can step with beside a ``Tableau``.

The asynchronous leapfrog and the reversible wrapper carry more than the state: ``x`` is ``[2d]``, the state first. An
extended tableau takes the steps of its Runge-Kutta method, with a stepper of its own.
"""

import abc
import math
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from odegrad.errors import UsageError
from odegrad.methods.solvers.dynamics import Dynamics
from odegrad.methods.solvers.implicit.tableau import Implicit
from odegrad.methods.solvers.rosenbrock.tableau import Rosenbrock
from odegrad.methods.solvers.step import Stages
from odegrad.methods.solvers.stepper import Stepper
from odegrad.methods.solvers.switching.scheme import Switching
from odegrad.methods.solvers.tableau import OnTableau, Tableau


@dataclass(frozen=True)
class Leapfrog:
    """The asynchronous leapfrog: ``x = (y, v)``, ``v(t0) = f(t0, y0)`` (Zhuang et al., MALI, ICLR 2021, section 3.1).

    ``y_m = y + h/2 v``, ``u = f(t + h/2, y_m)``, ``v' = v + 2 eta (u - v)``, ``y' = y_m + h/2 v'``. Its error estimate
    is the distance to the embedded Euler step, ``h/2 (v' - v)``.

    Raises
    ------
    UsageError
        If ``eta`` is not in (0, 1].
    """

    eta: float = 1.0
    name: str = "alf"
    order: int = 2
    evaluations: int = 1
    source: str = "Zhuang et al., MALI, ICLR 2021"

    def __post_init__(self) -> None:
        """Check the damping."""
        if not 0.0 < self.eta <= 1.0:
            raise UsageError(f"eta: expected a damping in (0, 1], got {self.eta!r}; 1 is the undamped leapfrog")


@dataclass(frozen=True)
class Reversible:
    """A Runge-Kutta method made algebraically reversible: ``x = (y, z)``, ``z(t0) = y0``.

    With ``Psi_h`` the increment of the base method and ``l`` the coupling, ``y' = l y + (1 - l) z + Psi_h(t, z)`` and
    ``z' = z - Psi_-h(t + h, y')``: of the base method's order, and explicitly invertible (McCallum and Foster,
    Efficient, Accurate and Stable Gradients for Neural ODEs, 2024). The first stage of the second half stands at
    ``(t + h, y')``: it also serves the base method's error estimate.

    Raises
    ------
    UsageError
        If ``coupling`` is not in (0, 1].
    """

    tableau: Tableau
    coupling: float = 0.99

    def __post_init__(self) -> None:
        """Check the coupling."""
        if not (math.isfinite(self.coupling) and 0.0 < self.coupling <= 1.0):
            raise UsageError(f"coupling: expected a number in (0, 1], got {self.coupling!r}; 0.99 is usual")

    @property
    def name(self) -> str:
        """Return the name: the base method's, marked."""
        return f"reversible_{self.tableau.name}"

    @property
    def source(self) -> str:
        """Return where the wrapper is from."""
        return "McCallum and Foster, 2024"

    @property
    def order(self) -> int:
        """Return the base method's order."""
        return self.tableau.order

    @property
    def evaluations(self) -> int:
        """Return the f calls of one attempted step: twice the base method's."""
        return 2 * self.tableau.evaluations


@dataclass(frozen=True)
class ExtendedTableau(OnTableau):
    """A Runge-Kutta method whose steps do more than advance the state, at no other f call than its own."""

    tableau: Tableau

    @property
    def _stated(self) -> Tableau:
        return self.tableau

    @property
    def evaluations(self) -> int:
        """Return the f calls of one attempted step."""
        return self.tableau.evaluations

    @abc.abstractmethod
    def stepper(self, stages: Stages, dynamics: Dynamics) -> Stepper:
        """Return what takes the steps on ``stages``, with or without a graph as these are."""

    @abc.abstractmethod
    def added(self, seen: "StepSeen", dynamics: Dynamics) -> Tensor:
        """Return what a step adds to the last numbers of the state, ``[k]``, with a graph where ``seen`` has one."""


@dataclass(frozen=True)
class StepSeen:
    """All of one step: its size, its stages ``k_i``, its two ends, and what the last but one stage stands on."""

    h: float
    stages: Sequence[Tensor]
    x: Tensor
    x_next: Tensor
    before: Tensor


Scheme = Tableau | Leapfrog | Reversible | ExtendedTableau | Implicit | Rosenbrock | Switching
"""What a solver steps with."""
