"""Two methods in the place of one: an explicit method, and an implicit one where stability would bind its steps."""

from dataclasses import dataclass

from odegrad.errors import UsageError
from odegrad.methods.solvers.implicit.tableau import Implicit, ImplicitTableau, LinearSolve
from odegrad.methods.solvers.tableau import Tableau

NO_SWITCHING = (
    "its steps are of two methods, and only methods know the way back through both that redo the steps or keep their "
    "graph; use aca, or the solver kencarp4"
)
"""Why a method refuses such a solver."""


@dataclass(frozen=True)
class Switching:
    """Steps that are each one of ``explicit`` or of ``implicit``; the first one is explicit.

    Both carry ``x = (y, k)``, ``k = f(t, y)``, ``[2d]``, which the last stage of either leaves at its end: so to switch
    costs no f call.

    Parameters
    ----------
    name
        Of the solver.
    explicit
        A method with an error estimate whose last stage is the first of the next step.
    implicit
        A method with an error estimate that carries its rate.

    Raises
    ------
    UsageError
        If they are not.
    """

    name: str
    explicit: Tableau
    implicit: Implicit

    def __post_init__(self) -> None:
        """Check both methods."""
        if not (self.explicit.fsal and self.explicit.error is not None and self.explicit.c[-2] == 1.0):
            raise UsageError(
                f"solver {self.name}: expected an explicit pair whose last two stages stand at the step's end, the "
                f"last one at its solution, got {self.explicit.name}; take dopri5"
            )
        if not (self.implicit.carries_rate and self.implicit.tableau.error is not None):
            raise UsageError(
                f"solver {self.name}: expected an implicit pair that carries its rate, got {self.implicit.name}; take "
                "kencarp4"
            )

    @property
    def tableau(self) -> ImplicitTableau:
        """Return the implicit method's tableau."""
        return self.implicit.tableau

    @property
    def linear(self) -> LinearSolve:
        """Return how the implicit steps' systems are solved."""
        return self.implicit.linear

    @property
    def order(self) -> int:
        """Return the order of the lower one."""
        return min(self.explicit.order, self.implicit.order)

    @property
    def source(self) -> str:
        """Return where both are from."""
        return f"{self.explicit.source}; {self.implicit.source}"

    @property
    def evaluations(self) -> int:
        """Return the stages that an implicit step solves for."""
        return self.implicit.evaluations

    @property
    def node_states(self) -> int:
        """Return the states that an implicit step's node keeps."""
        return self.implicit.node_states

    @property
    def carries_rate(self) -> bool:
        """Return that ``f(t, y)`` is carried behind the state."""
        return True

    @property
    def dense_degree(self) -> int:
        """Return the least degree of a step's dense output."""
        return min(self.implicit.dense_degree, len(self.explicit.dense[0]) if self.explicit.dense else 0)

    @property
    def restart_calls(self) -> int:
        """Return the f calls that stand on a new state cost before the first step."""
        return 1

    @property
    def rest_stages(self) -> int:
        """Return 0: f is not split."""
        return 0
