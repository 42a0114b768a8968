"""What a solve integrates: a map ``(t, y [d]) -> dy/dt [d]`` with a norm; here, the user's field on flat states."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Protocol

import torch
from torch import Tensor, nn

from odegrad.contracts import State, VectorField
from odegrad.errors import UsageError
from odegrad.states import GeneratorState, Layout

TRIAL = -1
"""The stage of an f call that belongs to no step: the trial that chooses the first step."""


class Dynamics(Protocol):
    """The right-hand side of a solve on flat states."""

    def prepare(self, times: Sequence[float]) -> None:
        """Hear of the times at which the coming stages are evaluated: ``times[stage]``, or ``times[TRIAL]``."""
        ...

    def write(self, t: float, y: Tensor, out: Tensor, stage: int) -> None:
        """Write ``dy/dt`` at ``(t, y [d])`` into ``out [d]``, without a graph."""
        ...

    def norm(self, x: Tensor) -> Tensor:
        """Return the error norm of ``x [d]``, a 0-d tensor."""
        ...


class FlatField:
    """The user's field on flat states, for one solve.

    A field that draws random numbers (dropout) sees the same generator state at every call of the solve, the backward
    pass included: its dynamics are one function of (t, y), and a replay repeats them. After the solve the generator
    stands where one call leaves it.
    """

    def __init__(self, field: VectorField, layout: Layout) -> None:
        self.field = field
        self.layout = layout
        self.kept: dict[object, object] = {}
        """What is made once for the solve: compiled steps, the form of Jacobians."""
        self._unchecked: Sequence[Tensor] | None = None
        self._drawn: GeneratorState | None = None
        self._called = False

    def refuse_closures_at_first_call(self, parameters: Sequence[Tensor]) -> None:
        """Let the next ``write`` check that the field depends on no trained tensor beside ``parameters``."""
        self._unchecked = parameters

    def __call__(self, t: float, y: Tensor, held: Mapping[str, Tensor] | None = None) -> Tensor:
        """Return ``dy/dt [d]`` at ``(t, y [d])``; under ``enable_grad`` it carries the graph.

        ``held`` stands in for parameters of the same names.
        """
        time = self.time(t)
        dy = self.layout.flatten(tuple(self.layout.parts_of(self._call(time, self.layout.unflatten(y), held))))
        if torch.is_grad_enabled():
            self.refuse_unchecked(dy, time, y)
        return dy

    def refuse_unchecked(self, dy: Tensor, *known: Tensor) -> None:
        """Make the check that ``refuse_closures_at_first_call`` has asked for on ``dy``, a function of ``known``."""
        if self._unchecked is not None:
            parameters, self._unchecked = self._unchecked, None
            refuse_closures(dy, [*known, *parameters])

    def parts(self, time: Tensor, y: State) -> Sequence[Tensor]:
        """Return the parts of ``dy/dt`` at a time ``[]`` and a state in the user's shapes."""
        return self.layout.parts_of(self._call(time, y))

    def _call(self, t: Tensor, y: State, held: Mapping[str, Tensor] | None = None) -> State:
        if self._called and self._drawn is None:
            return self._evaluate(t, y, held)
        if self._drawn is not None:
            with self._drawn.restored():
                return self._evaluate(t, y, held)
        before = GeneratorState.now(self.layout.device)
        dy = self._evaluate(t, y, held)
        self._called = True
        if before.has_moved():
            self._drawn = before
        return dy

    def _evaluate(self, t: Tensor, y: State, held: Mapping[str, Tensor] | None) -> State:
        if held and isinstance(self.field, nn.Module):
            dy: State = torch.func.functional_call(self.field, dict(held), (t, y))
            return dy
        return self.field(t, y)

    @contextmanager
    def undisturbed(self) -> Iterator[None]:
        """Put the field's buffers (running statistics) back at the end: for calls that repeat earlier ones."""
        kept = [(b, b.detach().clone(), b._version) for b in self._buffers()]
        statistics = {id(b) for b in self._running_statistics()} if kept else set()
        try:
            yield
        finally:
            with torch.no_grad():
                # An unchanged buffer is left alone: a write of its own value would count as a change to autograd, which
                # then refuses every other graph that has saved it.
                for buffer, value, version in kept:
                    if buffer._version != version or id(buffer) in statistics:
                        buffer.copy_(value)

    def _buffers(self) -> Sequence[Tensor]:
        return list(self.field.buffers()) if isinstance(self.field, nn.Module) else []

    def _running_statistics(self) -> Iterator[Tensor]:
        """Yield the buffers that a normalisation layer updates in training, which their versions do not tell."""
        for module in self.field.modules() if isinstance(self.field, nn.Module) else ():
            if module.training and getattr(module, "track_running_stats", False):
                yield from module.buffers(recurse=False)

    def prepare(self, times: Sequence[float]) -> None:
        """Need nothing before a step."""

    def write(self, t: float, y: Tensor, out: Tensor, stage: int) -> None:  # noqa: ARG002
        """Write ``dy/dt`` at ``(t, y [d])`` into ``out [d]``.

        Raises
        ------
        UsageError
            If the field depends on a trained tensor that is not among its parameters (checked at the first call).
        """
        if self._unchecked is not None:
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
        parameters, self._unchecked = self._unchecked or (), None
        with torch.enable_grad():
            time, leaf = self.time(t), y.detach().requires_grad_()
            dy = self.layout.flatten(tuple(self.layout.parts_of(self._call(time, self.layout.unflatten(leaf)))))
        refuse_closures(dy, [time, leaf, *parameters])
        return dy.detach()

    def norm(self, x: Tensor) -> Tensor:
        """Return the largest root mean square over the state's parts."""
        return self.layout.norm(x)

    def time(self, t: float) -> Tensor:
        """Return ``t`` as the 0-d tensor that the field sees."""
        # full() is filled on the device; tensor() would copy from the host and make it wait.
        return torch.full((), t, dtype=self.layout.dtype, device=self.layout.device)


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
            "wrap the function in an nn.Module that holds its parameters"
        )
    return tuple(p for p in field.parameters() if p.requires_grad)


def refuse_closures(dy: Tensor, known: Sequence[Tensor]) -> None:
    """Raise if the graph of ``dy`` reaches a leaf that is not among ``known`` (time, state and parameters).

    A method that solves without a graph would silently give such a leaf no gradient.

    Raises
    ------
    UsageError
        If there is such a leaf.
    """
    # A closure is seen in the graph only, as a node that accumulates into a leaf: walk it, each node once.
    allowed = {id(x) for x in known}
    for leaf in leaves(dy):
        if id(leaf) not in allowed:
            raise UsageError(
                f"field: it depends on a tensor of shape {tuple(leaf.shape)} that requires a gradient but is not among "
                "field.parameters() (reached through a closure), so this method would lose its gradient; "
                "register it as a parameter of the field, or make it part of the state"
            )


def leaves(dy: Tensor) -> Iterator[Tensor]:
    """Yield the leaves that the graph of ``dy`` reaches."""
    stack, seen = [dy.grad_fn], set()
    while stack:
        node = stack.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        leaf = getattr(node, "variable", None)
        if leaf is not None:
            yield leaf
        stack.extend(n for n, _ in node.next_functions)
