"""Logarithmic norms and other measures of growth of matrices ``[..., n, n]``.

``mu(A) = lim_{h -> 0+} (||I + hA|| - 1) / h`` is the growth rate of differences between solutions of ``y' = A y``
(Dahlquist 1958; Hairer, Norsett and Wanner, Solving ODEs I, I.10). All are in units of the matrix: 1/time.
"""

import torch
from torch import Tensor


def mu_1(a: Tensor) -> Tensor:
    """Return ``max_j (a_jj + sum_{i != j} |a_ij|)`` of ``a [..., n, n]``, ``[...]``."""
    diagonal = a.diagonal(dim1=-2, dim2=-1)
    return (a.abs().sum(-2) - diagonal.abs() + diagonal).amax(-1)


def mu_2(a: Tensor) -> Tensor:
    """Return the largest eigenvalue of the symmetric part of ``a [..., n, n]``, ``[...]``."""
    return symmetric_eigenvalues(a)[..., -1]


def mu_inf(a: Tensor) -> Tensor:
    """Return ``max_i (a_ii + sum_{j != i} |a_ij|)`` of ``a [..., n, n]``, ``[...]``."""
    return mu_1(a.mT)


def symmetric_eigenvalues(a: Tensor) -> Tensor:
    """Return the eigenvalues of ``(a + a^T) / 2`` in rising order, ``[..., n]``: from ``-mu_2(-a)`` to ``mu_2(a)``."""
    found: Tensor = torch.linalg.eigvalsh((a + a.mT) / 2)
    return found


def spectral_norm(a: Tensor) -> Tensor:
    """Return the largest singular value of ``a [..., n, n]``, ``[...]``."""
    found: Tensor = torch.linalg.matrix_norm(a, ord=2)
    return found


def spectral_abscissa(a: Tensor) -> Tensor:
    """Return the largest real part of an eigenvalue of ``a [..., n, n]``, ``[...]``."""
    return abscissa_of(torch.linalg.eigvals(a))


def stiffness_ratio(a: Tensor) -> Tensor:
    """Return ``max |Re lambda| / min |Re lambda|`` over the eigenvalues of ``a [..., n, n]`` that decay, ``[...]``.

    Lambert (Numerical Methods for Ordinary Differential Systems, 1991, section 6.2) defines it where every eigenvalue
    has a negative real part. A learned field seldom is such, so those that do not decay are left out: growth is what
    ``mu_2`` tells. A single decaying eigenvalue gives 1; none gives NaN, for then no decay rates are there to compare.
    """
    return stiffness_ratio_of(torch.linalg.eigvals(a))


def abscissa_of(eigenvalues: Tensor) -> Tensor:
    """Return the largest real part of ``eigenvalues [..., n]``, ``[...]``."""
    return eigenvalues.real.amax(-1)


def stiffness_ratio_of(eigenvalues: Tensor) -> Tensor:
    """Return the stiffness ratio of ``eigenvalues [..., n]``, ``[...]``: see ``stiffness_ratio``.

    A real part within rounding of zero (``n eps max |lambda|``) is no decay: it would make the ratio noise.
    """
    rate = -eigenvalues.real
    rounding = eigenvalues.shape[-1] * torch.finfo(rate.dtype).eps * eigenvalues.abs().amax(-1, keepdim=True)
    decays = rate > rounding
    fastest = torch.where(decays, rate, -torch.inf).amax(-1)
    slowest = torch.where(decays, rate, torch.inf).amin(-1)
    return torch.where(decays.any(-1), fastest / slowest, torch.nan)
