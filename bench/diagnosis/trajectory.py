"""Logarithmic norms of a vector field's Jacobian along a trajectory, for every time and sample."""

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

import torch
from torch import Tensor

from odegrad.contracts import State, VectorField
from odegrad.diagnosis.jacobian import JacobianProducts, JacobianRows, jacobian_products
from odegrad.diagnosis.lanczos import Extremes, Product, extreme_eigenvalues
from odegrad.diagnosis.lognorm import (
    abscissa_of,
    mu_1,
    mu_2,
    mu_inf,
    spectral_norm,
    stiffness_ratio_of,
    symmetric_eigenvalues,
)
from odegrad.errors import UnknownNameError, UsageError
from odegrad.states import mapped, parts

DENSE_BELOW = 128
"""Up to this many numbers per sample the Jacobian is formed; above, only its products are taken."""
DENSE_BYTES = 1 << 30
"""No more memory than this for one time's Jacobians; above, only products are taken."""

INTEGRALS = (
    "mu_2",
    "mu_2_minus",
    "norm",
    "mu_1",
    "mu_inf",
    "mu_1_minus",
    "mu_inf_minus",
    "spectral_abscissa",
    "stiffness_ratio",
)
"""The quantities of ``TrajectoryNorms`` that have one number for each time and sample."""

_log = logging.getLogger("odegrad")


@dataclass(frozen=True)
class TrajectoryNorms:
    """Measures of growth of ``J = df/dy`` at times ``[K]`` and samples: float64 on the CPU, in 1/time.

    What needs the whole matrix is None where only products with it were taken.
    """

    times: Tensor
    """``[K]``."""
    mu_2: Tensor
    """``mu_2(J) [K, batch]``: how fast differences between solutions grow at most, forward in time."""
    mu_2_minus: Tensor
    """``mu_2(-J) [K, batch]``: the same, backward in time."""
    norm: Tensor | None
    """``||J||_2 [K, batch]``; None if it was not asked for."""
    dense: bool
    """Whether Jacobians were formed."""
    by: str
    """What formed Jacobians or products: ``torch.func`` or ``autograd``."""
    products: int
    """Pairs of one Jacobian-vector and one vector-Jacobian product in all, each for the whole batch; 0 if dense."""
    converged: bool
    """Whether every iteration met its tolerance; always so if dense."""
    mu_1: Tensor | None = None
    mu_inf: Tensor | None = None
    mu_1_minus: Tensor | None = None
    """``mu_1(-J) [K, batch]``."""
    mu_inf_minus: Tensor | None = None
    spectral_abscissa: Tensor | None = None
    """Largest real part of an eigenvalue, ``[K, batch]``."""
    stiffness_ratio: Tensor | None = None
    """``[K, batch]``; NaN where no eigenvalue decays (see ``lognorm.stiffness_ratio``)."""
    eigenvalues: Tensor | None = None
    """Of ``J``, complex, ``[K, batch, n]``."""
    symmetric_eigenvalues: Tensor | None = None
    """Of ``(J + J^T) / 2``, rising, ``[K, batch, n]``."""

    def integral(self, name: str) -> Tensor:
        """Return the integral over ``|dt|`` of one of ``INTEGRALS``, ``[batch]``, by the trapezoid rule.

        Raises
        ------
        UnknownNameError
            If there is no such quantity.
        UsageError
            If the quantity was not computed, or there are fewer than two times.
        """
        if name not in INTEGRALS:
            raise UnknownNameError("quantity", name, INTEGRALS)
        values: Tensor | None = getattr(self, name)
        if values is None:
            raise UsageError(
                f"{name}: was not computed, since only products with the Jacobian were taken; pass a larger dense_below"
                " to log_norms, and for the norm with_norm=True"
            )
        if len(self.times) < 2:
            raise UsageError("times: an integral needs at least two, got one; pass more times to log_norms")
        return torch.trapezoid(values, (self.times - self.times[0]).abs(), dim=0)

    def largest(self) -> float:
        """Return the largest ``mu_2(J)`` over times and samples."""
        return float(self.mu_2.amax())


