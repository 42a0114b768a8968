"""The options of a one-step solver, and their checks: plain values."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from torch import Tensor

from odegrad.contracts import StepObserver
from odegrad.errors import UsageError
from odegrad.methods.fields.precision import PRECISIONS, Precision
from odegrad.methods.solvers.control import Controller, StepSize
from odegrad.methods.solvers.implicit.tableau import Implicit
from odegrad.methods.solvers.schemes import ExtendedTableau, Scheme
from odegrad.methods.solvers.switching.scheme import Switching
from odegrad.methods.solvers.tableau import Tableau

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


PerPart = float | Tensor | Sequence[float | Tensor]
"""A tolerance: a number, a tensor by the numbers of the state, or a sequence of either by its parts."""


@dataclass(frozen=True)
class SolverOptions:
    """What a one-step solver is made of: a scheme, its step control or fixed grid, and limits.

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
    precision
        ``bfloat16`` or ``float16``: the field computes in this type, by low copies of its weights, and state, stages,
        error, step size, costate and sums of gradients stay in the state's, float32 or float64. Empty: in the state's.
        Not for implicit solvers.
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
    precision: Precision = ""
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
        self._check_precision()

    @property
    def name(self) -> str:
        """Return the scheme's name."""
        return self.scheme.name

    @property
    def has_dense_output(self) -> bool:
        """Return whether the solution is known between the ends of a step."""
        if isinstance(self.scheme, Implicit | Switching):
            return self.scheme.dense_degree > 0
        tableau = self._stepped
        return tableau is not None and tableau.dense is not None

    @property
    def _stepped(self) -> Tableau | None:
        """Return the explicit Runge-Kutta method whose steps are taken as they are; None of the other schemes."""
        if isinstance(self.scheme, ExtendedTableau):
            return self.scheme.tableau
        return self.scheme if isinstance(self.scheme, Tableau) else None

    def _check_batch(self) -> None:
        if self.batch not in ("joint", "per_sample"):
            raise UsageError(f"batch: expected 'joint' or 'per_sample', got {self.batch!r}")
        if self.compaction not in ("none", "each", "halving"):
            raise UsageError(f"compaction: expected 'none', 'each' or 'halving', got {self.compaction!r}")

    def _check_precision(self) -> None:
        if self.precision not in PRECISIONS:
            raise UsageError(
                "precision: expected 'bfloat16' or 'float16' for the field alone, or '' for the type of the state, got "
                f"{self.precision!r}"
            )
        if self.precision and self.compile:
            raise UsageError(
                "compile: a compiled step has its field in the type of the state; leave out compile or precision"
            )

    def _check_steps(self) -> None:
        fixed = next((name for name in ("num_steps", "step_size", "grid") if getattr(self, name) is not None), None)
        if fixed is not None and isinstance(self.scheme, Switching):
            explicit, implicit = self.scheme.explicit.name, self.scheme.implicit.name
            raise UsageError(
                f"{fixed}: solver {self.name} switches by what its step control does, and fixed steps have none; leave "
                f"it out, or use {explicit} or {implicit}"
            )
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
