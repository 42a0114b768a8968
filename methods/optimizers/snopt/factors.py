"""Kronecker factors of one layer's curvature and their eigenbases.

``A = int E_batch[sum_loc x x^T] dt`` and ``B = int E_batch[mean_loc g g^T] dt`` for the layer's input rows x and the
cotangents g of its output, per sample (Liu et al. 2021, section 3; the convention over a convolution's locations is
that of Grosse and Martens, A Kronecker-factored approximate Fisher matrix for convolution layers, ICML 2016).
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.linalg import LinAlgError  # type: ignore[attr-defined]

from odegrad.errors import NonFiniteError

JITTERS = (0.0, 1e-12, 1e-9, 1e-6)
"""Relative diagonal shifts tried, in float64, where the eigendecomposition does not converge."""


class FactorSum:
    """Running sums of one layer's factors over curvature samples.

    With ``rank`` R > 1 every input comes once with each of R cotangents: B sums over them, A counts the input once.
    """

    def __init__(self) -> None:
        self.rank = 1
        self.input_factor: Tensor | None = None
        self.output_factor: Tensor | None = None
        self.samples = 1

    def add(self, x: Tensor, g: Tensor, weight: float) -> None:
        """Add one sample.

        Parameters
        ----------
        x, g
            Input and cotangent rows, ``[batch, locations, n_in]`` and ``[batch, locations, n_out]``; with a leading
            dimension of groups each has its own factors. ``g`` belongs to a batch-mean loss, so ``batch * g`` is the
            cotangent per sample.
        weight
            Quadrature weight in units of time; 1 outside of an ODE.
        """
        batch, locations = x.shape[-3:-1]
        x = x.detach().flatten(-3, -2).to(_factor_dtype(x))
        # Undo the batch mean: B is the mean over samples of g g^T with each sample's own g, not a mean of means.
        g = g.detach().flatten(-3, -2).to(x.dtype) * batch
        of_input = (x.mT @ x).mul_(weight / (batch * self.rank))
        of_output = (g.mT @ g).mul_(weight / (batch * locations))
        self.input_factor = of_input if self.input_factor is None else self.input_factor.add_(of_input)
        self.output_factor = of_output if self.output_factor is None else self.output_factor.add_(of_output)
        self.samples = batch


@dataclass
class Eigenbasis:
    """The eigenbases ``U_A``, ``U_B`` of a layer's factors and the curvature ``S [n_out, n_in]`` in them.

    All three carry a leading dimension of groups where the layer has several.
    """

    input_basis: Tensor
    output_basis: Tensor
    curvature: Tensor
    samples: int


def check_finite_factors(sums: Mapping[str, FactorSum]) -> None:
    """Check the factors of all layers, by one read of the device.

    Raises
    ------
    NonFiniteError
        If one is not finite; the message names the layer.
    """
    named = [(name, "input", total.input_factor) for name, total in sums.items()]
    named += [(name, "output", total.output_factor) for name, total in sums.items()]
    there = [(name, side, matrix) for name, side, matrix in named if matrix is not None]
    finite = torch.stack([torch.isfinite(m).all() for _, _, m in there]).tolist() if there else []
    for (name, side, _), is_finite in zip(there, finite, strict=True):
        if not is_finite:
            raise NonFiniteError(
                f"layer {name}: its {side} factor is not finite, so the curvature samples overflowed; lower the "
                "learning rate, raise eps, or check the layer's input for NaN"
            )


def eigenbasis(name: str, factors: FactorSum) -> Eigenbasis | None:
    """Return the eigenbasis of the sums, with ``S = S_B S_A^T``; None if there was no sample.

    The factors are finite (``check_finite_factors``). ``torch.linalg.eigh`` reads its status, once a factor.

    Raises
    ------
    NonFiniteError
        If an eigendecomposition does not converge; the message names the layer.
    """
    a, b = factors.input_factor, factors.output_factor
    if a is None or b is None:
        return None
    # A kron B has the products of their eigenvalues, in the product of their bases: n^3 + m^3 work, not (n m)^3.
    values_a, basis_a = _symmetric_eigen(name, "input", a)
    values_b, basis_b = _symmetric_eigen(name, "output", b)
    return Eigenbasis(basis_a, basis_b, values_b[..., :, None] * values_a[..., None, :], factors.samples)


def _symmetric_eigen(name: str, side: str, matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Return eigenvalues (not negative) and eigenvectors; float64 and growing jitter if the first try fails."""
    try:
        values, vectors = torch.linalg.eigh(matrix)
    except LinAlgError:
        values, vectors = _eigen_with_jitter(name, side, matrix)
    # Rounding makes small eigenvalues negative, and one below -eps would turn the step around.
    return values.clamp_(min=0.0), vectors


def _eigen_with_jitter(name: str, side: str, matrix: Tensor) -> tuple[Tensor, Tensor]:
    wide = matrix.double()
    # Relative to the mean eigenvalue, as factors of different layers differ by many orders of magnitude.
    scale = wide.diagonal(dim1=-2, dim2=-1).abs().mean()
    n = wide.shape[-1]
    eye = torch.eye(n, dtype=wide.dtype, device=wide.device)
    for jitter in JITTERS:
        try:
            values, vectors = torch.linalg.eigh(wide + jitter * scale * eye)
        except LinAlgError:
            continue
        return values.to(matrix.dtype), vectors.to(matrix.dtype)
    raise NonFiniteError(
        f"layer {name}: the eigendecomposition of its {side} factor ({n} x {n}) does not converge, "
        f"even in float64 with a diagonal shift of {JITTERS[-1]:g}; raise update_freq or leave this layer out"
    )


def _factor_dtype(x: Tensor) -> torch.dtype:
    """Return the dtype of factors: half precision is kept in float32."""
    return torch.promote_types(x.dtype, torch.float32)
