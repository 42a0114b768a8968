"""The contracts that every room is built on: read this page first.

``d`` is the number of floats in a state (whole batch), ``K`` the number of output times. A *state* is a tensor
``[batch, *state]`` or a tuple of such. Methods and tasks know only this page; neither knows that it is measured.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, fields, replace
from typing import Any, ClassVar, Generic, Literal, Protocol, Self, runtime_checkable

import torch
from torch import Tensor, nn
from typing_extensions import TypeVar

from odegrad.errors import UnsupportedError
from odegrad.event import Event

State = Tensor | tuple[Tensor, ...]
"""A state ``[batch, *state]`` or a tuple of such; solutions carry a leading ``[time]``."""

StateT = TypeVar("StateT", bound=State)
"""The kind of one state: a tensor gives a tensor, a tuple a tuple of as many."""

SolverT = TypeVar("SolverT", bound="Solver")

Batch = TypeVar("Batch", default=Any)
Batch_contra = TypeVar("Batch_contra", contravariant=True, default=Any)
"""What a problem draws for an iteration: the problem alone looks inside, everybody else hands it on."""

Scalar = str | int | float | bool
"""What an option may be: plain data that a suite file can hold."""


@runtime_checkable
class VectorField(Protocol):
    """The dynamics ``f(t, y) -> dy/dt``, an ``nn.Module``: ``t`` is a 0-d tensor, ``y`` and ``dy/dt`` are states.

    A field with an attribute ``sample_time = True`` takes ``t`` as ``[batch, 1, ..., 1]`` too, with as many dimensions
    as ``y``: where samples have steps of their own it is called so, on any number of them.
    """

    def __call__(self, t: Tensor, y: StateT, /) -> StateT:
        """Return ``dy/dt`` with the structure and shapes of ``y``."""
        ...

    def parameters(self, recurse: bool = True) -> Iterator[nn.Parameter]:
        """Yield every parameter that ``f`` depends on.

        Trained tensors among its attributes are found as well; one reached through a closure is refused.
        """
        ...


@dataclass(frozen=True)
class ImplicitWork:
    """What an implicit step, or the pull-back through one, has cost beside its f calls for stages."""

    newton: int = 0
    """Newton iterations, an f call each, of an attempt that was accepted, or of a step that was redone."""
    newton_lost: int = 0
    """Newton iterations of attempts that were rejected or failed."""
    failures: int = 0
    """Attempts that failed because Newton's iteration solved a stage not."""
    jacobians: int = 0
    """Times and states at which the field was linearised: an f call with a graph each."""
    factorisations: int = 0
    """Linear systems that were factorised; with GMRES, set up."""
    solves: int = 0
    """Right-hand sides that were solved for."""
    products: int = 0
    """Pull-backs that formed Jacobians: one for each row, or one for all rows where they were vectorised."""

    def lost(self) -> Self:
        """Return the same work of an attempt that was not accepted."""
        return replace(self, newton=0, newton_lost=self.newton + self.newton_lost)

    def __add__(self, other: Self) -> Self:
        """Return both together."""
        sums = {f.name: getattr(self, f.name) + getattr(other, f.name) for f in fields(self)}
        return replace(self, **sums)


@runtime_checkable
class CarriesMore(Protocol):
    """A vector field on tuples that hold more than what moves: integrals along the solution, constants."""

    moving: int
    """How many of the first parts move; a regulariser, which is of the dynamics, looks at these alone."""
    unjudged: int
    """How many of the last parts no step is judged by: what is only measured must not move the accepted grid."""


