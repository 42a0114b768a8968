"""What a solve integrates: a map ``(t, y [d]) -> dy/dt [d]`` with a norm; here, the user's field on flat states."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from itertools import repeat
from operator import is_
from typing import Any, Protocol, Self

import torch
from torch import Tensor, nn

from odegrad.contracts import HALVES, State, VectorField, refuse_arity
from odegrad.errors import UnsupportedError, UsageError
from odegrad.methods.fields.buffers import buffers_as_they_were
from odegrad.methods.fields.callbacks import StepCallbacks
from odegrad.methods.fields.closures import Known, explained, nodes_made
from odegrad.methods.fields.draws import Draws, torch_sources
from odegrad.methods.fields.held import Held
from odegrad.methods.fields.memory import refuse_memory
from odegrad.methods.fields.passing import PassesCalls
from odegrad.methods.fields.precision import LowField, Precision
from odegrad.methods.fields.surroundings import Autocast, with_second_derivatives
from odegrad.states import Layout, mapped, sent_to

TRIAL = -1
"""The stage of an f call that belongs to no step: the trial that chooses the first step."""


_NONE = repeat(None)

WRITES = (
    "field: it writes into the state that it is given (an in-place operation on y), which the solver still needs; let "
    "it work on a copy, y = y.clone(), or use the operation that returns a new tensor"
)
"""Why a field is refused that changes its input."""


NEW_DRAWS = (
    "field: it draws random numbers in the backward pass and drew none in the forward pass, so the gradient is that of "
    "another field; let it draw at every call, or before the solve"
)
"""Why such a field is refused."""

Tolerances = tuple[Tensor, Tensor]
"""``rtol`` and ``atol`` for each number of what is solved, ``[d]``."""


class Dynamics(Protocol):
    """The right-hand side of a solve on flat states."""

    @property
    def tolerances(self) -> Tolerances | None:
        """The tolerances of each number; None where the step control's own are for all."""
        ...

    def prepare(self, times: Sequence[float]) -> None:
        """Hear of the times at which the coming stages are evaluated: ``times[stage]``, or ``times[TRIAL]``."""
        ...

    def write(self, t: float, y: Tensor, out: Tensor, stage: int) -> None:
        """Write ``dy/dt`` at ``(t, y [d])`` into ``out [d]``, without a graph."""
        ...

    def norm(self, x: Tensor) -> Tensor:
        """Return the error norm of ``x [d]``, a 0-d tensor."""
        ...


@dataclass
class Replay:
    """Calls of f that redo steps with a graph: how many nodes there were before, and the last call."""

    nodes_before: float
    result: object = None
    """The node of what it returned; not the tensor, which would stay for as long."""
    state: object = None
    """The node of the state that it was given."""


