"""The preconditioned update ``vec(dW) = (A (x) B + eps)^-1 vec(G)`` in the eigenbasis (Liu et al. 2021, section 3)."""

from torch import Tensor

from odegrad.methods.optimizers.snopt.factors import Eigenbasis


def update_curvature(basis: Eigenbasis, gradient: Tensor, alpha: float) -> None:
    """Move the running curvature: ``S <- alpha S + (1 - alpha) n G'^2`` with ``G' = U_B^T G U_A``, n samples.

    ``gradient [n_out, n_in]`` is of the batch-mean loss.
    """
    rotated = _rotate(basis, gradient)
    basis.curvature.mul_(alpha).addcmul_(rotated, rotated, value=(1.0 - alpha) * basis.samples)


def precondition(basis: Eigenbasis, gradient: Tensor, eps: float) -> Tensor:
    """Return ``dW = U_B [(U_B^T G U_A) / (S + eps)] U_A^T``, ``[n_out, n_in]``, in the gradient's dtype."""
    scaled = _rotate(basis, gradient) / (basis.curvature + eps)
    update: Tensor = basis.output_basis @ scaled @ basis.input_basis.mT
    return update.to(gradient.dtype)


def _rotate(basis: Eigenbasis, gradient: Tensor) -> Tensor:
    wide = gradient.to(basis.output_basis.dtype)
    return basis.output_basis.mT @ wide @ basis.input_basis