@dataclass(frozen=True)
class RowCounts:
    """The rounds of one solve in which every sample has its own steps; a row is a sample in one f call."""

    start_calls: int
    """The f calls before the first round."""
    start_rows: int
    """Their rows."""
    widths: tuple[int, ...]
    """The rows of each round, those of samples that rest included."""
    accepting_rounds: int
    """Rounds in which a step was accepted."""
    accepted: tuple[tuple[int, ...], ...]
    """``[K - 1][batch]``: the accepted steps of each interval between outputs, of each sample."""
    attempted: tuple[int, ...]
    """``[batch]``: the attempted steps of each sample, ``M_i``."""

    @property
    def steps(self) -> tuple[int, ...]:
        """Return the accepted steps of each sample, ``N_i``."""
        return tuple(map(sum, zip(*self.accepted, strict=True)))

    @property
    def rounds(self) -> int:
        """Return the rounds: the most steps that a sample has attempted."""
        return len(self.widths)

    def calls(self, s: int) -> int:
        """Return the f calls, of ``s`` stages a round."""
        return self.start_calls + s * self.rounds

    def rows(self, s: int) -> int:
        """Return the rows of all f calls."""
        return self.start_rows + s * sum(self.widths)

    def useful_rows(self, s: int) -> int:
        """Return the rows of samples that had a step to take."""
        return self.start_rows + s * sum(self.attempted)


@runtime_checkable
class RowObserver(Protocol):
    """An observer of steps that also hears of the rounds of a solve whose samples have steps of their own."""

    def solved_in_rounds(self, counts: RowCounts) -> None:
        """Hear of a solve that has ended."""
        ...


def unjudged_parts(field: object) -> int:
    """Return how many of the last parts of the state are outside of the error norm on ``field``."""
    # Not isinstance, which looks the protocol's members up at every solve.
    return int(getattr(field, "unjudged", 0))


def pass_on(field: object, wrapper: object) -> None:
    """Let ``wrapper``, a field that calls ``field``, say the same of its state and time: else its steps are others."""
    for name in ("moving", "unjudged", "sample_time"):
        if hasattr(field, name):
            setattr(wrapper, name, getattr(field, name))


class StepObserver(Protocol):
    """Hears of every attempted step of a solve; ``t`` is the step's start, ``h`` its signed size."""

    def accepted(self, t: float, h: float) -> None:
        """Hear of an accepted step."""
        ...

    def rejected(self, t: float, h: float) -> None:
        """Hear of a rejected step."""
        ...


@runtime_checkable
class WorkObserver(Protocol):
    """An observer of steps that also hears of the work of implicit ones."""

    def worked(self, work: ImplicitWork) -> None:
        """Hear of the work of an attempt, of a step that was redone, or of a pull-back."""
        ...


@runtime_checkable
class EventObserver(Protocol):
    """A step observer that also hears of the events that solves end at."""

    def ended(self, landings: int, evaluations: int) -> None:
        """Hear that a solve has landed on its event.

        Its last step was redone ``landings`` times, ``s`` f calls each, and the event function evaluated so often.
        """
        ...


@runtime_checkable
class ReconstructionObserver(Protocol):
    """A step observer that also hears how well a backward pass knew the state."""

    def reconstructed(self, error: float) -> None:
        """Hear how far the state of a backward pass was from the forward pass's, relative to the state's size.

        Called once per backward pass, by methods that solve the state back, invert steps or interpolate.
        """
        ...


class Solver(Protocol):
    """Advances a state: a tableau (or another one-step map), its step controller, tolerances and limits.

    This is what everybody may know of a solver. A method that takes steps itself knows ``OneStepSolver`` of
    ``odegrad.methods.solvers.solver``, the one kind there is, and refuses any other.
    """

    @property
    def name(self) -> str:
        """The registry's name, for example ``dopri5``."""
        ...

    @property
    def adaptive(self) -> bool:
        """Whether steps are chosen from an error estimate."""
        ...

    def observed_by(self, observer: StepObserver) -> Self:
        """Return the same solver with ``observer`` hearing of its steps."""
        ...


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


@dataclass(frozen=True)
class Ending(Generic[StateT]):
    """Where a solve has ended that looked for an event."""

    time: Tensor
    """0-d; moves with whatever the event depends on."""
    states: StateT
    """``[2, batch, *state]``, or a tuple of such, at the start and just before the event."""
    found: bool = True
    """False where there was none up to ``t_max``, which is then ``time``."""


