"""Pieces of pull-backs that several methods share: one f call's, and the sum over the calls."""

from collections.abc import Sequence

import torch
from torch import Tensor

from odegrad.methods.solvers.dynamics import FlatField


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
    of_state, *of_parameters = field.pulled_through([dy], (y, *parameters), [a])
    add_to(total, of_parameters)
    return dy.detach(), torch.zeros_like(y) if of_state is None else of_state
