"""The preconditioned update ``vec(dW) = (A (x) B + eps)^-1 vec(G)`` in the eigenbasis (Liu et al. 2021, section 3)."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from odegrad.methods.optimizers.snopt.factors import Eigenbasis
from odegrad.methods.optimizers.snopt.layers import Layer, gradient_matrix, split_matrix, trained_parameters

Move = tuple[Tensor, Tensor, Tensor]
"""A parameter, its gradient, and its preconditioned gradient."""


def update_curvature(basis: Eigenbasis, gradient: Tensor, alpha: float) -> None:
    """Move the running curvature: ``S <- alpha S + (1 - alpha) n G'^2`` with ``G' = U_B^T G U_A``, n samples.

    ``gradient [n_out, n_in]`` is of the batch-mean loss.
    """
    rotated = _rotate(basis, gradient)
    # The basis stays until the next refresh, its second moments do not: the diagonal in it is known from each gradient.
    basis.curvature.mul_(alpha).addcmul_(rotated, rotated, value=(1.0 - alpha) * basis.samples)


def precondition(basis: Eigenbasis, gradient: Tensor, eps: float) -> Tensor:
    """Return ``dW = U_B [(U_B^T G U_A) / (S + eps)] U_A^T``, ``[n_out, n_in]``, in the gradient's dtype."""
    # The product is damped, in its eigenbasis: exactly (A kron B + eps)^-1. Damping each factor by itself, which spares
    # the eigenbases, would add cross terms of damping and curvature.
    scaled = _rotate(basis, gradient) / (basis.curvature + eps)
    update: Tensor = basis.output_basis @ scaled @ basis.input_basis.mT
    return update.to(gradient.dtype)


def layer_moves(layer: Layer, basis: Eigenbasis, eps: float, alpha: float | None) -> list[Move]:
    """Return the moves of the layer's parameters; none if one has no gradient.

    The running curvature moves first, by ``alpha``; it stays where that is None, since the basis is fresh.
    """
    gradient = gradient_matrix(layer)
    if gradient is None:
        return []
    if alpha is not None:
        update_curvature(basis, gradient, alpha)
    parts = split_matrix(layer, precondition(basis, gradient, eps))
    pairs = zip(trained_parameters(layer), parts, strict=True)
    return [(p, p.grad, part.contiguous()) for p, part in pairs if p.grad is not None]


def clip(moves: Sequence[Move], groups: Sequence[Mapping[str, Any]], most: float) -> None:
    """Shorten all moves, in place and alike, so that one step is expected to change the predictions by ``most`` nats.

    A step ``d`` changes them by about ``d^T F d / 2``; with ``d = lr (F + eps)^-1 g`` that is at most
    ``lr^2 g . (F + eps)^-1 g / 2``. The factor is ``min(1, sqrt(most / (lr^2 sum g . dW)))``, after the trust region
    of Ba, Grosse and Martens, Distributed second-order optimization using Kronecker-factored approximations, ICLR 2017.
    ``groups`` are the base optimizer's, with the learning rate of each parameter.
    """
    rates = {id(p): float(group["lr"]) for group in groups for p in group["params"]}
    if not moves:
        return
    foreseen = sum((rates[id(p)] ** 2 * torch.sum(gradient * move) for p, gradient, move in moves), torch.zeros(()))
    # On the device, in float64: the host need not know the factor.
    factor = (most / foreseen.double().clamp_min(1e-30)).sqrt().clamp_max(1.0)
    for _, _, move in moves:
        move.mul_(factor)


def _rotate(basis: Eigenbasis, gradient: Tensor) -> Tensor:
    wide = gradient.to(basis.output_basis.dtype)
    return basis.output_basis.mT @ wide @ basis.input_basis
