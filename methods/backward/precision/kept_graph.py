"""A graph that was kept, gone back through as one node: outside of autocast, and again where float16 has overflowed."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from odegrad.errors import UnsupportedError
from odegrad.methods.backward.precision.scaling import pulled_until_finite
from odegrad.methods.backward.transforms import each_cotangent, is_batch
from odegrad.methods.fields.closures import reached
from odegrad.methods.fields.precision import LowField
from odegrad.methods.fields.surroundings import autocast_off, out_of_inference, usable
from odegrad.methods.solvers.dynamics import FlatField
from odegrad.methods.solvers.solver import OneStepSolver

AGAIN = (
    "Trying to backward through the graph a second time: a solve keeps it for one backward pass; specify "
    "retain_graph=True at the first"
)
"""What is answered where PyTorch says the same."""


def solved_apart(
    field: FlatField,
    solver: OneStepSolver,
    y0: Tensor,
    solve: Callable[[Tensor], Tensor],
    *,
    watched: bool = False,
) -> Tensor:
    """Return ``solve(y0)``, by a field in a low type, with one node for all of its graph.

    Autograd goes back through a graph under the autocast of whoever calls ``backward()``, which would compute the
    products of a float16 field in bfloat16, and the solver's own sums too. The node goes back through it by itself.
    It can be differentiated again: the graph ends at the very tensors that the caller has. ``watched`` says whether
    somebody sees what is done on the way back.

    Raises
    ------
    UsageError
        If the field depends on a tensor that requires a gradient and is neither a parameter nor an attribute of it.
    """
    low = field.low
    if low is None or not torch.is_grad_enabled():
        return solve(y0)
    inputs = (y0, *low.masters.values())
    # Other names for the same tensors: a gradient by one of them is by its use inside of the solve alone.
    inside = [x.view_as(x) if x.requires_grad else x for x in inputs]
    low.stand_in(dict(zip(low.masters, inside[1:], strict=True)))
    field.refuse_closures_at_first_call(inside)
    ys = solve(inside[0])
    if not ys.requires_grad:
        return ys
    # What f has never read may have a history that is gone by the time of the backward pass.
    found = reached(ys, [x for x in inside if x.requires_grad])
    kept = _Kept(ys, [x for x in inside if id(x) in found], low, solver, watched=watched)
    out: Tensor = _Apart.apply(kept, *(x for x, own in zip(inputs, inside, strict=True) if id(own) in found))  # type: ignore[no-untyped-call]
    return out


class _Kept:
    """The states with their graph, and what it is gone back to."""

    def __init__(
        self, ys: Tensor, inside: Sequence[Tensor], low: LowField, solver: OneStepSolver, *, watched: bool
    ) -> None:
        self.ys = ys
        self.inside = inside
        self.low = low
        self.solver = solver
        self.watched = watched
        self.differentiated_twice = False
        """Whether a pass had a graph of its own: it reaches this one, which must then stand."""

    def pulled(self, grad: Tensor, *, keep: bool, twice: bool) -> tuple[Tensor | None, ...]:
        """Return the gradients along ``grad``, with a graph of their own where they are differentiated ``twice``."""
        if twice and self.low.scale is not None:
            raise UnsupportedError(
                "gradient: the scale of a float16 field's cotangents is none for its second derivative, which would "
                "underflow; take precision = 'bfloat16', which needs none, or leave precision out"
            )
        self.differentiated_twice |= twice
        again = keep or self.differentiated_twice or self.low.scale is not None

        def pull() -> Sequence[Tensor | None]:
            return torch.autograd.grad(
                self.ys, self.inside, grad, retain_graph=again, create_graph=twice, allow_unused=True
            )

        with out_of_inference(), autocast_off(self.ys.device.type):
            return tuple(pulled_until_finite(pull, grad, self.low, self.solver, watched=self.watched))


class _Apart(torch.autograd.Function):
    """The node."""

    @staticmethod
    def forward(ctx: Any, kept: _Kept, *inputs: Tensor) -> Tensor:  # noqa: ARG004
        ctx.kept = kept
        return kept.ys.detach()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        kept: _Kept | None = ctx.kept
        if kept is None:
            raise RuntimeError(AGAIN)
        grad = usable(grads[0])
        if torch.is_grad_enabled():
            return None, *kept.pulled(grad, keep=True, twice=True)
        keep: bool = torch._C._autograd._get_current_graph_task_keep_graph()
        several = is_batch(grad)
        pulled = each_cotangent(lambda column: kept.pulled(column, keep=keep or several, twice=False), grad)
        if not keep:
            ctx.kept = None
        return None, *pulled
