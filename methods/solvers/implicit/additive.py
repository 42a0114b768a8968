"""Implicit-explicit (additive) Runge-Kutta pairs: the stiff half of a split field implicitly, the rest explicitly.

``y' = f_stiff + f_rest``. ``Y_i = y + h sum_{j<i} (a_ij k_j + e_ij r_j) + h gamma f_stiff(t_i, Y_i)``, with
``k_i = (Y_i - B_i) / (h gamma)`` and ``r_i = f_rest(t_i, Y_i)``; ``y' = y + h sum_i b_i (k_i + r_i)`` (Kennedy and
Carpenter, Additive Runge-Kutta schemes for convection-diffusion-reaction equations, 2003, equation 3).
"""

import functools
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from odegrad.errors import UsageError
from odegrad.methods.solvers.implicit.tableau import Implicit, ImplicitTableau
from odegrad.states import sent_to


@dataclass(frozen=True)
class ExplicitPartner:
    """The explicit method beside an implicit one, with the same weights and times.

    Raises
    ------
    UsageError
        If the shapes do not fit.
    """

    name: str
    """The pair's."""
    a: tuple[tuple[float, ...], ...]
    """Rows: ``a[i]`` has ``i`` entries."""
    dense: tuple[tuple[float, ...], ...]
    """``[stages, 3]``: ``y(t + theta h) = y + h sum_i (k_i + r_i) sum_k dense[i][k] theta^(k + 1)``."""

    def __post_init__(self) -> None:
        """Check the shapes."""
        s = len(self.a)
        if any(len(row) != i for i, row in enumerate(self.a)) or [len(row) for row in self.dense] != [3] * s:
            raise UsageError(
                f"pair {self.name}: expected {s} explicit rows, and three weights of each for dense output"
            )


@dataclass(frozen=True, kw_only=True)
class Imex(Implicit):
    """An implicit method for ``field.stiff(t, y)``, and its explicit partner for ``field.rest(t, y)``.

    The carried vector is the state alone: the first stage is evaluated anew, for the new state is no stage of the pair.

    Raises
    ------
    UsageError
        If the two halves do not fit.
    """

    partner: ExplicitPartner

    def __post_init__(self) -> None:
        """Check that both have the same stages, at the same times."""
        super().__post_init__()
        tableau, rows = self.tableau, self.partner.a
        if not tableau.fsal or len(rows) != tableau.stages:
            raise UsageError(
                f"pair {self.name}: expected {tableau.stages} explicit rows beside a stiffly accurate ESDIRK"
            )
        for i, (row, c) in enumerate(zip(rows, tableau.c, strict=True)):
            if abs(math.fsum(row) - c) > 1e-15 * max(1.0, *map(abs, row), 1.0):
                raise UsageError(f"pair {self.name}: explicit row {i} sums to {math.fsum(row)!r}, expected c = {c!r}")

    @property
    def name(self) -> str:
        """Return the pair's name."""
        return self.partner.name

    @property
    def node_states(self) -> int:
        """Return the states that one step's node keeps: its start, and every solved stage."""
        return len(self.tableau.solved) + 1

    @property
    def carries_rate(self) -> bool:
        """Return that nothing is carried."""
        return False

    @property
    def dense_degree(self) -> int:
        """Return the degree of the pair's own dense output."""
        return 3

    @property
    def restart_calls(self) -> int:
        """Return the call of the whole field that its halves are compared with where a solve begins."""
        return 1

    @property
    def rest_stages(self) -> int:
        """Return the stages: the rest is called at each."""
        return self.tableau.stages


@dataclass(frozen=True)
class PairWeights:
    """A pair's weights as tensors; those of both halves of a stage lie side by side, the stiff one's first."""

    rows: tuple[Tensor, ...]
    """For each stage its weights ``[2 i]`` of the stages before it."""
    stiff_columns: tuple[Tensor, ...]
    rest_columns: tuple[Tensor, ...]
    """For each stage its halves' weights in the stages behind it."""
    left: Tensor
    """``b - e_s [s]``: the new state is the last stage and these of the rest."""
    error: Tensor
    """``[2, 2 s]``: what the embedded method and the rest's last weights leave, and the latter alone."""
    dense: Tensor
    """``[2, 2 s]``: the dense output's weights of ``theta`` and ``theta^2``; the cubic's follow from the end."""

    @classmethod
    @functools.lru_cache(maxsize=64)
    def of(
        cls, tableau: ImplicitTableau, partner: ExplicitPartner, dtype: torch.dtype, device: torch.device
    ) -> "PairWeights":
        """Return the weights of both, made once."""

        def tensor(values: object) -> Tensor:
            return sent_to(device, torch.tensor(values, dtype=dtype))

        s, e = tableau.stages, partner.a
        both = [[x for pair in zip(*rows, strict=True) for x in pair] for rows in zip(tableau.a, e, strict=True)]
        left = [x - y for x, y in zip(tableau.b, (*e[-1], 0.0), strict=True)]
        moved = [w for x in left for w in (0.0, x)]
        embedded = [x for x in tableau.error or () for _ in range(2)]
        return cls(
            tuple(tensor(row) for row in both),
            tuple(tensor([tableau.a[j][i] for j in range(i + 1, s)]) for i in range(s)),
            tuple(tensor([e[j][i] for j in range(i + 1, s)]) for i in range(s)),
            tensor(left),
            tensor([[x - m for x, m in zip(embedded, moved, strict=True)], moved]),
            tensor([[row[k] for row in partner.dense for _ in range(2)] for k in range(2)]),
        )