@runtime_checkable
class EndsAtEvents(Protocol):
    """A gradient method whose solves can end where a function of time and state crosses zero."""

    def until(
        self, field: VectorField, solver: Solver, y0: StateT, t0: Tensor, event: Event, *, reverse: bool = False
    ) -> Ending[StateT]:
        """Solve from ``t0``, 0-d, until ``event``; in decreasing time where ``reverse``."""
        ...


@runtime_checkable
class TakesJumps(Protocol):
    """A gradient method that can solve over known times at which the field jumps, in one solve from each to the next.

    ``one(field, solver, y0, ts)`` does each of them, so that who measures hears of each.
    """

    def across(
        self, field: VectorField, solver: Solver, y0: StateT, ts: Tensor, jump_t: Sequence[float], one: Any
    ) -> StateT:
        """Return the solution at ``ts`` of a field that jumps at ``jump_t``; see ``GradientMethod``."""
        ...


def ending_at_events(method: GradientMethod) -> EndsAtEvents:
    """Return ``method``, whose solves can end at events.

    Raises
    ------
    UnsupportedError
        If they cannot.
    """
    if not isinstance(method, EndsAtEvents):
        raise UnsupportedError(
            f"event_fn: gradient method {method.traits.name} solves by another library, which is not told of events "
            "here; use one of this package, such as naive or aca"
        )
    return method


def taking_jumps(method: GradientMethod) -> TakesJumps:
    """Return ``method``, whose solves can go over known times at which the field jumps.

    Raises
    ------
    UnsupportedError
        If they cannot.
    """
    if not isinstance(method, TakesJumps):
        raise UnsupportedError(
            f"jump_t, jumps: gradient method {method.traits.name} solves by another library, which does not see the "
            "limits of the field there; use one of this package, such as naive or aca"
        )
    return method


@runtime_checkable
class SolvesOtherwise(Protocol):
    """A gradient method that replaces the solver it is given: its gradient is naive's on another solver."""

    def equivalent_solver(self, solver: SolverT) -> SolverT:
        """Return the solver on which naive backprop gives this method's gradient."""
        ...


def equivalent_solver(method: GradientMethod, solver: SolverT) -> SolverT:
    """Return the solver whose steps ``method`` takes when it is given ``solver``."""
    return method.equivalent_solver(solver) if isinstance(method, SolvesOtherwise) else solver


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
    node_states: int = 0
    """The states that the graph of one implicit step keeps."""
    work: ImplicitWork = field(default=ImplicitWork())
    """The work of the forward pass's implicit steps."""
    newton_by_step: tuple[int, ...] = ()
    """Newton iterations of every accepted implicit step."""
    weights: tuple[float, ...] = ()
    """The weights ``b`` of an explicit step's stages; empty of others."""
    known_stages: int = 0
    """The f calls that a further attempt from the same state saves: one where its first stage is not the last one of
    the step before, and is kept until a step is accepted."""
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


@runtime_checkable
class CallsHeard(Protocol):
    """A field that counts its calls, and is told of those that happen where its own code does not run."""

    inner: Any
    """The field that is counted."""

    def heard_call(self) -> None:
        """Count a call."""
        ...

    def heard_product(self) -> None:
        """Count a vector-Jacobian product."""
        ...


@runtime_checkable
class CompilesPrograms(Protocol):
    """A gradient method that compiles programs of its own for a field."""

    def compile_seconds(self, modules: Iterable[nn.Module]) -> float:
        """Return the seconds that compiling for fields among ``modules`` has taken in this process."""
        ...


class Tap(Protocol):
    """Watches costates on their way back (curvature samples); never changes the gradient."""

    def sample_times(self, t0: float, t1: float) -> Sequence[float]:
        """Return the wanted sample times in ``[t0, t1]``; methods that sample at step ends ignore them."""
        ...

    def observe(self, field: VectorField, t: float, y: State, a: State, weight: float) -> None:
        """Take one sample.

        ``y`` is the state and ``a = dL/dy`` the costate at time ``t``, both detached and of the same structure;
        ``weight`` is the quadrature weight (in units of time) that turns the sum over samples into an integral.
        """
        ...


