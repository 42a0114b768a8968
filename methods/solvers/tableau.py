"""Butcher tableaus of explicit Runge-Kutta methods that validate themselves."""

import abc
import math
from dataclasses import dataclass
from typing import Protocol

from odegrad.errors import UsageError


class NamedTableau(Protocol):
    """A tableau, explicit or implicit, by what it states of itself."""

    @property
    def name(self) -> str:
        """The registry's name."""
        ...

    @property
    def order(self) -> int:
        """The order of a step."""
        ...

    @property
    def source(self) -> str:
        """Where it is from."""
        ...


class OnTableau(abc.ABC):
    """A scheme whose name, order and source are those of its tableau."""

    @property
    @abc.abstractmethod
    def _stated(self) -> NamedTableau:
        """Return the tableau."""

    @property
    def name(self) -> str:
        """Return the tableau's name."""
        return self._stated.name

    @property
    def source(self) -> str:
        """Return where the tableau is from."""
        return self._stated.source

    @property
    def order(self) -> int:
        """Return the tableau's order."""
        return self._stated.order


@dataclass(frozen=True)
class Tableau:
    """An explicit Runge-Kutta method: ``k_i = f(t + c_i h, y + h sum_j a_ij k_j)``, ``y' = y + h sum_i b_i k_i``.

    Raises
    ------
    UsageError
        If the shapes do not fit, a row of ``a`` does not sum to its ``c``, or the weights do not sum to 1.
    """

    name: str
    order: int
    source: str
    a: tuple[tuple[float, ...], ...]
    """Rows of the strictly lower triangle, the first empty: ``a[i]`` has ``i`` entries."""
    b: tuple[float, ...]
    c: tuple[float, ...]
    error: tuple[float, ...] | None = None
    """``b - b_hat``, the embedded method's error weights; None if there is no estimate."""
    dense: tuple[tuple[float, ...], ...] | None = None
    """``dense[i][j]`` multiplies ``h k_i theta^(j+1)`` in the continuous extension; None if there is none."""
    perturbed: bool = False
    """Whether stages at the ends of a step see the next number inside of it, for fields that jump at these ends."""

    def __post_init__(self) -> None:
        """Check shapes and consistency."""
        s = len(self.b)
        rows = (self.a, self.c) if self.error is None else (self.a, self.c, self.error)
        if any(len(row) != s for row in rows) or any(len(row) != i for i, row in enumerate(self.a)):
            raise UsageError(f"tableau {self.name}: expected {s} stages in a, b, c and error")
        for i, (row, c) in enumerate(zip(self.a, self.c, strict=True)):
            if abs(sum(row) - c) > 1e-12 * max(1.0, *map(abs, row), 1.0):
                raise UsageError(f"tableau {self.name}: row {i} of a sums to {sum(row)!r}, expected c = {c!r}")
        if abs(sum(self.b) - 1.0) > 1e-12:
            raise UsageError(f"tableau {self.name}: b sums to {sum(self.b)!r}, expected 1")
        if self.error is not None and abs(sum(self.error)) > 1e-12:
            raise UsageError(f"tableau {self.name}: error weights sum to {sum(self.error)!r}, expected 0")
        if self.dense is not None:
            for i, (row, b) in enumerate(zip(self.dense, self.b, strict=True)):
                if abs(sum(row) - b) > 1e-12:
                    raise UsageError(f"tableau {self.name}: dense row {i} sums to {sum(row)!r}, expected b = {b!r}")

    @property
    def stages(self) -> int:
        """Return the number of stages, the reused last one included."""
        return len(self.b)

    @property
    def fsal(self) -> bool:
        """Return whether the last stage is the first stage of the next step (first same as last)."""
        return self.c[-1] == 1.0 and self.a[-1] == self.b[:-1] and self.b[-1] == 0.0

    @property
    def evaluations(self) -> int:
        """Return ``s``, the f calls of one attempted step after the first."""
        return self.stages - 1 if self.fsal else self.stages

    def times(self, t: float, h: float, t_next: float) -> list[float]:
        """Return the stages' times in the step from ``t``; those at its end are exactly ``t_next``."""
        if self.perturbed:
            inside = {0.0: math.nextafter(t, t_next), 1.0: math.nextafter(t_next, t)}
            return [inside[c] if c in inside else t + c * h for c in self.c]
        # t + h may round to beside t_next, which would be outside the interval at its end.
        return [t_next if c == 1.0 else t + c * h for c in self.c]

    def weights_at(self, theta: float) -> list[float]:
        """Return ``b_i(theta)`` of the continuous extension ``y(t + theta h) = y + h sum_i b_i(theta) k_i``.

        Raises
        ------
        UsageError
            If the tableau has no continuous extension.
        """
        if self.dense is None:
            raise UsageError(f"solver {self.name} has no dense output; use dopri5, bosh3 or rk4")
        return [sum(p * theta ** (j + 1) for j, p in enumerate(row)) for row in self.dense]
