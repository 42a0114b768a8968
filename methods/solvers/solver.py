"""A solver: a one-step scheme, its step control or fixed grid, and limits. Plain values; the loop is in ``loop``."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Self, get_args

from odegrad.contracts import ImplicitWork, RowCounts, Solver, StepCounts, StepObserver, gives_samples_steps
from odegrad.errors import UnsupportedError, UsageError
from odegrad.methods.solvers.control import Control, Controller, StepSize
from odegrad.methods.solvers.implicit.tableau import Implicit, LinearSolve
from odegrad.methods.solvers.implicit.tableaus import IMPLICIT_TABLEAUS
from odegrad.methods.solvers.schemes import ExtendedTableau, Leapfrog, Reversible, Scheme
from odegrad.methods.solvers.tableau import Tableau
from odegrad.methods.solvers.tableaus import TABLEAUS

Sees = Literal["state", "tangent"]
"""What the step control looks at: the state's error, or also that of a random tangent solved along."""

Outputs = Literal["step_ends", "dense", "auto"]
"""How output times inside the interval are met: each ends a step, or is read from the dense output, or either."""

OUTPUTS: tuple[Outputs, ...] = get_args(Outputs)


BatchSteps = Literal["joint", "per_sample"]
"""Whether the samples of a batch share their steps, or each has its own."""

Compaction = Literal["none", "each", "halving"]
"""When rows of samples that have come to their end are dropped: never, at once, or when they are half of the rows."""

Norm = Callable[[Any], Any]
"""The size of a state in the user's shapes, one number."""

PerPart = Any
"""A tolerance: a number, a tensor by the numbers of the state, or a sequence of either by its parts."""

NO_OPTIONS = frozenset(
    ("scheme", "controller", "step_t", "grid", "norm", "tolerances", "one_sided", "carried", "observer")
)
"""What belongs to a solver and is no option of ``make_solver``."""

NO_ONE_STEP_SOLVER = "it takes the steps itself, with a solver of this package; make one with make_solver"
"""Why a method refuses a solver that is no ``OneStepSolver``."""