@runtime_checkable
class SamplingObserver(Protocol):
    """A tap that wants to know which work of a method is for its samples alone."""

    def sampling(self) -> AbstractContextManager[None]:
        """Return a context in which everything is done for the next sample."""
        ...


@runtime_checkable
class Tappable(Protocol):
    """A gradient method that offers taps."""

    def with_tap(self, tap: Tap) -> GradientMethod:
        """Return the same method with ``tap`` watching its backward pass."""
        ...


class Solve(Protocol):
    """A gradient method bound to its solver: all that a task sees of either."""

    def __call__(self, field: VectorField, y0: StateT, ts: Tensor, /) -> StateT:
        """Return the solution at ``ts``; see ``GradientMethod``."""
        ...


@runtime_checkable
class EventSolve(Solve, Protocol):
    """A solve that can also end at an event, and go over times at which the field jumps.

    Every solve that a task is given here is one; a task that needs it takes ``event_solve(solve)``.
    """

    def until(
        self, field: VectorField, y0: StateT, t0: Tensor, event: Event, /, *, reverse: bool = False
    ) -> Ending[StateT]:
        """Return where ``event`` is, from ``t0`` on; see ``EndsAtEvents``.

        Raises
        ------
        UnsupportedError
            If the method or its solver cannot end at an event.
        """
        ...

    def across(self, field: VectorField, y0: StateT, ts: Tensor, jump_t: Sequence[float], /) -> StateT:
        """Return the solution at ``ts`` of a field that jumps at ``jump_t``; see ``TakesJumps``.

        Raises
        ------
        UnsupportedError
            If the method or its solver does not see the limits of the field there.
        """
        ...


def event_solve(solve: Solve) -> EventSolve:
    """Return ``solve``, which can end at events and go over jumps.

    Raises
    ------
    UnsupportedError
        If it is a plain function, which can do neither.
    """
    if not isinstance(solve, EventSolve):
        raise UnsupportedError(
            f"solve: expected one that can end at events and go over jumps, got {type(solve).__name__}; take "
            "odegrad.binding.solve_with(method, solver)"
        )
    return solve


@runtime_checkable
class CurvatureConsumer(Protocol):
    """An optimizer that learns from curvature samples (SNOpt)."""

    def next_tap(self) -> Tap | None:
        """Return the tap for the coming backward pass, or None if this iteration needs no samples.

        Called once per iteration, before the forward pass.
        """
        ...


@runtime_checkable
class CurvaturePasses(Protocol):
    """An optimizer that may take its curvature samples by backward passes of its own, beside the loss's."""

    def sample(self, solve: Solve, batch: object) -> bool:
        """Take the samples of the tap of ``next_tap()``, which watches ``solve``, and leave everything else as it was.

        Called before the loss's forward pass where there is a tap. Return False if the loss's own backward pass is to
        take them; then nothing has been done.
        """
        ...


@dataclass(frozen=True)
class TaskInfo:
    """What a task states about itself: printed by ``odegrad list tasks --details``."""

    name: str
    kind: Literal["classification", "density", "inference", "time series", "closed form", "stiff"]
    summary: str
    metric_name: str
    """``accuracy`` (fraction in [0, 1]), ``nll`` (nats), ``mse``, ..."""
    higher_is_better: bool
    target: Mapping[str, float]
    """Size -> the metric's value that a good method reaches there."""
    offline: bool
    citation: str
    licence: str
    sizes: tuple[str, ...] = ("tiny", "default", "paper")
    limit: float | None = None
    """The metric's best possible expected value where it is known: a density's entropy for its ``nll``."""
    smooth: bool = True
    """False where the dynamics have kinks (ReLU): tight tolerances and high orders then take thousands of steps, and
    the gradient certificate's reference is solved less tightly."""

    def describe(self) -> str:
        """Return a few lines for people: what the task is, what it measures and aims at, its source and its licence."""
        better = "higher" if self.higher_is_better else "lower"
        targets = ", ".join(f"{value:g} at {size}" for size, value in self.target.items()) or "none"
        offline = "works offline" if self.offline else "fetched once"
        limit = "" if self.limit is None else f"; no model can expect better than {self.limit:g}"
        return "\n".join(
            (
                f"{self.name}: {self.summary}",
                f"kind: {self.kind}; sizes: {', '.join(self.sizes)}; {offline}",
                f"metric: {self.metric_name}, {better} is better; target: {targets}{limit}",
                f"source: {self.citation}",
                f"licence: {self.licence}",
            )
        )


