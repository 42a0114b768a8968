"""A solver by its name; the class, its options and their checks are in ``one_step``, the loop is in ``loop``."""

import dataclasses

from odegrad.errors import UsageError
from odegrad.methods.solvers.control import Control, Controller
from odegrad.methods.solvers.implicit.additive import Imex
from odegrad.methods.solvers.implicit.tableau import Implicit, LinearSolve
from odegrad.methods.solvers.implicit.tableaus import ADDITIVE_PAIRS, IMPLICIT_TABLEAUS
from odegrad.methods.solvers.one_step.solver import NO_ONE_STEP_SOLVER, OneStepSolver
from odegrad.methods.solvers.rosenbrock.tableau import ROSENBROCK_TABLEAUS, Rosenbrock
from odegrad.methods.solvers.schemes import Leapfrog, Reversible, Scheme
from odegrad.methods.solvers.switching.scheme import Switching
from odegrad.methods.solvers.tableaus import TABLEAUS

__all__ = ["NO_ONE_STEP_SOLVER", "OneStepSolver", "make_solver", "solver_names"]

NO_OPTIONS = frozenset(
    ("scheme", "controller", "step_t", "grid", "norm", "tolerances", "one_sided", "carried", "observer")
)
"""What belongs to a solver and is no option of ``make_solver``."""


SWITCHING = {"auto_stiff": ("dopri5", "kencarp4")}
"""Solvers that switch: the names of their explicit and of their implicit method."""


def solver_names() -> list[str]:
    """Return the names of the solvers."""
    return [*TABLEAUS, Leapfrog().name, *IMPLICIT_TABLEAUS, *ROSENBROCK_TABLEAUS, *ADDITIVE_PAIRS, *SWITCHING]


def make_solver(
    name: str,
    *,
    rtol: float = 1e-7,
    atol: float = 1e-9,
    safety: float = 0.9,
    max_factor: float = 10.0,
    min_factor: float = 0.2,
    control: Control | None = None,
    coupling: float | None = None,
    eta: float = 1.0,
    newton: float | None = None,
    linear: LinearSolve | None = None,
    **options: float | str | None,
) -> OneStepSolver:
    """Return the solver ``name``.

    ``coupling`` puts an explicit Runge-Kutta method into the reversible wrapper, ``eta`` is the damping of ``alf``,
    ``control`` is ``elementary``, ``pi`` or ``pi34`` (the default of the implicit solvers, and of the implicit steps of
    one that switches; ``elementary`` that of the others), ``newton`` and ``linear`` are those of ``Implicit``; the
    other ``options`` are those of ``OneStepSolver``.

    Raises
    ------
    UsageError
        If an option is unknown or out of range.
    """
    known = {f.name for f in dataclasses.fields(OneStepSolver)} - NO_OPTIONS
    unknown = sorted(set(options) - known)
    if unknown:
        others = {"safety", "max_factor", "min_factor", "control", "coupling", "eta", "newton", "linear"}
        raise UsageError(f"solver {name}: unknown option {unknown[0]!r}; expected one of {sorted(known | others)}")
    scheme = _scheme(name, coupling, eta, newton, linear)
    if control is None:
        control = "pi34" if isinstance(scheme, Implicit | Rosenbrock | Switching) else "elementary"
    controller = Controller(float(rtol), float(atol), safety, max_factor, min_factor, control)
    solver = OneStepSolver(scheme, controller, **options)  # type: ignore[arg-type]
    # Here and not in the class: who takes the steps of an adaptive solver again, on a fixed grid, need not undo them.
    for option, unset in (("min_step", None), ("max_step", None), ("sees", "state")):
        if getattr(solver, option) != unset and not solver.adaptive:
            raise UsageError(
                f"{option}: it is for adaptive steps, and those of solver {name} are fixed here; leave it out, give "
                "step_size for smaller fixed steps, or use dopri5 without num_steps and step_size"
            )
    if not solver.per_sample and solver.compaction != "halving":
        raise UsageError("compaction: it is for batch = 'per_sample', whose rows it drops; leave it out")
    if solver.per_sample and solver.refuses_per_sample is not None:
        raise UsageError(
            f"batch: {solver.refuses_per_sample}; take batch = 'joint', or an adaptive solver such as dopri5"
        )
    return solver


def _scheme(name: str, coupling: float | None, eta: float, newton: float | None, linear: LinearSolve | None) -> Scheme:
    """Return what the solver ``name`` steps with."""
    if name in IMPLICIT_TABLEAUS or name in ADDITIVE_PAIRS or name in SWITCHING:
        if coupling is not None:
            raise UsageError(f"coupling: expected none with solver {name}, whose steps have no inverse; leave it out")
        kappa, kind = 1e-2 if newton is None else newton, linear or "auto"
        if name in IMPLICIT_TABLEAUS:
            return Implicit(IMPLICIT_TABLEAUS[name], kappa, kind)
        if name in SWITCHING:
            explicit, implicit = SWITCHING[name]
            return Switching(name, TABLEAUS[explicit], Implicit(IMPLICIT_TABLEAUS[implicit], kappa, kind))
        tableau, partner = ADDITIVE_PAIRS[name]
        return Imex(tableau, kappa, kind, partner=partner)
    if name in ROSENBROCK_TABLEAUS:
        return _rosenbrock(name, coupling, newton, linear)
    for option, value in (("newton", newton), ("linear", linear)):
        if value is not None:
            raise UsageError(
                f"{option}: it is for implicit solvers, and {name} is explicit; leave it out, or use kencarp4"
            )
    if name != Leapfrog().name:
        return TABLEAUS[name] if coupling is None else Reversible(TABLEAUS[name], float(coupling))
    if coupling is not None:
        raise UsageError(f"coupling: expected none with solver {name}, which is reversible as it is; leave it out")
    return Leapfrog(float(eta))


def _rosenbrock(name: str, coupling: float | None, newton: float | None, linear: LinearSolve | None) -> Rosenbrock:
    if coupling is not None:
        raise UsageError(f"coupling: expected none with solver {name}, whose steps have no inverse; leave it out")
    if newton is not None:
        raise UsageError(f"newton: solver {name} has no Newton iteration; leave it out, or use kencarp4")
    return Rosenbrock(ROSENBROCK_TABLEAUS[name], linear or "auto")