@dataclass(frozen=True)
class OneStepSolver(Solver):
    """A one-step solver that lands on every output time, or on the last one only.

    Adaptive where the scheme estimates its error and neither ``num_steps`` nor ``step_size`` is given; otherwise each
    interval between two landings is divided evenly: into ``num_steps`` steps, or the fewest of at most ``step_size``.

    Parameters
    ----------
    scheme
        A tableau, or another one-step map.
    controller
        Tolerances and step control.
    num_steps
        Fixed steps per interval between two landings.
    step_size
        Largest fixed step, in units of time.
    first_step
        Size of the first adaptive step, in units of time; chosen from the field if None.
    max_step
        Largest adaptive step, in units of time, of the backward solves of continuous methods too; no bound if None.
    min_step
        Adaptive steps are not made smaller than this, in units of time, and one of this size is taken whatever its
        error, as in torchdiffeq; a landing may cut it. No bound if None.
    max_steps
        Most attempted steps of one solve.
    outputs
        ``step_ends``: every output time is the end of a step. ``dense``: only the last one is; those inside are read
        from the scheme's continuous extension, so that many outputs cost no steps. ``auto``:
        ``dense`` where the steps are adaptive and the continuous extension is as good as they are, ``step_ends``
        elsewhere (``reads_inside_steps``).
    compile
        Compile whole steps of the field with ``torch.compile``, which takes seconds once and pays where the field is
        small: a Runge-Kutta method, a field without side effects. Backward solves of continuous methods are not.
    sees
        ``state``: a step is judged by the state's error. ``tangent``: by that of ``v' = f_y v + f_theta u`` too, with
        random ``v0`` and ``u``; a Runge-Kutta method that estimates its error. Each f call then has a graph and is
        pulled back twice, at no f call more per step. What is recorded are the steps: nothing is done on the way back.
    tangent_seed
        Draws ``v0`` and ``u``.
    batch
        ``joint``: the samples of a batch share their steps, which their mean error chooses. ``per_sample``: each has
        its own times, steps and error; an explicit or implicit Runge-Kutta method with step control.
    compaction
        When samples that have come to their end leave a ``per_sample`` batch: ``none``, ``each`` (at once), or
        ``halving`` (when at most half of the rows are still on their way).
    step_t
        Times that end an adaptive step, beside the output times.
    grid
        Ends of fixed steps, beside the output times; instead of ``num_steps`` and ``step_size``.
    norm
        The error norm of a state, in the user's shapes, instead of the largest root mean square over its parts.
    tolerances
        ``rtol`` and ``atol`` by number or part of the state, each one number, a tensor, or as many of these as parts;
        those of ``controller`` are then the largest.
    one_sided
        Times at which the field may jump: where a solve starts or ends at one of them its stages see the limit from
        inside, at the next number. Set by who solves from jump to jump.
    carried
        Where the size of the next step is handed from one solve to the next.
    observer
        Hears of every attempted step.

    Raises
    ------
    UsageError
        If an option is out of range or two exclude each other.
    """

    scheme: Scheme
    controller: Controller
    num_steps: int | None = None
    step_size: float | None = None
    first_step: float | None = None
    min_step: float | None = None
    max_step: float | None = None
    max_steps: int = 100_000
    outputs: Outputs = "step_ends"
    compile: bool = False
    sees: Sees = "state"
    tangent_seed: int = 0
    batch: BatchSteps = "joint"
    compaction: Compaction = "halving"
    step_t: tuple[float, ...] = ()
    grid: tuple[float, ...] | None = None
    norm: Norm | None = field(default=None, compare=False)
    tolerances: tuple[PerPart, PerPart] | None = field(default=None, compare=False)
    one_sided: tuple[float, ...] = ()
    carried: StepSize | None = field(default=None, compare=False)
    observer: StepObserver | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        """Check the options."""
        for name in ("rtol", "atol"):
            value = getattr(self.controller, name)
            if not (math.isfinite(value) and value > 0):
                raise UsageError(f"{name}: expected a positive number, got {value!r}; 1e-3 to 1e-9 are usual")
        self._check_steps()
        if self.outputs not in OUTPUTS:
            raise UsageError(f"outputs: expected 'step_ends', 'dense' or 'auto', got {self.outputs!r}")
        if self.outputs == "dense" and not self.has_dense_output:
            raise UsageError(f"outputs: solver {self.name} has no dense output; use 'step_ends', or dopri5 or tsit5")
        if not isinstance(self.compile, bool):
            raise UsageError(f"compile: expected True or False, got {self.compile!r}")
        if self.compile and not isinstance(self.scheme, Tableau):
            raise UsageError(
                f"compile: solver {self.name} is no explicit Runge-Kutta method; leave it out, or use dopri5"
            )
        self._check_sees()
        self._check_batch()

    def _check_batch(self) -> None:
        if self.batch not in ("joint", "per_sample"):
            raise UsageError(f"batch: expected 'joint' or 'per_sample', got {self.batch!r}")
        if self.compaction not in ("none", "each", "halving"):
            raise UsageError(f"compaction: expected 'none', 'each' or 'halving', got {self.compaction!r}")

    @property
    def per_sample(self) -> bool:
        """Return whether every sample has its own steps."""
        return gives_samples_steps(self)

    @property
    def refuses_per_sample(self) -> str | None:
        """Return why samples cannot have steps of their own, None if they can."""
        if not isinstance(self.scheme, Tableau | Implicit):
            return f"samples have steps of their own on Runge-Kutta methods, which {self.name} is not"
        if not self.adaptive:
            return f"the steps of solver {self.name} are fixed here, and the same for every sample"
        linear = self.scheme.linear if isinstance(self.scheme, Implicit) else "auto"
        if linear not in ("auto", "blocks"):
            return f"each sample has a system of its own there, so not linear = {linear!r}; leave that out"
        return self._option_against_own_steps()

    def _option_against_own_steps(self) -> str | None:
        for option, others in (("compile", (False,)), ("sees", ("state",)), ("outputs", ("step_ends", "auto"))):
            if getattr(self, option) not in others:
                return f"it does not go with {option} = {getattr(self, option)!r}; leave that out"
        for option in ("step_t", "norm", "tolerances", "min_step"):
            if getattr(self, option):
                return f"it does not go with {option}; leave that out"
        if self.one_sided:
            return "samples with steps of their own do not end one where the field jumps; use batch = 'joint'"
        return None

    def _check_steps(self) -> None:
        if self.num_steps is not None and self.step_size is not None:
            raise UsageError("num_steps and step_size: expected at most one of them; leave one out")
        if self.max_step == math.inf:  # torchdiffeq's way to say that there is no bound
            object.__setattr__(self, "max_step", None)
        if self.min_step == 0:
            object.__setattr__(self, "min_step", None)
        for name in ("num_steps", "step_size", "first_step", "max_step", "min_step", "max_steps"):
            value = getattr(self, name)
            if value is not None and not (isinstance(value, (int, float)) and math.isfinite(value) and value > 0):
                raise UsageError(f"{name}: expected a positive number, got {value!r}")
        if self.min_step is not None and self.max_step is not None and self.min_step > self.max_step:
            raise UsageError(f"min_step: expected at most max_step = {self.max_step!r}, got {self.min_step!r}")
        for name in ("num_steps", "max_steps"):
            if not isinstance(getattr(self, name), (int, type(None))):
                raise UsageError(f"{name}: expected a whole number, got {getattr(self, name)!r}")

    def _check_sees(self) -> None:
        if self.sees not in ("state", "tangent"):
            raise UsageError(f"sees: expected 'state' or 'tangent', got {self.sees!r}")
        if not isinstance(self.tangent_seed, int) or self.tangent_seed < 0:
            raise UsageError(f"tangent_seed: expected a whole number of at least 0, got {self.tangent_seed!r}")
        if self.sees == "tangent" and not isinstance(self.scheme, Tableau):
            raise UsageError(
                f"sees: the tangent goes along the stages of an explicit Runge-Kutta method, which solver {self.name} "
                "is not; use 'state', bound the steps by max_step, or use dopri5"
            )
        if self.sees == "tangent" and self.compile:
            raise UsageError(
                "sees: a compiled step has no product with the Jacobian; leave out compile, or bound the steps by "
                "max_step instead"
            )

    @property
    def name(self) -> str:
        """Return the scheme's name."""
        return self.scheme.name

    @property
    def order(self) -> int:
        """Return the scheme's order."""
        return self.scheme.order

    @property
    def implicit(self) -> bool:
        """Return whether stages are solved by Newton's iteration."""
        return isinstance(self.scheme, Implicit)

    @property
    def control_order(self) -> int:
        """Return the power of the step that the error estimate goes with."""
        scheme = self.scheme
        if isinstance(scheme, Implicit) and scheme.tableau.embedded_order:
            return min(scheme.order, scheme.tableau.embedded_order) + 1
        return scheme.order

    @property
    def tableau(self) -> Tableau:
        """Return the Butcher tableau.

        Raises
        ------
        UnsupportedError
            If the scheme is no plain Runge-Kutta method.
        """
        if not isinstance(self.scheme, Tableau):
            raise UnsupportedError(
                f"solver {self.name}: expected an explicit Runge-Kutta method; use one such as dopri5"
            )
        return self.scheme

    @property
    def has_dense_output(self) -> bool:
        """Return whether the solution is known between the ends of a step."""
        if isinstance(self.scheme, Implicit):
            return self.scheme.carries_rate
        tableau = self._stepped
        return tableau is not None and tableau.dense is not None

    @property
    def reads_inside_steps(self) -> bool:
        """Return whether outputs inside the interval are read from the dense output, and end no steps.

        ``auto`` does so with adaptive steps if the dense output's polynomial has at least the degree of the result
        whose error the step control holds: both errors then have at least that power of the step, plus one. Samples
        with steps of their own end one at each output.
        """
        if self.outputs == "auto":
            return self.adaptive and not self.per_sample and self.dense_degree >= self._judged_order
        return self.outputs == "dense"

    @property
    def _judged_order(self) -> int:
        """Return the order of the result whose error the step control estimates."""
        scheme = self.scheme
        if isinstance(scheme, Implicit) and scheme.tableau.embedded_order:
            return min(scheme.order, scheme.tableau.embedded_order)
        return scheme.order - 1

    @property
    def _stepped(self) -> Tableau | None:
        """Return the explicit Runge-Kutta method whose steps are taken as they are; None of the other schemes."""
        if isinstance(self.scheme, ExtendedTableau):
            return self.scheme.tableau
        return self.scheme if isinstance(self.scheme, Tableau) else None

    @property
    def dense_degree(self) -> int:
        """Return the degree of the dense output's polynomial; 0 if there is none."""
        if isinstance(self.scheme, Implicit):
            return 3 if self.scheme.carries_rate else 0
        dense = self._stepped.dense if self._stepped is not None else None
        return len(dense[0]) if dense else 0

    def counted(
        self,
        intervals: int,
        forward: tuple[int, int] = (0, 0),
        backward: tuple[int, int] = (0, 0),
        works: Sequence[ImplicitWork] = (),
        rounds: tuple[Sequence[RowCounts], Sequence[RowCounts]] = ((), ()),
    ) -> StepCounts:
        """Return the step counts of a solve over ``intervals`` with these accepted and rejected steps each way.

        ``works`` is what an observer has heard of the forward pass's implicit steps, in its order; ``rounds`` of the
        rounds each way where samples have steps of their own.
        """
        scheme = self.scheme
        carries_rate = isinstance(scheme, Implicit) and scheme.carries_rate
        return StepCounts(
            evaluations=self.scheme.evaluations,
            adaptive=self.adaptive,
            start=self.start_calls,
            restart=self.restart_calls,
            carried=int(isinstance(scheme, Leapfrog) or carries_rate),
            dense_degree=self.dense_degree,
            intervals=intervals,
            accepted=forward[0],
            rejected=forward[1],
            accepted_backward=backward[0],
            rejected_backward=backward[1],
            carried_states=2 if isinstance(scheme, Leapfrog | Reversible) or carries_rate else 1,
            implicit=isinstance(scheme, Implicit),
            node_states=scheme.node_states if isinstance(scheme, Implicit) else 0,
            work=sum(works, ImplicitWork()),
            newton_by_step=tuple(work.newton for work in works if work.newton),
            weights=scheme.b if isinstance(scheme, Tableau) else (),
            rounds_forward=tuple(rounds[0]),
            rounds_backward=tuple(rounds[1]),
        )

    @property
    def estimates_error(self) -> bool:
        """Return whether a step comes with an estimate of its error."""
        if isinstance(self.scheme, Leapfrog):
            return True
        tableau = self.scheme if isinstance(self.scheme, Tableau) else self.scheme.tableau
        return tableau.error is not None

    @property
    def adaptive(self) -> bool:
        """Return whether steps are chosen from an error estimate."""
        return self.estimates_error and self.num_steps is None and self.step_size is None and self.grid is None

    @property
    def restart_calls(self) -> int:
        """Return the f calls that stand on a new state cost before the first step: the reused first stage."""
        scheme = self.scheme
        if isinstance(scheme, Implicit):
            return int(scheme.carries_rate)
        tableau = self._stepped
        return 1 if isinstance(scheme, Leapfrog) or (tableau is not None and tableau.fsal) else 0

    @property
    def start_calls(self) -> int:
        """Return the f calls of a solve before its first step; with those that choose the step's size."""
        if not self.adaptive:
            return self.restart_calls
        return 1 if self.first_step is not None else 2

    def observed_by(self, observer: StepObserver) -> Self:
        """Return the same solver with ``observer`` hearing of its steps."""
        return dataclasses.replace(self, observer=observer)

    def uncompiled(self) -> Self:
        """Return the same solver without compiled steps, whose function calls can be counted."""
        return dataclasses.replace(self, compile=False)

    def with_tolerances(self, rtol: float | None, atol: float | None) -> Self:
        """Return the same solver with other tolerances; None keeps one."""
        rtol = self.controller.rtol if rtol is None else rtol
        atol = self.controller.atol if atol is None else atol
        return dataclasses.replace(self, controller=dataclasses.replace(self.controller, rtol=rtol, atol=atol))

    def reversible(self, coupling: float) -> Self:
        """Return the same solver with its Runge-Kutta method in the reversible wrapper."""
        return dataclasses.replace(self, scheme=Reversible(self.tableau, coupling))

    def extended(self, scheme: ExtendedTableau) -> Self:
        """Return the same solver with steps that do more; ``scheme`` extends its Runge-Kutta method."""
        return dataclasses.replace(self, scheme=scheme)

    def grid_ends(self, t: float, t_end: float) -> list[float]:
        """Return the ends of the steps from ``t`` to ``t_end`` on the given grid."""
        low, high = min(t, t_end), max(t, t_end)
        return [*sorted((g for g in self.grid or () if low < g < high), reverse=t > t_end), t_end]

    def output_ends(self, times: Sequence[float]) -> Sequence[float]:
        """Return the outputs that end a step, of a solve with outputs at ``times``."""
        return times[-1:] if self.reads_inside_steps else times[1:]

    def landings(self, times: Sequence[float]) -> list[float]:
        """Return the times that end a step whatever the step control says, of a solve with these outputs."""
        ends = set(self.output_ends(times))
        low, high = min(times[0], times[-1]), max(times[0], times[-1])
        return sorted(ends | {t for t in self.step_t if low < t < high}, reverse=times[-1] < times[0])

    def steps_between(self, t: float, t_end: float) -> int:
        """Return the number of fixed steps from ``t`` to ``t_end``."""
        if self.grid is not None:
            return len(self.grid_ends(t, t_end))
        if self.step_size is not None:
            # An interval of n whole steps must not become n + 1 of them because their quotient rounds up.
            return max(1, math.ceil(abs(t_end - t) / self.step_size * (1 - 1e-12)))
        return self.num_steps or 1


def solver_names() -> list[str]:
    """Return the names of the solvers."""
    return [*TABLEAUS, Leapfrog().name, *IMPLICIT_TABLEAUS]


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
    ``control`` is ``elementary``, ``pi`` or ``pi34`` (the default of the implicit solvers, ``elementary`` that of the
    others), ``newton`` and ``linear`` are those of ``Implicit``; the other ``options`` are those of ``OneStepSolver``.

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
        control = "pi34" if isinstance(scheme, Implicit) else "elementary"
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
    if name in IMPLICIT_TABLEAUS:
        if coupling is not None:
            raise UsageError(f"coupling: expected none with solver {name}, whose steps have no inverse; leave it out")
        return Implicit(IMPLICIT_TABLEAUS[name], 1e-2 if newton is None else newton, linear or "auto")
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
