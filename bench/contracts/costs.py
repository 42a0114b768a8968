"""What a gradient method predicts of itself: f calls and bytes, from the steps of a solve and a problem's sizes."""

from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from odegrad.contracts.work import ImplicitWork, RowCounts


@dataclass(frozen=True)
class StepCounts:
    """The steps of one forward and one backward pass, from which a method predicts its f calls."""

    evaluations: int
    """``s``, the f calls of one attempted step."""
    adaptive: bool
    start: int
    """The f calls of a solve beside those of its attempts: two to choose the first one's size, for example."""
    restart: int
    """The f calls that stand on a new state cost before a step: one where a step reuses the last stage before."""
    dense_degree: int
    """Degree of the dense output's polynomial; 0 if the solver has none."""
    carried: int
    """The f calls that a solve's carried vector starts with: one for the velocity of ``alf``."""
    intervals: int
    """Intervals between outputs, ``K - 1``."""
    accepted: int
    rejected: int
    accepted_backward: int
    rejected_backward: int
    carried_states: int = 1
    """The size of the carried vector in states: 2 where a velocity, a partner or a rate lies behind the state."""
    implicit: bool = False
    """Whether stages are solved by Newton's iteration: then ``evaluations`` are the stages, and ``work`` their cost."""
    linear_stages: int = 0
    """The f calls of one attempt of a Rosenbrock method beside that of its Jacobian; 0 where it is none."""
    explicit_evaluations: int = 0
    """The f calls of an attempt by the explicit method of a solver that switches; 0 of others."""
    node_states: int = 0
    """The states that the graph of one implicit step keeps."""
    rest_stages: int = 0
    """The calls of a step to the half of a split field that is not stiff; 0 where the field is not split."""
    work: ImplicitWork = field(default=ImplicitWork())
    """The work of the forward pass's implicit steps."""
    newton_by_step: tuple[int, ...] = ()
    """Newton iterations of every accepted implicit step; of a solver that switches 0 for each explicit one."""
    weights: tuple[float, ...] = ()
    """The weights ``b`` of an explicit step's stages; empty of others."""
    known_stages: int = 0
    """The f calls that a further attempt from the same state saves: one where its first stage is not the last one of
    the step before, and is kept until a step is accepted."""
    reached: tuple[tuple[int, bool], ...] = ()
    """The outputs inside of every accepted step of the forward pass, and whether one is at its end; empty where every
    output ends a step."""
    landings: int = 0
    """How often the last step of the forward solve was redone to end at an event."""
    time_calls: int = 0
    """The f calls of the forward pass for gradients by times: one for the start, one for each output, or the event."""
    rounds_forward: tuple[RowCounts, ...] = ()
    """The solve's rounds where every sample has its own steps; empty where they share them."""
    rounds_backward: tuple[RowCounts, ...] = ()
    """The rounds of each interval's backward solve."""

    @property
    def rounds(self) -> RowCounts | None:
        """Return the rounds of the forward solve where every sample has its own steps; None where they share them."""
        return self.rounds_forward[0] if self.rounds_forward else None

    @property
    def reading(self) -> int:
        """Return how many accepted steps of the forward pass are read inside."""
        return sum(inside > 0 for inside, _ in self.reached)

    @property
    def implicit_accepted(self) -> int:
        """Return the accepted implicit steps of the forward pass."""
        return self.accepted - self.work.explicit_steps if self.implicit else 0

    @property
    def products(self) -> int:
        """Return the vector-Jacobian products of one Jacobian; 0 where none is formed."""
        return self.work.products // self.work.jacobians if self.work.jacobians else 0


@dataclass(frozen=True)
class Calls:
    """Numbers of f calls and vector-Jacobian products of one forward and one backward pass."""

    forward: int
    backward: int
    vjps: int
    jacobians: int = 0
    """Times and states at which the backward pass linearises the field, for implicit steps."""
    factorisations: int = 0
    solves: int = 0
    """Linear systems that the backward pass factorises and right-hand sides that it solves for."""
    forward_rows: int = 0
    backward_rows: int = 0
    """The rows of all f calls where every sample has its own steps."""


@runtime_checkable
class PredictsCalls(Protocol):
    """A gradient method that predicts its f calls; prediction and measurement must be equal."""

    def predicted_calls(self, steps: StepCounts) -> Calls:
        """Return the calls that these steps cost."""
        ...


@dataclass(frozen=True)
class Sizes:
    """The sizes of a problem, from which a method predicts its memory."""

    state_bytes: int
    """Bytes of one state, whole batch."""
    parameter_bytes: int
    graph_bytes: int
    """Bytes that the autograd graph of one f call holds."""
    outputs: int
    """Output times K, the initial one included."""
    item_bytes: int
    """Bytes of one number of the state."""
    batch: int = 1
    """Samples of the state, where each has its own steps."""
    copies_bytes: int = 0
    """Bytes of the low copies of what the field holds, which stand as long as its solve can be pulled back; 0 where it
    computes in the state's own type."""
    graph_bytes_of_rows: tuple[int, int] = (0, 0)
    """What the graph of one f call on some of the samples holds: bytes of the call, and of each row."""

    @property
    def row_bytes(self) -> int:
        """Return the bytes of one sample's state."""
        return self.state_bytes // self.batch

    def graph_bytes_of(self, calls: int, rows: int) -> int:
        """Return the bytes of the graphs of so many f calls with so many rows in all."""
        of_call, of_row = self.graph_bytes_of_rows
        return of_call * calls + of_row * rows


@dataclass(frozen=True)
class Bytes:
    """Predicted memory of one forward and one backward pass."""

    saved: int
    """Bytes kept between the two, the solution ``[K, d]`` included and the caller's own tensors left out."""
    peak: int
    """The leading terms of the most bytes that live at one time; buffers of a few states are left out."""


@runtime_checkable
class PredictsBytes(Protocol):
    """A gradient method that predicts its memory."""

    def predicted_bytes(self, steps: StepCounts, sizes: Sizes) -> Bytes:
        """Return the bytes that these steps cost on a problem of these sizes."""
        ...
