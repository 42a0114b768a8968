"""Products with a Jacobian: of one f call's pull-back, their sum over calls, and of many vectors at once."""

from collections.abc import Sequence

import torch
from torch import Tensor

from odegrad.errors import is_out_of_memory
from odegrad.methods.fields.closures import explained
from odegrad.methods.fields.twice import pulled_with_graph
from odegrad.methods.solvers.dynamics import FlatField


def derivative_along(
    dy: Tensor, inputs: Sequence[Tensor], vectors: Sequence[Tensor], m: int, *, batched: bool
) -> tuple[Tensor, bool]:
    """Return the derivative of ``dy`` by ``inputs`` times m vectors, ``[m, *dy.shape]``, and whether m go at once.

    Parameters
    ----------
    dy
        With its graph, which is kept.
    inputs
        That it may depend on.
    vectors
        The vectors' parts in each input, ``[m, *input.shape]``.
    m
        Their number.
    batched
        Try all of them at once; False after an operation has had no rule for that.
    """
    # Two pull-backs make a push forward, for any field that autograd can differentiate: forward mode and its
    # transforms know fewer operations. The graph of the first is shared by all columns.
    if not (dy.requires_grad and inputs):
        return dy.new_zeros((m, *dy.shape)), batched
    with torch.enable_grad():
        u = torch.zeros_like(dy, requires_grad=True)
        pulled = pulled_with_graph([dy], inputs, [u])
    pairs = [(g, v) for g, v in zip(pulled, vectors, strict=True) if g is not None and g.requires_grad]
    if not pairs:
        return dy.new_zeros((m, *dy.shape)), batched
    outputs, along = [g for g, _ in pairs], [v for _, v in pairs]
    if batched:
        try:
            return _derivative(outputs, u, along, batched=True), True
        except RuntimeError as error:
            if is_out_of_memory(error):
                raise
            batched = False  # an operation of the field has no rule for batches: one column after the other
    try:
        rows = [_derivative(outputs, u, [v[i] for v in along], batched=False) for i in range(m)]
    except RuntimeError as error:
        raise explained(error) from error
    return torch.stack(rows), batched


def _derivative(outputs: Sequence[Tensor], u: Tensor, vectors: Sequence[Tensor], *, batched: bool) -> Tensor:
    (product,) = torch.autograd.grad(
        outputs, u, vectors, retain_graph=True, is_grads_batched=batched, materialize_grads=True
    )
    return product


def add_to(total: Sequence[Tensor], pulled: Sequence[Tensor | None], weight: float = 1.0) -> None:
    """Add ``weight`` times the pulled-back parameters, where there are any, to ``total`` in place."""
    # One operator for all parameters: a loop over them would cost about as many as f itself, at every call.
    pairs = [(g, p) for g, p in zip(total, pulled, strict=True) if p is not None]
    if pairs:
        torch._foreach_add_([g for g, _ in pairs], [p for _, p in pairs], alpha=weight)


def pull_call(
    field: FlatField, t: float, y: Tensor, a: Tensor, parameters: Sequence[Tensor], total: Sequence[Tensor]
) -> tuple[Tensor, Tensor]:
    """Return ``f(t, y)`` and ``f_y^T a``, ``[d]`` each, and add ``f_theta^T a`` to ``total``: one call with a graph."""
    with torch.enable_grad():
        y = y.detach().requires_grad_()
        dy = field(t, y)
    if not dy.requires_grad:
        return dy, torch.zeros_like(y)
    of_state, *of_parameters = field.pulled_through_last(dy, (y, *parameters), a)
    add_to(total, of_parameters)
    return dy.detach(), torch.zeros_like(y) if of_state is None else of_state