class FlatField:
    """The user's field on flat states, for one solve.

    A field that draws random numbers (dropout) sees the same generator states at every call of the solve, the backward
    pass included: its dynamics are one function of (t, y), and a replay repeats them. After the solve the generators
    stand where one call leaves them. Under autocast the field alone is, and its output comes back in the state's type.

    Parameters
    ----------
    field
        The dynamics.
    layout
        How their state lies in a vector.
    draws
        The states that every call begins from, of the generators that it is known to draw from.
    """

    def __init__(self, field: VectorField, layout: Layout, draws: Draws | None = None) -> None:
        self.field = field
        self.layout = layout
        self._of_field: Callable[[Tensor, State], State] = field
        """Calls the user's field on what it takes."""
        self.kept: dict[object, object] = {}
        """What is made once for the solve: compiled steps, the form of Jacobians."""
        self.autocast = Autocast.now(layout.device.type)
        self.low: LowField | None = None
        """What calls the field in a low type; None where it computes in the state's."""
        self.differentiated_twice = False
        """Whether a call's pull-back is differentiated again."""
        self.held = Held(field) if isinstance(field, nn.Module) else None
        self.sources = [*torch_sources(layout.device), *(self.held.sources if self.held is not None else ())]
        self.differentiated: tuple[Tensor, ...] | None = None
        """What the pull-back of the solve's node differentiates by; None where there is no node."""
        self.known: Known | None = None
        """The trained tensors that the graph of a call may reach; None where it may reach any."""
        self.tolerances: Tolerances | None = None
        self.callbacks: StepCallbacks | None = None
        """The user's functions that hear of steps."""
        self.sides: dict[float, float] = {}
        """Time -> what f sees of it: where it jumps, the next number inside of the interval."""
        self.draws = draws or Draws(())
        self._first = not self.draws
        self._unchecked = False
        self._after: Draws | None = None
        self._made: float = 0
        """How many nodes there were before the last call."""
        self.replay: Replay | None = None
        """The replay of steps that is under way."""

    def in_precision(self, precision: Precision) -> Self:
        """Let every call compute in ``precision``, whatever autocast the caller stands under; return this field.

        Raises
        ------
        UsageError
            If the field is no ``nn.Module``, or the state is neither float32 nor float64.
        """
        if precision:
            # The calls stand where the solver does, outside of autocast, in replays too.
            self.autocast = None
            self.low = LowField(self._of_field, self.field, self.held, precision, self.layout.dtype)
            self._of_field = self.low
        return self

    def refuse_closures_at_first_call(self, trained: Sequence[Tensor]) -> None:
        """Let the next ``write`` check that the field depends on no trained tensor beside ``trained``."""
        self.known = Known(trained)
        self._unchecked = True

    def refuse_closures(self, outputs: Sequence[Tensor], also: Sequence[Tensor]) -> None:
        """Raise if the graph of ``outputs`` reaches a trained tensor that is not known.

        Raises
        ------
        UsageError
            If it does.
        """
        if self.known is not None:
            self.known.refuse_others(outputs, also, self._named)

    def pulled_through(
        self, outputs: Sequence[Tensor], inputs: Sequence[Tensor], grads: Sequence[Tensor], *, keep: bool = False
    ) -> tuple[Tensor | None, ...]:
        """Return the gradients by ``inputs``, pulled back through calls; ``keep`` keeps the graph.

        Raises
        ------
        UsageError
            If the graph reaches a tensor that requires a gradient and is not known to the solve.
        UnsupportedError
            If an operation of the field cannot be pulled back here.
        """
        # The graph is there: a tensor that the field has come to depend on after its first call is seen in it.
        self.refuse_closures(outputs, inputs)
        try:
            return torch.autograd.grad(outputs, inputs, grads, retain_graph=keep, allow_unused=True)
        except RuntimeError as error:
            raise explained(error) from error

    @contextmanager
    def replaying(self) -> Iterator["Replay"]:
        """Note the calls inside, which redo steps; the graph that they make is pulled back inside too."""
        self.replay = Replay(nodes_made())
        try:
            yield self.replay
        finally:
            self.replay = None

    def pulled_through_replay(
        self, outputs: Sequence[Tensor], inputs: Sequence[Tensor], grads: Sequence[Tensor], replay: "Replay"
    ) -> tuple[Tensor | None, ...]:
        """Return the gradients by ``inputs`` of what a replay of steps has made; raises what ``pulled_through`` does.

        A graph of a new shape is walked whole; of every other one the last call, which is one of the six or so of a
        step: what takes the place of a constant in the calls of a step is seen in each of them.
        """
        made = nodes_made() - replay.nodes_before
        try:
            pulled = torch.autograd.grad(outputs, inputs, grads, allow_unused=True)
        except RuntimeError as error:
            self.refuse_closures(outputs, inputs)
            raise explained(error) from error
        if self.known is None:
            return pulled
        if replay.result is None or self.known.is_new((made, *map(is_, pulled, _NONE))):
            self.refuse_closures(outputs, inputs)
        else:
            self.known.refuse_behind([replay.result], inputs, self._named, (replay.state,))
        return pulled

    def pulled_through_last(self, dy: Tensor, inputs: Sequence[Tensor], a: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients by ``inputs`` of ``dy``, which the last call has returned, along ``a``.

        Raises what ``pulled_through`` does. Of many calls after another not every graph is walked, see ``Known``.
        """
        made = nodes_made() - self._made
        try:
            pulled = torch.autograd.grad([dy], inputs, [a], allow_unused=True)
        except RuntimeError as error:
            self.refuse_closures([dy], inputs)
            raise explained(error) from error
        if self.known is not None and self.known.is_due((made, *map(is_, pulled, _NONE))):
            self.refuse_closures([dy], inputs)
        return pulled

    def _named(self, x: Tensor) -> str:
        return self.held.name(x) if self.held is not None else "a tensor "

    def __call__(self, t: float, y: Tensor, held: Mapping[str, Tensor] | None = None) -> Tensor:
        """Return ``dy/dt [d]`` at ``(t, y [d])``; under ``enable_grad`` it carries the graph.

        ``held`` stands in for parameters of the same names.
        """
        time, self._made = self.time(t), nodes_made()
        dy = self.layout.flatten(tuple(self.layout.parts_of(self._call(time, self.layout.unflatten(y), held))))
        if self._unchecked and torch.is_grad_enabled():
            self.refuse_unchecked(dy, time, y)
        if self.replay is not None:
            self.replay.result, self.replay.state = dy.grad_fn, y.grad_fn
        return dy

    def refuse_unchecked(self, dy: Tensor, *known: Tensor) -> None:
        """Make the check that ``refuse_closures_at_first_call`` has asked for on ``dy``, a function of ``known``."""
        if self._unchecked:
            self._unchecked = False
            self.refuse_closures([dy], known)

    def parts(self, time: Tensor, y: State) -> Sequence[Tensor]:
        """Return the parts of ``dy/dt`` at a time ``[]`` and a state in the user's shapes."""
        return self.layout.parts_of(self._call(time, y))

    def _call(self, t: Tensor, y: State, held: Mapping[str, Tensor] | None = None) -> State:
        if self._first:
            self._first = False
            before = Draws.now(self.sources)
            dy = self._evaluate(t, y, held)
            self.draws = before.moved()
            return dy
        if not self.draws:
            return self._evaluate(t, y, held)
        with self.draws.restored():
            dy = self._evaluate(t, y, held)
            if self._after is None:
                self._after = Draws.now(source for source, _ in self.draws.moved().states) or None
        return dy

    def _evaluate(self, t: Tensor, y: State, held: Mapping[str, Tensor] | None) -> State:
        # Of all parts of a state, which are views of one vector and share its count of writes. An inference tensor
        # does not tell whether it is written to: the field gets one of its own.
        first = y if isinstance(y, Tensor) else y[0]
        version = None if first.is_inference() else first._version
        given = y if version is not None else mapped(y, Tensor.clone)
        try:
            plain = self.autocast is None and not held and not self.differentiated_twice
            dy = self._of_field(t, given) if plain else self._surrounded(t, given, held)
        except RuntimeError as error:
            # Where y carries a graph PyTorch refuses the write itself, of a view.
            if "being modified inplace" in str(error) or "used in an in-place operation" in str(error):
                raise UsageError(WRITES) from error
            raise
        except TypeError:
            refuse_arity("field", "field(t, y)", self._of_field, 2)
            raise
        if version is not None and first._version != version:
            raise UsageError(WRITES)
        return dy

    def _surrounded(self, t: Tensor, y: State, held: Mapping[str, Tensor] | None) -> State:
        """Return ``dy/dt`` under the caller's autocast, ``held`` in the places of parameters."""
        kernels = with_second_derivatives() if self.differentiated_twice else nullcontext()
        with kernels, nullcontext() if self.autocast is None else self.autocast.entered():
            if held and isinstance(self.field, nn.Module):
                dy: State = torch.func.functional_call(self.field, dict(held), (t, y))
            else:
                dy = self._of_field(t, y)
        return dy if self.autocast is None else self._in_own_type(dy)

    def _in_own_type(self, dy: State) -> State:
        """Return what autocast has computed in the type of the state; anything else is left to be refused."""
        given: object = dy
        if not isinstance(given, (Tensor, tuple, list)):
            return dy
        return mapped(dy, lambda part: part.to(self.layout.dtype) if isinstance(part, Tensor) else part)

    def half(self, name: str) -> "HalfField":
        """Return the half ``name``, ``stiff`` or ``rest``, of a field that is split into two.

        Raises
        ------
        UnsupportedError
            If the field has no such half.
        """
        found = self.kept.get(("half", name))
        if not isinstance(found, HalfField):
            found = self.kept["half", name] = HalfField(self, name)
        return found

    def stand_after_one_call(self) -> None:
        """Let the generators stand where a call leaves them that draws, if every call began from known states."""
        if self._after is not None:
            self._after.set()

    def refuse_memory(self, call: Callable[[], Tensor]) -> None:
        """Raise if the field, asked twice by ``call``, does not give the same, and has written to itself in the solve.

        Raises
        ------
        UsageError
            If so: a pull-back that calls it again is that of another field.
        """
        if self.held is not None and self.held.written:
            with self.undisturbed():
                refuse_memory(self.field, self.held, call, self.unheard)

    @contextmanager
    def unheard(self) -> Iterator[None]:
        """Call the user's field itself inside, past whoever counts or watches its calls."""
        outer, of_field = self.field, self._of_field
        inner = outer
        while isinstance(inner, PassesCalls):
            inner = inner.inner
        self.field = inner
        if of_field is outer:
            self._of_field = inner
        try:
            yield
        finally:
            self.field, self._of_field = outer, of_field

    def undisturbed(self) -> AbstractContextManager[None]:
        """Put the field's buffers (running statistics) back at the end: for calls that repeat earlier ones."""
        return buffers_as_they_were(self.field)

    @contextmanager
    def no_new_draws(self, *, watched: bool) -> Iterator[None]:
        """Raise if f draws random numbers inside and drew none in the forward solve.

        Nothing is said where somebody is ``watched`` by, who may draw too.

        Raises
        ------
        UsageError
            If it does.
        """
        if watched or self.draws:
            yield
            return
        before = Draws.now(self.sources)
        try:
            yield
        finally:
            # Before any other error: it may come of the draws.
            if before.has_moved():
                raise UsageError(NEW_DRAWS)

    def prepare(self, times: Sequence[float]) -> None:
        """Need nothing before a step."""

    def write(self, t: float, y: Tensor, out: Tensor, stage: int) -> None:  # noqa: ARG002
        """Write ``dy/dt`` at ``(t, y [d])`` into ``out [d]``.

        Raises
        ------
        UsageError
            If the field depends on a trained tensor that is not among its parameters (checked at the first call).
        """
        if self._unchecked:
            out.copy_(self._checked(t, y))
            return
        # Part by part into the stage: flattening first would write a second copy of a state of several parts.
        dy = self.layout.parts_of(self._call(self.time(t), self.layout.unflatten(y)))
        start = 0
        for part in dy:
            stop = start + part.numel()
            out[start:stop].copy_(part.detach().reshape(-1))
            start = stop

    def _checked(self, t: float, y: Tensor) -> Tensor:
        with torch.enable_grad():
            return self(t, y.detach().requires_grad_()).detach()

    def norm(self, x: Tensor) -> Tensor:
        """Return the largest root mean square over the state's parts."""
        return self.layout.norm(x)

    def see_inside(self, jumps: Sequence[float], first: float, last: float) -> None:
        """Let f see its limits from inside of the interval at those of its ends that are among ``jumps``."""
        for end, other in ((first, last), (last, first)):
            if end in jumps:
                ends = torch.tensor((end, other), dtype=self.layout.dtype)
                self.sides[end] = float(torch.nextafter(ends[0], ends[1]))

    def time(self, t: float) -> Tensor:
        """Return ``t`` as the 0-d tensor that the field sees."""
        if self.sides:
            t = self.sides.get(t, t)
        # full() is filled on the device; tensor() would copy from the host and make it wait.
        return torch.full((), t, dtype=self.layout.dtype, device=self.layout.device)

    def times(self, ts: Sequence[float]) -> Sequence[Tensor]:
        """Return many times as the field sees them, in one copy."""
        seen = [self.sides.get(t, t) for t in ts] if self.sides else ts
        found = torch.tensor(seen, dtype=torch.float64)
        return sent_to(self.layout.device, found, self.layout.dtype).unbind(0)


class HalfField(FlatField):
    """One half of a field that is split into two, ``field.stiff(t, y)`` and ``field.rest(t, y)``, in the same solve.

    All that the solve knows of the field it knows of the half: what it holds, how it draws, what its graph may reach.

    Raises
    ------
    UnsupportedError
        If the field has no such half.
    """

    def __init__(self, whole: FlatField, name: str) -> None:
        # Not the parent's: whatever is not set here is the whole field's, as that stands at any time.
        missing = [half for half in HALVES if not callable(getattr(whole.field, half, None))]
        if missing:
            raise UnsupportedError(
                f"field: expected the two halves field.stiff(t, y) and field.rest(t, y), whose sum is field(t, y), got "
                f"{type(whole.field).__name__} without {' and '.join(missing)}; add what is missing, or use solver "
                "kencarp4, which takes a field whole"
            )
        self.whole = whole
        self.kept = {}
        self._of_field = getattr(whole.field, name)

    def __getattr__(self, name: str) -> Any:
        """Return what the whole field has."""
        return getattr(self.__dict__["whole"], name)

    @property
    def unchecked(self) -> bool:
        """Return whether the next call is to be checked for tensors that nobody told of."""
        return self._unchecked


def trained_parameters(field: VectorField) -> tuple[nn.Parameter, ...]:
    """Return the parameters of ``field`` that require gradients.

    Raises
    ------
    UsageError
        If ``field`` is no ``nn.Module``, so that its parameters are unknown.
    """
    if not isinstance(field, nn.Module):
        raise UsageError(
            f"field: expected an nn.Module whose parameters() are all that it depends on, got {type(field).__name__}; "
            "wrap the function in an nn.Module that holds its parameters, or give adjoint_params to odeint"
        )
    return tuple(p for p in field.parameters() if p.requires_grad)
