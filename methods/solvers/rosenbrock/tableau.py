"""Rosenbrock methods as tableaus that validate themselves, and the scheme made of one."""

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from odegrad.errors import UsageError
from odegrad.methods.solvers.implicit.tableau import LinearSolve
from odegrad.methods.solvers.tableau import OnTableau
from odegrad.states import sent_to

NO_ROSENBROCK = (
    "the way back through a Rosenbrock step takes the derivatives of its Jacobian, which only methods know that redo "
    "the steps or keep their graph; use aca, or the solver kencarp4"
)
"""Why a method refuses such a solver."""

Rows = tuple[tuple[float, ...], ...]


@dataclass(frozen=True)
class RosenbrockTableau:
    """A Rosenbrock method with one diagonal entry ``gamma``, in the form without products of the Jacobian.

    ``(I - h gamma f_y) u_i = h gamma f(t + alpha_i h, y + sum_j a_ij u_j) + gamma sum_j c_ij u_j + h^2 gamma gamma_i
    f_t`` with ``f_y`` and ``f_t`` at ``(t, y)`` and sums over ``j < i``; ``y' = y + sum_i m_i u_i`` (Hairer and Wanner,
    Solving ODEs II, IV.7, whose coefficients ``alpha_ij`` and ``gamma_ij`` are ``a Gamma`` and ``Gamma`` with
    ``Gamma = (I / gamma - c)^-1``).

    Raises
    ------
    UsageError
        If the shapes do not fit, or ``alpha`` and ``gammas`` are not the row sums of the coefficients.
    """

    name: str
    order: int
    embedded_order: int
    source: str
    gamma: float
    alpha: tuple[float, ...]
    """Where in the step each stage calls f."""
    gammas: tuple[float, ...]
    """The weight of ``f_t`` in each stage."""
    a: Rows
    """For each stage its weights of the ``u`` before it, in the state that it calls f at."""
    c: Rows
    """For each stage its weights of the ``u`` before it, in its right-hand side."""
    m: tuple[float, ...]
    error: tuple[float, ...]
    """``m - m_hat``, the embedded method's error weights."""

    def __post_init__(self) -> None:
        """Check shapes and consistency."""
        s = len(self.m)
        if any(len(row) != s for row in (self.alpha, self.gammas, self.a, self.c, self.error)):
            raise UsageError(f"tableau {self.name}: expected {s} stages in alpha, gammas, a, c and error")
        if any(len(row) != i for rows in (self.a, self.c) for i, row in enumerate(rows)):
            raise UsageError(f"tableau {self.name}: expected i weights in row i of a and c")
        alpha, gammas = self._row_sums()
        for what, given, found in (("alpha", self.alpha, alpha), ("gammas", self.gammas, gammas)):
            for i, (x, y) in enumerate(zip(given, found, strict=True)):
                # The rows of c hold numbers of order 100, which the sums lose digits to.
                if abs(x - y) > 1e-12:
                    raise UsageError(f"tableau {self.name}: {what}[{i}] is {x!r}, and its row sums to {y!r}")

    def _row_sums(self) -> tuple[list[float], list[float]]:
        """Return ``a Gamma 1`` and ``Gamma 1``, where ``(I / gamma - c) Gamma 1 = 1`` is solved from the top."""
        gammas: list[float] = []
        for row in self.c:
            gammas.append(self.gamma * (1.0 + _dot(row, gammas)))
        return [_dot(row, gammas) for row in self.a], gammas

    @property
    def stages(self) -> int:
        """Return the number of stages: each is one linear system, and one f call."""
        return len(self.m)

    def times(self, t: float, h: float, t_next: float) -> list[float]:
        """Return the stages' times in the step from ``t``; those at its end are exactly ``t_next``."""
        return [t_next if alpha == 1.0 else t + alpha * h for alpha in self.alpha]


def _dot(row: Sequence[float], values: Sequence[float]) -> float:
    return math.fsum(x * y for x, y in zip(row, values, strict=False))