@dataclass(frozen=True)
class Training:
    """How a task is trained at one size: the iterations and each optimizer's settings."""

    iterations: int
    optimizers: Mapping[str, Mapping[str, Scalar]]
    """Optimizer name -> its options, tuned for this task and size (``{"adam": {"lr": 1e-3}}``)."""
    default_optimizer: str = "adam"
    full_precond: bool = field(default=False)
    """Whether SNOpt also preconditions the layers outside the ODE."""
    schedule: Mapping[int, float] = field(default_factory=dict)
    """Iteration -> the factor on every initial learning rate from there on."""


Split = Literal["validation", "test"]
"""Held-out data: settings are chosen on ``validation``, results are told of ``test``."""


class Problem(Protocol[Batch]):
    """One task built from a seed: data on its device, a model with its vector field, a loss. Same for every method."""

    model: nn.Module
    """Every parameter that is trained."""
    fields: Sequence[nn.Module]
    """The vector fields inside ``model``."""
    training: Training

    def batch(self, iteration: int) -> Batch:
        """Return the training batch of ``iteration`` (0, 1, ...), a pure function of seed and iteration."""
        ...

    def probe_batch(self) -> Batch:
        """Return a small fixed batch (at most 16 samples) for gradient certificates and diagnostics."""
        ...

    def loss(self, solve: Solve, batch: Batch) -> Tensor:
        """Return the mean loss of ``batch``, a 0-d tensor that carries the graph."""
        ...

    def evaluate(self, solve: Solve, split: Split = "test") -> float:
        """Return the task's metric on held-out data, without a graph."""
        ...

    def dynamics(self, batch: Batch) -> tuple[VectorField, State, Tensor]:
        """Return the vector field, the initial state of ``batch`` (detached) and the output times ``[K]``."""
        ...


@runtime_checkable
class ScoringProblem(Protocol[Batch_contra]):
    """A problem whose loss is the mean cross-entropy of scores: its Gauss-Newton curvature is known."""

    def scores(self, solve: Solve, batch: Batch_contra) -> Tensor:
        """Return the scores ``[batch, classes]`` of ``batch`` with their graph."""
        ...


@runtime_checkable
class HeldOutLoss(Protocol):
    """A problem that also tells its loss on held-out data, by which settings are chosen and targets set."""

    def held_out_loss(self, solve: Solve, split: Split) -> float:
        """Return the mean loss on held-out data, without a graph.

        The same for the same parameters: where the training's loss draws random numbers, these are frozen.
        """
        ...


@runtime_checkable
class TrainableEndTime(Protocol):
    """A problem whose integration time can be trained."""

    @property
    def end_time(self) -> Tensor:
        """The time that the ODE is solved up to: a 0-d leaf tensor of the model, which others may move in place.

        The loss depends on it with a graph where it requires a gradient.
        """
        ...


class Task(Protocol):
    """Data, model, time grid, loss, metric and target: a named experiment, all from a seed."""

    info: ClassVar[TaskInfo]

    def training(self, size: str) -> Training:
        """Return how the task is trained at ``size``; needs neither data nor model.

        Raises
        ------
        UnknownNameError
            If there is no such size.
        """
        ...

    def build(self, size: str, seed: int, device: torch.device, dtype: torch.dtype) -> Problem:
        """Build the problem; two builds from one seed are equal bit for bit."""
        ...
