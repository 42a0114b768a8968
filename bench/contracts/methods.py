"""The gradient method: what it states about itself, and what it may offer beside a solve."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal, Protocol, runtime_checkable

from torch import Tensor, nn
from typing_extensions import TypeVar

from odegrad.contracts.fields import StateT, VectorField
from odegrad.contracts.solvers import Solver, SolverT

EventT_contra = TypeVar("EventT_contra", contravariant=True)
"""What a solve may end at: an ``Event`` of ``odegrad.methods.events``."""


@dataclass(frozen=True)
class Peer:
    """Another library, whose method is measured as it is published."""

    distribution: str
    """The package, whose version is recorded."""
    optional: bool = True
    """Whether it is installed only where it is asked for. Its methods are left out where no method is named."""
    tells_steps: bool = False
    """Whether it tells an observer of its steps; if not, they are not counted."""
    takes_norm: bool = False
    """Whether it can be told to leave parts of the state out of its error norm."""
    seen: bool = True
    """Whether it computes by torch's operators on torch's storages; if not, neither is counted."""


@dataclass(frozen=True)
class Traits:
    """What a gradient method states about itself: listed by ``odegrad list methods --details``, held by the checks."""

    name: str
    summary: str
    paper: str
    exact: bool
    """True: the gradient of the computed loss (discretise first). False: of the continuous one, off by O(tol)."""
    memory: str
    """Backward peak: N steps of s stages, d state floats, K outputs, A bytes of one f call's graph, p parameters."""
    cost_forward: str
    cost_backward: str
    backward_phase: Literal["recompute", "adjoint"]
    """What an f call inside the backward pass is for; names the counters' phase."""
    state_from: Literal["graph", "replay", "inverse", "solve", "interpolant", "columns"] = "graph"
    """How the backward pass knows the state: kept with its graph, recomputed, by inverting steps (exact up to rounding
    that grows with their number), solved back, interpolated, or it needs none (sensitivities carried forward)."""
    keeps: str = ""
    """What lies between forward and backward pass beside the solution, in words."""
    grows_with: Literal["steps", "parameters"] = "steps"
    """What the cost grows with in units of one f call: the steps alone, or the parameters too. A method of the second
    kind is left out where no method is named: on a net it would take thousands of times as long."""
    double_backward: bool = False
    times: Literal["computed", "continuous", "none"] = "continuous"
    """Of what the gradient by output times is: of the computed loss, or, whatever ``exact`` says, of the continuous one
    (``dL/dt_k = f . dL/dy(t_k)``), off by as much as the steps are; none where times that require one are refused."""
    taps: Literal["any time", "step ends", "none"] = "none"
    """Where curvature samples are taken in the backward pass."""
    shared_loop: bool = True
    """False for peers: another library's solver, so not on the same accepted grid."""
    peer: Peer | None = None
    """The library that a method is of, if not this one."""


class GradientMethod(Protocol):
    """Solves, and leaves an autograd graph whose backward pass *is* the method. A frozen dataclass of its options."""

    traits: ClassVar[Traits]

    def __call__(self, field: VectorField, solver: Solver, y0: StateT, ts: Tensor) -> StateT:
        """Solve ``dy/dt = field(t, y)``, ``y(ts[0]) = y0``.

        Parameters
        ----------
        field
            The dynamics.
        solver
            A solver from the registry.
        y0
            Initial state, ``[batch, *state]`` or a tuple of such.
        ts
            Output times ``[K]``, strictly monotone, K >= 2; ``ts[0]`` is the initial time. ``[batch, K]`` where the
            solver gives every sample its own steps.

        Returns
        -------
        State
            The solution at ``ts``: ``[K, batch, *state]`` or a tuple of such. The first row is ``y0``.
        """
        ...

    def refuses(self, solver: Solver) -> str | None:  # noqa: ARG002
        """Return why this method cannot use ``solver``, or None if it can."""
        return None


class Solve(Protocol):
    """A gradient method bound to its solver: all that a task sees of either."""

    def __call__(self, field: VectorField, y0: StateT, ts: Tensor, /) -> StateT:
        """Return the solution at ``ts``, ``[K]`` or a row a sample, ``[batch, K]``; see ``GradientMethod``.

        A row may repeat its last time. Samples that share their steps are solved for at the union of all rows, which
        then start at one time.
        """
        ...


@runtime_checkable
class SolvesOtherwise(Protocol):
    """A gradient method that replaces the solver it is given: its gradient is naive's on another solver."""

    def equivalent_solver(self, solver: SolverT) -> SolverT:
        """Return the solver on which naive backprop gives this method's gradient."""
        ...


def equivalent_solver(method: GradientMethod, solver: SolverT) -> SolverT:
    """Return the solver whose steps ``method`` takes when it is given ``solver``."""
    return method.equivalent_solver(solver) if isinstance(method, SolvesOtherwise) else solver


@runtime_checkable
class CompilesPrograms(Protocol):
    """A gradient method that compiles programs of its own for a field."""

    def keep_programs(self, folder: Path) -> None:
        """Look programs up in ``folder`` before they are compiled in this process, and leave new ones there.

        Called before the first solve of a process, if at all. ``compile_seconds`` then holds what compiling took where
        the folder was empty, and the seconds of reading programs back where it was not.
        """
        ...

    def compile_seconds(self, modules: Iterable[nn.Module]) -> float:
        """Return the seconds that compiling for fields among ``modules`` has taken in this process."""
        ...
