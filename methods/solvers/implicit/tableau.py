"""Butcher tableaus of diagonally implicit Runge-Kutta methods that validate themselves, and schemes made of them."""

import functools
import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from odegrad.errors import UsageError
from odegrad.methods.solvers.tableau import OnTableau
from odegrad.states import sent_to

LinearSolve = Literal["auto", "blocks", "dense", "krylov"]
"""How Newton's linear systems are solved: a block for each sample, one matrix, GMRES; or chosen by the sizes."""


@dataclass(frozen=True)
class ImplicitTableau:
    """A diagonally implicit Runge-Kutta method with one diagonal entry ``gamma`` (SDIRK, ESDIRK).

    ``Y_i = y + h sum_{j<i} a_ij k_j + h gamma f(t + c_i h, Y_i)``, ``k_i = (Y_i - B_i) / (h gamma)`` with ``B_i`` all
    of it but the last term, ``y' = y + h sum_i b_i k_i``. With ``explicit_first`` the first stage is ``k_1 = f(t, y)``.

    Raises
    ------
    UsageError
        If the shapes do not fit, a row does not sum to its ``c``, or the weights do not sum to 1.
    """

    name: str
    order: int
    embedded_order: int
    """The order of the solution that the estimate compares with; 0 if there is no estimate."""
    source: str
    gamma: float
    a: tuple[tuple[float, ...], ...]
    """Rows left of the diagonal, the first empty: ``a[i]`` has ``i`` entries."""
    b: tuple[float, ...]
    c: tuple[float, ...]
    error: tuple[float, ...] | None = None
    """``b - b_hat``, the embedded method's error weights; None if there is no estimate."""
    explicit_first: bool = True

    def __post_init__(self) -> None:
        """Check shapes and consistency."""
        s = len(self.b)
        rows = (self.a, self.c) if self.error is None else (self.a, self.c, self.error)
        if any(len(row) != s for row in rows) or any(len(row) != i for i, row in enumerate(self.a)):
            raise UsageError(f"tableau {self.name}: expected {s} stages in a, b, c and error")
        for i, (row, c) in enumerate(zip(self.full, self.c, strict=True)):
            if abs(math.fsum(row) - c) > 1e-15 * max(1.0, *map(abs, row)):
                raise UsageError(f"tableau {self.name}: row {i} of a sums to {math.fsum(row)!r}, expected c = {c!r}")
        if abs(math.fsum(self.b) - 1.0) > 1e-15 * max(1.0, *map(abs, self.b)):
            raise UsageError(f"tableau {self.name}: b sums to {math.fsum(self.b)!r}, expected 1")
        if self.error is not None and abs(math.fsum(self.error)) > 1e-15:
            raise UsageError(f"tableau {self.name}: error weights sum to {math.fsum(self.error)!r}, expected 0")
        if self.explicit_first and not self.stiffly_accurate:
            raise UsageError(f"tableau {self.name}: expected b to be the last row of a, bit for bit")

    @property
    def stages(self) -> int:
        """Return the number of stages, an explicit first one included."""
        return len(self.b)

    @property
    def solved(self) -> range:
        """Return the stages that are solved for."""
        return range(1 if self.explicit_first else 0, self.stages)

    @property
    def full(self) -> tuple[tuple[float, ...], ...]:
        """Return the rows of ``a`` with their diagonal."""
        return tuple((*row, self.gamma) if i in self.solved else (*row, 0.0) for i, row in enumerate(self.a))

    @property
    def fsal(self) -> bool:
        """Return whether the last stage is the first one of the next step."""
        return self.explicit_first and self.stiffly_accurate

    @property
    def stiffly_accurate(self) -> bool:
        """Return whether the last stage is the new state."""
        return self.full[-1] == self.b

    def times(self, t: float, h: float, t_next: float) -> list[float]:
        """Return the stages' times in the step from ``t``; those at its end are exactly ``t_next``."""
        return [t_next if c == 1.0 else t + c * h for c in self.c]


@dataclass(frozen=True)
class Implicit(OnTableau):
    """A diagonally implicit Runge-Kutta method with its Newton iteration.

    With an explicit first stage the carried vector is ``x = (y, k)``, ``k(t0) = f(t0, y0)``, ``[2d]``; without one it
    is the state alone.

    Parameters
    ----------
    tableau
        The method.
    newton
        ``kappa``: the largest error of a stage, in units of the tolerance, at which Newton's iteration ends.
    linear
        ``blocks``: a Jacobian of ``n x n`` for each sample, n at most 64, for fields whose samples do not mix.
        ``dense``: one Jacobian of the whole batch, at most 512 numbers. ``krylov``: GMRES on products with the
        Jacobian. ``auto`` takes the first of them that the sizes allow.

    Raises
    ------
    UsageError
        If an option is out of range.
    """

    tableau: ImplicitTableau
    newton: float = 1e-2
    linear: LinearSolve = "auto"

    def __post_init__(self) -> None:
        """Check the options."""
        if not (isinstance(self.newton, (int, float)) and 0.0 < self.newton < 1.0):
            raise UsageError(f"newton: expected a part of the tolerance in (0, 1), got {self.newton!r}; 1e-2 is usual")
        if self.linear not in ("auto", "blocks", "dense", "krylov"):
            raise UsageError(f"linear: expected 'auto', 'blocks', 'dense' or 'krylov', got {self.linear!r}")

    @property
    def _stated(self) -> ImplicitTableau:
        return self.tableau

    @property
    def evaluations(self) -> int:
        """Return the stages that a step solves for: each takes an f call for every Newton iteration."""
        return len(self.tableau.solved)

    @property
    def node_states(self) -> int:
        """Return the states that one step's node keeps: its end, and the solved stages that are no part of that."""
        own = len(self.tableau.solved) - int(self.tableau.stiffly_accurate)
        return own + (2 if self.carries_rate else 1)

    @property
    def carries_rate(self) -> bool:
        """Return whether ``f(t, y)`` is carried behind the state."""
        return self.tableau.explicit_first

    @property
    def dense_degree(self) -> int:
        """Return the degree of the dense output's polynomial; 0 if there is none."""
        return 3 if self.carries_rate else 0

    @property
    def restart_calls(self) -> int:
        """Return the f calls that stand on a new state cost before the first step."""
        return int(self.carries_rate)

    @property
    def rest_stages(self) -> int:
        """Return the stages at which the half of f that is not stiff is called; 0 where f is not split."""
        return 0


@dataclass(frozen=True)
class ImplicitWeights:
    """A tableau's weights as tensors."""

    rows: tuple[Tensor, ...]
    """For each stage its weights of the stages before it."""
    columns: tuple[Tensor, ...]
    """For each stage its weights in the stages behind it."""
    b: Tensor
    error: Tensor | None

    @classmethod
    @functools.lru_cache(maxsize=64)
    def of(cls, tableau: ImplicitTableau, dtype: torch.dtype, device: torch.device) -> "ImplicitWeights":
        """Return the weights of ``tableau``, made once."""

        def tensor(values: tuple[float, ...]) -> Tensor:
            return sent_to(device, torch.tensor(values, dtype=dtype))

        s = tableau.stages
        columns = (tuple(tableau.a[j][i] for j in range(i + 1, s)) for i in range(s))
        return cls(
            tuple(tensor(row) for row in tableau.a),
            tuple(tensor(column) for column in columns),
            tensor(tableau.b),
            None if tableau.error is None else tensor(tableau.error),
        )
