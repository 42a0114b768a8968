"""Logarithmic norms of matrices, and the largest one of a vector field's Jacobian along a trajectory.

``mu(A) = lim_{h -> 0+} (||I + hA|| - 1) / h`` is the growth rate of differences between solutions (Dahlquist 1958;
Hairer, Norsett and Wanner, Solving ODEs I, I.10). A positive ``mu_2(-J)`` bounds how fast errors of a backward solve
grow.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from scipy.sparse.linalg import LinearOperator, eigsh
from torch import Tensor, nn

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
    with _undisturbed(field, t.device):
        flat, dy = _with_graph(field, t, y)
        rows = [torch.autograd.grad(column.sum(), flat, retain_graph=True)[0] for column in dy.unbind(1)]
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
    with _undisturbed(field, t.device):
        flat, dy = _with_graph(field, t, y)
        seed = torch.zeros_like(dy, requires_grad=True)
        (pulled,) = torch.autograd.grad(dy, flat, seed, create_graph=True)

        def symmetric_part(v: Any) -> Any:
            vector = torch.as_tensor(v, dtype=dy.dtype, device=dy.device).view_as(dy)
            (back,) = torch.autograd.grad(dy, flat, vector, retain_graph=True)
            (forth,) = torch.autograd.grad(pulled, seed, vector, retain_graph=True)
            return _finite((back + forth) / 2, t).reshape(-1).double().cpu().numpy()

        start = np.random.default_rng(0).standard_normal(dy.numel())
        # mu(A + cI) = mu(A) + c: the shift keeps ARPACK off the zero matrix (a field that starts at zero), and makes
        # its tolerance relative to the size of A where mu itself is near zero.
        shift = 1.0 + np.linalg.norm(symmetric_part(start)) / np.linalg.norm(start)
        operator = LinearOperator(
            (start.size, start.size), matvec=lambda v: symmetric_part(v) + shift * v.reshape(-1), dtype=np.float64
        )
        (value,) = eigsh(operator, k=1, which="LA", v0=start, tol=tolerance, return_eigenvectors=False)
    return float(value - shift)


def _with_graph(field: VectorField, t: Tensor, y: State) -> tuple[Tensor, Tensor]:
    """Return ``y`` as a leaf and ``f(t, y)`` with its graph, ``[batch, n]`` each, the parts of a tuple side by side."""
    parts = (y,) if isinstance(y, Tensor) else y
    flat = torch.cat([p.detach().reshape(len(p), -1) for p in parts], dim=1).requires_grad_()
    with torch.enable_grad():
        pieces = torch.split(flat, [p[0].numel() for p in parts], dim=1)
        state = tuple(piece.reshape(p.shape) for piece, p in zip(pieces, parts, strict=True))
        dy = field(t, state[0] if isinstance(y, Tensor) else state)
        out = torch.cat([p.reshape(len(p), -1) for p in ((dy,) if isinstance(dy, Tensor) else dy)], dim=1)
        return flat, out + 0 * flat  # connected even where f ignores y; adds zeros to the Jacobian


@contextmanager
def _undisturbed(field: VectorField, device: torch.device) -> Iterator[None]:
    """Put buffers (running statistics) and random number generators back at the end."""
    buffers = list(field.buffers()) if isinstance(field, nn.Module) else []
    values = [b.detach().clone() for b in buffers]
    try:
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            yield
    finally:
        with torch.no_grad():
            for buffer, value in zip(buffers, values, strict=True):
                buffer.copy_(value)


def _finite(x: Tensor, t: Tensor) -> Tensor:
    if not bool(torch.isfinite(x).all()):
        raise NonFiniteError(f"Jacobian: not finite at t = {float(t):g}; check the parameters and the state for NaN")
    return x
