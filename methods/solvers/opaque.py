"""Gradients that have no derivative of their own: asking for one raises, and is never silently disconnected."""

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from odegrad.errors import UnsupportedError

TAKE_NAIVE = "use gradient method 'naive', whose double backward is exact"


class Context(Protocol):
    """What an autograd function keeps from its forward for its backward pass."""

    saved_tensors: tuple[Tensor, ...]

    def save_for_backward(self, *tensors: Tensor) -> None:
        """Keep inputs and outputs, in a way that autograd frees with the graph."""
        ...


def without_derivative(
    grads: Sequence[Tensor | None], inputs: Sequence[Tensor], what: str, instead: str = TAKE_NAIVE
) -> tuple[Tensor | None, ...]:
    """Return ``grads``, which autograd sees as depending on ``inputs`` so that a second derivative raises.

    ``instead`` ends the message: what has one. To be called in the backward of an autograd function; without
    ``create_graph`` it returns ``grads`` themselves.
    """
    present = [g for g in grads if g is not None]
    if not (torch.is_grad_enabled() and any(x.requires_grad for x in inputs)) or not present:
        return tuple(grads)
    marked = iter(_Opaque.apply(f"{what} has no second derivative; {instead}", len(present), *present, *inputs))  # type: ignore[no-untyped-call]
    return tuple(None if g is None else next(marked) for g in grads)


class _OpaqueContext(Protocol):
    message: str
    needs_input_grad: tuple[bool, ...]

    def set_materialize_grads(self, value: bool) -> None: ...


class _Opaque(torch.autograd.Function):
    """The identity on its first ``count`` tensors, with all of them as inputs and no derivative."""

    @staticmethod
    def forward(message: str, count: int, *tensors: Tensor) -> tuple[Tensor, ...]:  # noqa: ARG004
        return tuple(t.clone() for t in tensors[:count])

    @staticmethod
    def setup_context(ctx: _OpaqueContext, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:  # noqa: ARG004
        ctx.message = inputs[0]
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: _OpaqueContext, *grads: Tensor | None) -> tuple[None, ...]:
        # Autograd also passes by where nothing is asked for.
        if any(grad is not None for grad in grads):
            raise UnsupportedError(ctx.message)
        return (None,) * len(ctx.needs_input_grad)


def without_gradient(x: Tensor, inputs: Sequence[Tensor], message: str) -> Tensor:
    """Return ``x``, which autograd sees as depending on ``inputs``, so that asking for its gradient raises."""
    (out,) = _Opaque.apply(message, 1, x, *inputs)  # type: ignore[no-untyped-call]
    marked: Tensor = out
    return marked
