"""Logarithmic norms of matrices, and the largest one of a vector field's Jacobian along a trajectory.

``mu(A) = lim_{h -> 0+} (||I + hA|| - 1) / h`` is the growth rate of differences between solutions (Dahlquist 1958;
Hairer, Norsett and Wanner, Solving ODEs I, I.10). A positive ``mu_2(-J)`` bounds how fast errors of a backward solve
grow.
"""

from typing import Any

import numpy as np
import torch
from scipy.sparse.linalg import LinearOperator, eigsh
from torch import Tensor

from odegrad.contracts import State, VectorField
from odegrad.errors import NonFiniteError

DENSE_BELOW = 128
"""Up to this many numbers per sample the Jacobian is formed; above, only its products are taken."""


def mu_1(a: Tensor) -> Tensor:
    """Return ``max_j (a_jj + sum_{i != j} |a_ij|)`` of ``a [..., n, n]``, ``[...]``."""
    diagonal = a.diagonal(dim1=-2, dim2=-1)
    return (a.abs().sum(-2) - diagonal.abs() + diagonal).amax(-1)


def mu_2(a: Tensor) -> Tensor:
    """Return the largest eigenvalue of the symmetric part of ``a [..., n, n]``, ``[...]``."""
    eigenvalues: Tensor = torch.linalg.eigvalsh((a + a.mT) / 2)
    return eigenvalues[..., -1]


def mu_inf(a: Tensor) -> Tensor:
    """Return ``max_i (a_ii + sum_{j != i} |a_ij|)`` of ``a [..., n, n]``, ``[...]``."""
    return mu_1(a.mT)


def dense_jacobian(field: VectorField, t: Tensor, y: State) -> Tensor:
    """Return the Jacobian ``df/dy`` of every sample, ``[batch, n, n]``, ``n`` numbers per sample over all parts.

    The samples of a batch must not depend on each other: row ``i`` comes from one vector-Jacobian product for all.
    """
    parts = tuple(p.detach().requires_grad_() for p in ((y,) if isinstance(y, Tensor) else y))
    with torch.enable_grad():
        dy = field(t, parts[0] if isinstance(y, Tensor) else parts)
        flat = torch.cat([p.reshape(len(p), -1) for p in ((dy,) if isinstance(dy, Tensor) else dy)], dim=1)
        rows = [_pull(flat[:, i].sum(), parts) for i in range(flat.shape[1])]
    return torch.stack(rows, dim=1)


def max_log_norm(field: VectorField, ts: Tensor, ys: State) -> float:
    """Return the largest ``mu_2`` of ``df/dy`` over times ``ts [K]`` and samples of ``ys [K, batch, ...]``, in 1/time.

    Dense for few numbers per sample, and otherwise by Lanczos iteration on the whole batch: its Jacobian is block
    diagonal, so its largest eigenvalue is the largest over samples.

    Raises
    ------
    NonFiniteError
        If a Jacobian is not finite; the message names the time.
    """
    states = (ys,) if isinstance(ys, Tensor) else ys
    per_sample = sum(p[0, 0].numel() for p in states)
    largest = -np.inf
    for k, t in enumerate(ts):
        y = ys[k] if isinstance(ys, Tensor) else tuple(p[k] for p in ys)
        if per_sample <= DENSE_BELOW:
            value = float(mu_2(_finite(dense_jacobian(field, t, y), t)).amax())
        else:
            value = lanczos_mu_2(field, t, y)
        largest = max(largest, value)
    return float(largest)


def lanczos_mu_2(field: VectorField, t: Tensor, y: State, tolerance: float = 1e-8) -> float:
    """Return ``mu_2`` of the whole batch's Jacobian at ``t``, from one JVP and one VJP per Lanczos step (ARPACK).

    Raises
    ------
    NonFiniteError
        If a product is not finite.
    """
    parts = tuple(p.detach().requires_grad_() for p in ((y,) if isinstance(y, Tensor) else y))
    with torch.enable_grad():
        dy = field(t, parts[0] if isinstance(y, Tensor) else parts)
        outputs = (dy,) if isinstance(dy, Tensor) else tuple(dy)
        seeds = tuple(torch.zeros_like(o, requires_grad=True) for o in outputs)
        pulled = torch.autograd.grad(outputs, parts, seeds, create_graph=True, materialize_grads=True)

    def symmetric_product(v: Any) -> Any:
        pieces = torch.split(torch.as_tensor(v.reshape(-1), dtype=parts[0].dtype), [p.numel() for p in parts])
        vector = tuple(x.view_as(p).to(p.device) for x, p in zip(pieces, parts, strict=True))
        back = torch.autograd.grad(outputs, parts, vector, retain_graph=True, materialize_grads=True)
        forth = torch.autograd.grad(pulled, seeds, vector, retain_graph=True, materialize_grads=True)
        total = torch.cat([((a + b) / 2).reshape(-1) for a, b in zip(back, forth, strict=True)])
        return _finite(total, t).double().cpu().numpy()

    size = sum(p.numel() for p in parts)
    start = np.random.default_rng(0).standard_normal(size)
    operator = LinearOperator((size, size), matvec=symmetric_product, dtype=np.float64)
    (value,) = eigsh(operator, k=1, which="LA", v0=start, tol=tolerance, return_eigenvectors=False)
    return float(value)


def _pull(total: Tensor, parts: tuple[Tensor, ...]) -> Tensor:
    """Return the gradient of ``total`` per sample, ``[batch, n]``."""
    grads = torch.autograd.grad(total, parts, retain_graph=True, materialize_grads=True)
    return torch.cat([g.reshape(len(g), -1) for g in grads], dim=1)


def _finite(x: Tensor, t: Tensor) -> Tensor:
    if not bool(torch.isfinite(x).all()):
        raise NonFiniteError(f"Jacobian: not finite at t = {float(t):g}; check the parameters and the state for NaN")
    return x
