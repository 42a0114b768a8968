"""What the gradient methods of other libraries share: what they state, and which solvers they refuse."""

import abc
import dataclasses
from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

from odegrad.contracts import Peer, Solver, StateT, Traits, VectorField
from odegrad.methods.fields.interval import refuse_outside
from odegrad.methods.gradients.adjoint import Adjoint
from odegrad.methods.gradients.naive import Naive
from odegrad.methods.peers.mapping import PeerMapping

_Times = Literal["computed", "continuous", "none"]


def through_steps(
    name: str, summary: str, paper: str, peer: Peer, *, times: _Times = "none", twice: bool = False
) -> Traits:
    """Return the traits of autograd through a library's accepted steps: naive's, as another library has them.

    ``twice``: whether the gradient can be differentiated again.
    """
    return dataclasses.replace(
        Naive.traits, name=name, summary=summary, paper=paper, times=times, taps="none", double_backward=twice,
        shared_loop=False, peer=peer,
    )  # fmt: skip


def solved_back(name: str, summary: str, paper: str, peer: Peer, *, times: _Times = "none") -> Traits:
    """Return the traits of state, costate and parameter gradient solved back by a library, as ``adjoint`` does."""
    return dataclasses.replace(
        Adjoint.traits, name=name, summary=summary, paper=paper, times=times, taps="none", shared_loop=False, peer=peer
    )


@dataclass(frozen=True)
class PeerMethod(abc.ABC):
    """A gradient method that another library solves; a subclass says how."""

    traits: ClassVar[Traits]
    mapping: ClassVar[PeerMapping]
    """How the library is told of a solver."""

    def __call__(self, field: VectorField, solver: Solver, y0: StateT, ts: Tensor) -> StateT:
        """Solve; see ``odegrad.contracts.GradientMethod``.

        Raises
        ------
        UnsupportedError
            If the library has no such solver, or cannot take this field or these times.
        SolverError
            If the library has given the solve up.
        """
        refuse_outside(field, ts)
        return self.solved(field, solver, y0, ts)

    @abc.abstractmethod
    def solved(self, field: VectorField, solver: Solver, y0: StateT, ts: Tensor) -> StateT:
        """Return the library's solution at ``ts``."""

    def refuses(self, solver: Solver) -> str | None:
        """Return why this method cannot use ``solver``, or None if it can."""
        return self.mapping.refuses(solver)
