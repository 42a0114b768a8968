"""Products with a Jacobian for many vectors at once, by two pull-backs."""

from collections.abc import Sequence

import torch
from torch import Tensor

from odegrad.errors import is_out_of_memory
from odegrad.methods.fields.closures import explained


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
        try:
            pulled = torch.autograd.grad(dy, inputs, u, create_graph=True, allow_unused=True)
        except RuntimeError as error:
            raise explained(error) from error
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
