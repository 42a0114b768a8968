"""Predicted growth of errors in backward solves, from logarithmic norms: bounds to lay beside observed errors.

The costate obeys ``da/dt = -J(z)^T a``. The interpolation method solves ``da^/dt = -J(z^)^T a^`` along an interpolant
``z^`` with the same end value, so ``e = a^ - a`` obeys, backward in time ``s = t1 - t``, ``de/ds = J(z^)^T e +
(J(z^) - J(z))^T a`` with ``e(t1) = 0``. By Dahlquist's estimate (1958; Hairer, Norsett and Wanner, Solving ODEs I,
theorem I.10.6) ``d||e||/ds <= mu(J(z^)^T) ||e|| + ||(J(z^) - J(z))^T a||``; bounds (A) to (D) follow,
derived here for the interpolation method of Daulbaev et al. (NeurIPS 2020). Any norm will do with its own ``mu``; the
Euclidean one has ``mu_2(J^T) = mu_2(J)``.

``M`` times from t0 to t1 in rising or falling order, everything in float64; integrals are taken in ``|dt|`` by the
trapezoid rule, so the times must resolve what they integrate.
"""

import math
from collections.abc import Callable

import numpy as np
import torch
from scipy.fft import dct
from torch import Tensor, nn

from odegrad.contracts import VectorField
from odegrad.diagnosis.jacobian import JacobianRows, jacobian_products
from odegrad.errors import UsageError
from odegrad.states import undisturbed


def accumulated_backward(times: Tensor, mu: Tensor, rate: Tensor) -> Tensor:
    """Return the bound on ``x(t)`` if ``d||x||/ds <= mu ||x|| + rate`` backward in time from ``x(t1) = 0``.

    ``int_t^{t1} exp(int_t^tau mu) rate(tau) dtau``: bound (A) on the costate's error with ``mu = mu(J(z^)^T)`` and
    ``rate = costate_defect(...)``.

    Parameters
    ----------
    times
        ``[M]``.
    mu, rate
        ``[M, batch]``, in 1/time and in the units of ``x`` over time.

    Returns
    -------
    Tensor
        ``[M, batch]``; the last row is zero.
    """
    steps = times.diff().abs()
    rows = [torch.zeros_like(rate[-1])]
    for k in range(len(steps) - 1, -1, -1):
        growth = torch.exp(0.5 * steps[k] * (mu[k] + mu[k + 1]))
        rows.append(growth * rows[-1] + 0.5 * steps[k] * (rate[k] + growth * rate[k + 1]))
    return torch.stack(rows[::-1])


def costate_defect(field: VectorField, times: Tensor, states: Tensor, near: Tensor, costates: Tensor) -> Tensor:
    """Return ``||(J(z^) - J(z))^T a||_2`` in bound (A), ``[M, batch]``.

    Parameters
    ----------
    field
        The dynamics.
    times
        ``[M]``.
    states, near, costates
        ``z``, ``z^`` and ``a``, ``[M, batch, ...]``.
    """
    rows = []
    for t, z, z_near, a in zip(times, states, near, costates, strict=True):
        flat = a.reshape(len(a), -1)
        with jacobian_products(field, t, z) as at, jacobian_products(field, t, z_near) as beside:
            rows.append((beside.pull(flat) - at.pull(flat)).norm(dim=1))
    return torch.stack(rows)


def costate_sandwich(times: Tensor, mu: Tensor, mu_minus: Tensor, end: Tensor) -> tuple[Tensor, Tensor]:
    """Return bound (B): ``exp(-int mu(-J^T)) ||a(t1)|| <= ||a(tau)|| <= exp(int mu(J^T)) ||a(t1)||``.

    Integrals are from ``tau`` to ``t1``.

    Parameters
    ----------
    times
        ``[M]``.
    mu, mu_minus
        ``mu(J^T)`` and ``mu(-J^T) [M, batch]``.
    end
        ``||a(t1)|| [batch]``.

    Returns
    -------
    tuple
        Lower and upper bound at every time, ``[M, batch]`` each.
    """
    return torch.exp(-_integral_to_end(times, mu_minus)) * end, torch.exp(_integral_to_end(times, mu)) * end