def log_norms(
    field: VectorField,
    ts: Tensor,
    ys: State,
    *,
    tolerance: float = 1e-6,
    dense_below: int = DENSE_BELOW,
    with_norm: bool = True,
) -> TrajectoryNorms:
    """Return the measures of growth of ``df/dy`` along a trajectory; the field is left as it was.

    Parameters
    ----------
    field
        The dynamics; samples must not depend on each other.
    ts
        Times ``[K]``, monotone.
    ys
        States ``[K, batch, ...]`` or a tuple of such.
    tolerance
        Relative accuracy of what is found from products (see ``extreme_eigenvalues``).
    dense_below
        Up to this many numbers per sample the Jacobian is formed, if ``DENSE_BYTES`` allow.
    with_norm
        Whether ``||J||_2`` is wanted, for which products cost half as much again.

    Raises
    ------
    NonFiniteError
        If a Jacobian is not finite; the message names time and sample.
    UsageError
        If times and states do not fit.
    """
    if _is_dense(ts, ys, dense_below):
        return _dense(field, ts, ys)
    symmetric: list[Extremes] = []
    gram: list[Extremes] = []
    for t, y in _points(ts, ys):
        with jacobian_products(field, t, y) as products:
            symmetric.append(_extremes(products, products.symmetric, tolerance, symmetric))
            if with_norm:
                gram.append(_extremes(products, products.gram, tolerance, gram, smallest=False))
    return TrajectoryNorms(
        times=ts.detach().double().cpu(),
        mu_2=torch.stack([s.largest for s in symmetric]),
        mu_2_minus=-torch.stack([s.smallest for s in symmetric]),
        norm=torch.stack([g.largest for g in gram]).clamp_min(0.0).sqrt() if with_norm else None,
        dense=False,
        by="autograd",
        products=sum(e.products for e in symmetric + gram),
        converged=_told_if_not([*symmetric, *gram]),
    )


def max_log_norm(field: VectorField, ts: Tensor, ys: State, *, tolerance: float = 1e-6) -> float:
    """Return the largest ``mu_2`` of ``df/dy`` over times ``ts [K]`` and samples of ``ys [K, batch, ...]``, in 1/time.

    The same as ``log_norms(...).largest()``, without what that does not need; it raises what that raises.
    """
    if _is_dense(ts, ys, DENSE_BELOW):
        rows = JacobianRows(field)
        return max(float(mu_2(rows(t, y).values.double()).amax()) for t, y in _points(ts, ys))
    found: list[Extremes] = []
    for t, y in _points(ts, ys):
        with jacobian_products(field, t, y) as products:
            found.append(_extremes(products, products.symmetric, tolerance, found, smallest=False, all_samples=False))
    _told_if_not(found)
    return max(float(e.largest.amax()) for e in found)


def _dense(field: VectorField, ts: Tensor, ys: State) -> TrajectoryNorms:
    rows = JacobianRows(field)
    columns: dict[str, list[Tensor]] = {}
    for t, y in _points(ts, ys):
        j = rows(t, y).values.double().cpu()  # LAPACK: batches of small general matrices are slow or missing on GPUs
        eigenvalues, symmetric = torch.linalg.eigvals(j), symmetric_eigenvalues(j)
        found = {
            "mu_2": symmetric[..., -1],
            "mu_2_minus": -symmetric[..., 0],
            "norm": spectral_norm(j),
            "mu_1": mu_1(j),
            "mu_inf": mu_inf(j),
            "mu_1_minus": mu_1(-j),
            "mu_inf_minus": mu_inf(-j),
            "spectral_abscissa": abscissa_of(eigenvalues),
            "stiffness_ratio": stiffness_ratio_of(eigenvalues),
            "eigenvalues": eigenvalues,
            "symmetric_eigenvalues": symmetric,
        }
        for name, value in found.items():
            columns.setdefault(name, []).append(value)
    stacked = {name: torch.stack(values) for name, values in columns.items()}
    times = ts.detach().double().cpu()
    return TrajectoryNorms(times=times, dense=True, by=rows.by, products=0, converged=True, **stacked)


def _extremes(
    products: JacobianProducts, product: Product, tolerance: float, before: list[Extremes], **wanted: bool
) -> Extremes:
    """Return the ends of the spectra; the iteration starts from where that of the time before ended."""
    batch, n = products.shape
    start = before[-1].start if before else None
    return extreme_eigenvalues(product, (batch, n), tolerance=tolerance, device=products.device, start=start, **wanted)


def _told_if_not(found: list[Extremes]) -> bool:
    """Return whether all converged, and warn if not."""
    if all(bool(e.converged.all()) for e in found):
        return True
    _log.warning("logarithmic norm: the iteration met its limit of products before its tolerance; ask for less")
    return False


def _is_dense(ts: Tensor, ys: Any, dense_below: int) -> bool:
    """Return whether Jacobians are small enough to be formed; check the shapes.

    Raises
    ------
    UsageError
        If times and states do not fit.
    """
    along = parts(ys)
    if ts.ndim != 1 or not len(ts) or any(p.ndim < 2 or len(p) != len(ts) for p in along):
        raise UsageError(
            f"ys: expected states [K, batch, ...] at times ts [K], K >= 1, got {[tuple(p.shape) for p in along]} and "
            f"{tuple(ts.shape)}; pass the solution at the times ts"
        )
    n, batch = sum(p[0, 0].numel() for p in along), along[0].shape[1]
    return bool(n <= dense_below and 8 * batch * n * n <= DENSE_BYTES)


def _points(ts: Tensor, ys: State) -> Iterator[tuple[Tensor, State]]:
    """Yield each time with its state."""
    for k, t in enumerate(ts.to(parts(ys)[0].device)):
        yield t, mapped(ys, itemgetter(k))
