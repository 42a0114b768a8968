"""A solver: a tableau, its step control or fixed grid, and limits. Plain values; the loop is in ``loop``."""

import dataclasses
import math
from dataclasses import dataclass, field

from odegrad.contracts import StepObserver
from odegrad.errors import UsageError
from odegrad.methods.solvers.control import Controller
from odegrad.methods.solvers.tableau import Tableau
from odegrad.methods.solvers.tableaus import TABLEAUS


@dataclass(frozen=True)
class RungeKutta:
    """An explicit Runge-Kutta solver that lands on every output time.

    Adaptive where the tableau estimates its error and neither ``num_steps`` nor ``step_size`` is given; otherwise each
    output interval is divided evenly: into ``num_steps`` steps, or the fewest of at most ``step_size``.

    Parameters
    ----------
    tableau
        The method.
    controller
        Tolerances and step control.
    num_steps
        Fixed steps per output interval.
    step_size
        Largest fixed step, in units of time.
    first_step
        Size of the first adaptive step, in units of time; chosen from the field if None.
    max_steps
        Most attempted steps of one solve.
    observer
        Hears of every attempted step.

    Raises
    ------
    UsageError
        If an option is out of range or two exclude each other.
    """

    tableau: Tableau
    controller: Controller
    num_steps: int | None = None
    step_size: float | None = None
    first_step: float | None = None
    max_steps: int = 100_000
    observer: StepObserver | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        """Check the options."""
        for name in ("rtol", "atol"):
            value = getattr(self.controller, name)
            if not (math.isfinite(value) and value > 0):
                raise UsageError(f"{name}: expected a positive number, got {value!r}; 1e-3 to 1e-9 are usual")
        if self.num_steps is not None and self.step_size is not None:
            raise UsageError("num_steps and step_size: expected at most one of them; leave one out")
        for name in ("num_steps", "step_size", "first_step", "max_steps"):
            value = getattr(self, name)
            if value is not None and not (isinstance(value, (int, float)) and math.isfinite(value) and value > 0):
                raise UsageError(f"{name}: expected a positive number, got {value!r}")
        for name in ("num_steps", "max_steps"):
            if not isinstance(getattr(self, name), (int, type(None))):
                raise UsageError(f"{name}: expected a whole number, got {getattr(self, name)!r}")

    @property
    def name(self) -> str:
        """Return the tableau's name."""
        return self.tableau.name

    @property
    def adaptive(self) -> bool:
        """Return whether steps are chosen from an error estimate."""
        return self.tableau.error is not None and self.num_steps is None and self.step_size is None

    def observed_by(self, observer: StepObserver) -> "RungeKutta":
        """Return the same solver with ``observer`` hearing of its steps."""
        return dataclasses.replace(self, observer=observer)

    def with_tolerances(self, rtol: float | None, atol: float | None) -> "RungeKutta":
        """Return the same solver with other tolerances; None keeps one."""
        rtol = self.controller.rtol if rtol is None else rtol
        atol = self.controller.atol if atol is None else atol
        return dataclasses.replace(self, controller=dataclasses.replace(self.controller, rtol=rtol, atol=atol))

    def steps_between(self, t: float, t_end: float) -> int:
        """Return the number of fixed steps from ``t`` to ``t_end``."""
        if self.step_size is not None:
            return max(1, math.ceil(abs(t_end - t) / self.step_size * (1 - 1e-12)))
        return self.num_steps or 1


def solver_names() -> list[str]:
    """Return the names of the solvers."""
    return list(TABLEAUS)


def make_solver(
    name: str,
    *,
    rtol: float = 1e-7,
    atol: float = 1e-9,
    safety: float = 0.9,
    max_factor: float = 10.0,
    min_factor: float = 0.2,
    **options: float | int | None,
) -> RungeKutta:
    """Return the solver ``name``.

    ``options`` are those of ``RungeKutta``: ``num_steps``, ``step_size``, ``first_step``, ``max_steps``.

    Raises
    ------
    UsageError
        If an option is unknown or out of range.
    """
    known = {f.name for f in dataclasses.fields(RungeKutta)} - {"tableau", "controller", "observer"}
    unknown = sorted(set(options) - known)
    if unknown:
        raise UsageError(
            f"solver {name}: unknown option {unknown[0]!r}; expected one of "
            f"{sorted(known | {'safety', 'max_factor', 'min_factor'})}"
        )
    controller = Controller(float(rtol), float(atol), safety, max_factor, min_factor)
    return RungeKutta(TABLEAUS[name], controller, **options)  # type: ignore[arg-type]