def lipschitz_costate_bound(lipschitz: Tensor, eps: Tensor, duration: float, mu_max: Tensor, end: Tensor) -> Tensor:
    """Return bound (C) on ``||e(t0)||``, ``[batch]``: ``L_J eps T exp(mu_max T) ||a(t1)||``.

    Parameters
    ----------
    lipschitz
        ``L_J`` with ``||J(z^) - J(z)|| <= L_J ||z^ - z||``, ``[batch]``.
    eps
        ``max_t ||z^ - z|| [batch]``.
    duration
        ``T = |t1 - t0|``.
    mu_max
        The largest ``mu`` of ``J(z)^T`` and ``J(z^)^T`` over the times, ``[batch]``.
    end
        ``||a(t1)|| [batch]``.
    """
    return lipschitz * eps * duration * torch.exp(mu_max * duration) * end


def lipschitz_of_jacobian(field: VectorField, times: Tensor, states: Tensor, near: Tensor) -> Tensor:
    """Return the ``L_J [batch]`` between ``z`` and ``z^ [M, batch, ...]``: ``max ||dJ||_2 / ||dz||``."""
    rows = JacobianRows(field)
    ratios = []
    for t, z, z_near in zip(times, states, near, strict=True):
        change = torch.linalg.matrix_norm(rows(t, z_near).values - rows(t, z).values, ord=2)
        ratios.append(_ratio(change, z_near - z))
    return torch.stack(ratios).amax(0)


def parameter_gradient_bound(
    times: Tensor, error: Tensor, norms: Tensor, costate: Tensor, lipschitz: Tensor, eps: Tensor
) -> Tensor:
    """Return bound (D) on ``||g^ - g||`` for the gradient by the parameters, summed over samples, 0-d.

    ``int (||e|| ||f_theta(z^)|| + ||a|| L_theta eps) dt``.

    Parameters
    ----------
    times
        ``[M]``.
    error
        ``||e||`` or a bound on it, ``[M, batch]``.
    norms
        ``||f_theta(z^)||_2 [M, batch]``.
    costate
        ``||a|| [M, batch]``.
    lipschitz
        ``L_theta`` with ``||f_theta(z^) - f_theta(z)|| <= L_theta ||z^ - z||``, ``[batch]``.
    eps
        ``max_t ||z^ - z|| [batch]``.
    """
    return torch.trapezoid(error * norms + costate * lipschitz * eps, (times - times[0]).abs(), dim=0).sum()


def parameter_sensitivity(field: nn.Module, times: Tensor, states: Tensor, near: Tensor) -> tuple[Tensor, Tensor]:
    """Return ``||f_theta(z^)||_2 [M, batch]`` and the ``L_theta [batch]`` between ``z`` and ``z^ [M, batch, ...]``.

    One vector-Jacobian product for each sample and number of its state: for small states.
    """
    norms, ratios = [], []
    for t, z, z_near in zip(times, states, near, strict=True):
        beside = _parameter_jacobian(field, t, z_near)
        norms.append(torch.linalg.matrix_norm(beside, ord=2))
        ratios.append(_ratio(torch.linalg.matrix_norm(beside - _parameter_jacobian(field, t, z), ord=2), z_near - z))
    return torch.stack(norms), torch.stack(ratios).amax(0)


def bernstein_bound(largest: float, rho: float, num_nodes: int) -> float:
    """Return bound (E), ``4 M rho^-(N-1) / (rho - 1)``, on the error of interpolation in N Chebyshev extrema.

    For a function that is analytic with ``|z| <= M`` in the Bernstein ellipse ``rho > 1`` (Trefethen, Approximation
    Theory and Approximation Practice, 2013, theorem 8.2).

    Raises
    ------
    UsageError
        If ``rho`` is not above 1 or there are fewer than two nodes.
    """
    if not (rho > 1 and num_nodes >= 2):
        raise UsageError(
            f"rho, num_nodes: expected rho > 1 and at least 2 nodes, got {rho!r} and {num_nodes!r}; without an ellipse "
            "of analyticity the error falls only algebraically and there is no such bound"
        )
    return 4 * largest * rho ** -(num_nodes - 1) / (rho - 1)