def _rodas5p() -> RosenbrockTableau:
    g = 0.21193756319429014
    a6 = (-7.502846399306121, 2.561846144803919, -11.627539656261098, -0.18268767659942256, 0.030198172008377946)
    return RosenbrockTableau(
        "rodas5p", 5, 4, "Steinebach, Construction of Rosenbrock-Wanner method Rodas5P, BIT 63, 2023", g,
        alpha=(0.0, 0.6358126895828704, 0.4095798393397535, 0.9769306725060716, 0.4288403609558664, 1.0, 1.0, 1.0),
        gammas=(g, -0.42387512638858027, -0.3384627126235924, 1.8046452872882734, 2.325825639765069, 0.0, 0.0, 0.0),
        a=(
            (),
            (3.0,),
            (2.849394379747939, 0.45842242204463923),
            (-6.954028509809101, 2.489845061869568, -10.358996098473584),
            (2.8029986275628964, 0.5072464736228206, -0.3988312541770524, -0.04721187230404641),
            a6,
            (*a6, 1.0),
            (*a6, 1.0, 1.0),
        ),
        c=(
            (),
            (-14.155112264123755,),
            (-17.97296035885952, -2.859693295451294),
            (147.12150275711716, -1.41221402718213, 71.68940251302358),
            (165.43517024871676, -0.4592823456491126, 42.90938336958603, -5.961986721573306),
            (24.854864614690072, -3.0009227002832186, 47.4931110020768, 5.5814197821558125, -0.6610691825249471),
            (30.91273214028599, -3.1208243349937974, 77.79954646070892, 34.28646028294783, -19.097331116725623,
             -28.087943162872662),
            (37.80277123390563, -3.2571969029072276, 112.26918849496327, 66.9347231244047, -40.06618937091002,
             -54.66780262877968, -9.48861652309627),
        ),
        m=(*a6, 1.0, 1.0, 1.0),
        error=(0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0),
    )  # fmt: skip


ROSENBROCK_TABLEAUS: dict[str, RosenbrockTableau] = {tableau.name: tableau for tableau in (_rodas5p(),)}
"""Rosenbrock methods by name."""


@dataclass(frozen=True)
class Rosenbrock(OnTableau):
    """A Rosenbrock method: every stage is one linear system with the Jacobian at the start of the step.

    The carried vector is the state alone. The Jacobian is a part of the method, and no help to solve for its stages:
    it and the systems must be exact, so there is no GMRES, and its own derivative is a part of the gradient.

    Parameters
    ----------
    tableau
        The method.
    linear
        ``blocks``, ``dense`` or ``auto``, as for ``Implicit``.

    Raises
    ------
    UsageError
        If ``linear`` is none of these.
    """

    tableau: RosenbrockTableau
    linear: LinearSolve = "auto"

    def __post_init__(self) -> None:
        """Check the option."""
        if self.linear not in ("auto", "blocks", "dense"):
            raise UsageError(
                f"linear: expected 'auto', 'blocks' or 'dense' with solver {self.name}, whose linear systems must be "
                f"solved exactly, got {self.linear!r}; take kencarp4 for 'krylov'"
            )

    @property
    def _stated(self) -> RosenbrockTableau:
        return self.tableau

    @property
    def evaluations(self) -> int:
        """Return the f calls of an attempted step beside that of its Jacobian, which serves the first stage too."""
        return self.tableau.stages - 1

    @property
    def node_states(self) -> int:
        """Return the states that one step's node keeps: its end and the solved stages."""
        return self.tableau.stages + 1

    @property
    def carries_rate(self) -> bool:
        """Return False: a step begins from the state alone."""
        return False


@dataclass(frozen=True)
class RosenbrockWeights:
    """A tableau's weights as tensors; rows are sums over earlier stages, columns over later ones."""

    a: tuple[Tensor, ...]
    c: tuple[Tensor, ...]
    a_columns: tuple[Tensor, ...]
    c_columns: tuple[Tensor, ...]
    m: Tensor
    error: Tensor
    gammas: Tensor

    @classmethod
    @functools.lru_cache(maxsize=64)
    def of(cls, tableau: RosenbrockTableau, dtype: torch.dtype, device: torch.device) -> "RosenbrockWeights":
        """Return the weights of ``tableau``, made once; those in ``c`` with the ``gamma`` before their sum."""

        def tensor(values: Sequence[float]) -> Tensor:
            return sent_to(device, torch.tensor(values, dtype=torch.float64), dtype)

        s, g = tableau.stages, tableau.gamma
        c = [[g * x for x in row] for row in tableau.c]
        return cls(
            tuple(map(tensor, tableau.a)),
            tuple(map(tensor, c)),
            tuple(tensor([tableau.a[i][j] for i in range(j + 1, s)]) for j in range(s)),
            tuple(tensor([c[i][j] for i in range(j + 1, s)]) for j in range(s)),
            tensor(tableau.m),
            tensor(tableau.error),
            tensor(tableau.gammas),
        )
