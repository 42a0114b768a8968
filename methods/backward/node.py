"""A solve as one node of autograd's graph: forward without a graph, and a pull-back that stands in for it."""

import abc
from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from odegrad.methods.solvers.dynamics import FlatField, trained_parameters
from odegrad.methods.solvers.opaque import Context, without_derivative
from odegrad.methods.solvers.solver import OneStepSolver

Gradients = tuple[Tensor, Sequence[Tensor | None]]
"""``dL/dy0 [d]``, and ``dL/dtheta`` per parameter; None where there is none."""


class SolveNode(abc.ABC):
    """A forward solve without a graph, and its pull-back."""

    def __init__(self, field: FlatField, solver: OneStepSolver, times: Sequence[float]) -> None:
        self.field = field
        self.solver = solver
        self.times = list(times)
        self.parameters = trained_parameters(field.field)

    @abc.abstractmethod
    def forward(self, y0: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Solve from ``y0 [d]``; return the states ``[K, d]`` at ``times`` and the tensors to keep."""

    @abc.abstractmethod
    def pull_back(self, grads: Tensor, kept: tuple[Tensor, ...]) -> Gradients:
        """Return the gradients from ``grads = dL/dys [K, d]`` and what was kept."""

    def apply(self, y0: Tensor) -> Tensor:
        """Return the states ``[K, d]`` with the method's graph.

        Raises
        ------
        UsageError
            If the field depends on a tensor that requires a gradient and is not one of its parameters.
        """
        if torch.is_grad_enabled():
            self.field.refuse_closures_at_first_call(self.parameters)
        out: Tensor = _Solve.apply(self, y0, *self.parameters)  # type: ignore[no-untyped-call]
        return out


class _SolveContext(Context, Protocol):
    node: SolveNode


class _Solve(torch.autograd.Function):
    """The autograd function of a node. Its pull-back is no graph, so a second derivative raises, and is never wrong."""

    @staticmethod
    def forward(ctx: _SolveContext, node: SolveNode, y0: Tensor, *parameters: Tensor) -> Tensor:  # noqa: ARG004
        ys, kept = node.forward(y0.detach())
        ctx.node = node
        # Saved by autograd, not on the node: it frees them with the graph, and counts them as the memory that they are.
        ctx.save_for_backward(y0, *kept)
        return ys

    @staticmethod
    def backward(ctx: _SolveContext, *grads: Tensor) -> tuple[Tensor | None, ...]:
        y0, *kept = ctx.saved_tensors
        # The calls repeat those of the forward solve: running statistics must not move a second time.
        with torch.no_grad(), ctx.node.field.undisturbed():
            a0, pulled = ctx.node.pull_back(grads[0], tuple(kept))
        pulled = [torch.zeros_like(p) if g is None else g for p, g in zip(ctx.node.parameters, pulled, strict=True)]
        inputs = (grads[0], y0, *ctx.node.parameters)
        return None, *without_derivative([a0, *pulled], inputs, "this gradient method")