def interpolation_error_bound(
    trajectory: Callable[[np.ndarray], np.ndarray], t0: float, t1: float, num_nodes: int, samples: int = 64
) -> np.ndarray:
    """Return bound (E) for each component of a trajectory, ``[d]``, with the ellipse read off its own coefficients.

    The theorem's proof uses of the ellipse only that Chebyshev coefficients obey ``|c_k| <= 2 M rho^-k``. For each of
    a grid of ``rho`` the smallest such ``M`` is found from the ``samples`` first coefficients, and the least bound is
    returned. Coefficients at the level of rounding count as zero, so the bound ends there too.

    Parameters
    ----------
    trajectory
        Times ``[m]`` to values ``[m, d]``, in float64.
    t0, t1
        The interval.
    num_nodes
        Nodes N of the second kind.
    samples
        Degree to which the trajectory is resolved, at least ``4 N`` to be of use.
    """
    x = np.cos(np.arange(samples + 1) * math.pi / samples)
    values = trajectory(0.5 * (t0 + t1) + 0.5 * (t1 - t0) * x)
    c = np.abs(dct(values, type=1, axis=0)) / samples
    c[[0, -1]] /= 2
    rounding = 4 * np.finfo(np.float64).eps * np.abs(values).max(0)
    c = np.where(c > rounding, c, 0.0)
    k = np.arange(samples + 1)[:, None]
    bounds = [
        np.array([bernstein_bound(m, rho, num_nodes) for m in (c * rho**k).max(0) / 2])
        for rho in 1 + np.geomspace(1e-2, 1e2, 200)
    ]
    return np.asarray(np.min(bounds, axis=0) + rounding * num_nodes)


def adjoint_growth(times: Tensor, mu_minus: Tensor) -> Tensor:
    """Return ``exp(int mu(-J)) [batch]``: by how much solving ``z`` back from t1 to t0 amplifies an error at t1.

    Backward in time the error ``d`` obeys ``dd/ds = -J d``, so ``||d(t0)|| <= exp(int mu(-J)) ||d(t1)||``.
    """
    return torch.exp(_integral_to_end(times, mu_minus)[0])


def adjoint_relative_error(times: Tensor, mu_minus: Tensor, tolerance: float) -> Tensor:
    """Return the predicted relative error of the adjoint method's gradient, ``[batch]``: ``tolerance`` times growth.

    The backward solve makes relative errors of the tolerance everywhere in ``z``; that made first grows most, and the
    gradient is wrong in proportion to ``z``. The exponent is the law; the factor before it depends on how much of the
    error lies along the growing direction, so it is an estimate from above by an order of magnitude or more.
    """
    return tolerance * adjoint_growth(times, mu_minus)


def _integral_to_end(times: Tensor, values: Tensor) -> Tensor:
    """Return ``int_t^{t1} values |dt| [M, batch]``."""
    pieces = 0.5 * times.diff().abs()[:, None] * (values[1:] + values[:-1])
    return torch.cat([pieces.flip(0).cumsum(0).flip(0), torch.zeros_like(values[:1])])


def _ratio(change: Tensor, step: Tensor) -> Tensor:
    """Return ``change / ||step||``, ``[batch]``; where the step is lost in rounding, zero."""
    size = step.reshape(len(step), -1).norm(dim=1)
    return torch.where(size > 1e-12, change / size.clamp_min(1e-12), 0.0)


def _parameter_jacobian(field: nn.Module, t: Tensor, z: Tensor) -> Tensor:
    """Return ``df/dtheta`` of every sample, ``[batch, n, P]``."""
    parameters = [p for p in field.parameters() if p.requires_grad]
    with undisturbed(z.device, field), torch.enable_grad():
        dy = field(t, z).reshape(len(z), -1)
        basis = torch.eye(dy.numel(), dtype=dy.dtype, device=dy.device).reshape(-1, *dy.shape)
        rows = torch.autograd.grad(dy, parameters, basis, is_grads_batched=True, materialize_grads=True)
    return torch.cat([r.reshape(len(basis), -1) for r in rows], dim=1).reshape(*dy.shape, -1)
