"""Continuous normalizing flows: a density carried along an ODE.

The state is the tuple ``(z [batch, dim], logp [batch])`` with ``dz/dt = v(t, z)`` and ``dlogp/dt = -tr(dv/dz)``
(Chen et al., "Neural Ordinary Differential Equations", NeurIPS 2018, theorem 1). Each row of ``v`` may depend on its
own row of ``z`` only: the traces of a whole batch are read from one pass.
"""

import math
from typing import Literal

import torch
from torch import Tensor, nn

from odegrad.contracts import Solve
from odegrad.errors import UsageError
from odegrad.states import sent_to

FlowState = tuple[Tensor, Tensor]
"""Positions ``[batch, dim]`` and log-density changes ``[batch]``, in nats."""


def exact_divergence(v: Tensor, z: Tensor, *, create_graph: bool) -> Tensor:
    """Return ``tr(dv/dz)`` of each row, ``[batch]``, by one backward pass for each dimension.

    Parameters
    ----------
    v
        Velocities ``[batch, dim]``, with the graph that leads to ``z``.
    z
        Positions ``[batch, dim]``.
    create_graph
        Whether the result can itself be differentiated.
    """
    diagonal = []
    for i, total in enumerate(v.sum(0)):
        (row,) = torch.autograd.grad(total, z, retain_graph=True, create_graph=create_graph, materialize_grads=True)
        diagonal.append(row[:, i])
    return torch.stack(diagonal).sum(0)


def hutchinson_divergence(v: Tensor, z: Tensor, probe: Tensor, *, create_graph: bool) -> Tensor:
    """Return the estimate ``e^T (dv/dz) e`` of each row's trace, ``[batch]``, by one backward pass.

    Unbiased if ``E[e e^T] = I``: Hutchinson, "A stochastic estimator of the trace of the influence matrix for
    Laplacian smoothing splines", 1990; in flows Grathwohl et al., "FFJORD", ICLR 2019, section 3.1.

    Parameters
    ----------
    v, z
        Velocities with their graph and positions, ``[batch, dim]``.
    probe
        The vectors ``e [batch, dim]``.
    create_graph
        Whether the result can itself be differentiated.
    """
    (product,) = torch.autograd.grad(
        v, z, grad_outputs=probe, retain_graph=True, create_graph=create_graph, materialize_grads=True
    )
    return (product * probe).sum(1)


def draw_probe(z: Tensor, kind: Literal["gaussian", "rademacher"], source: torch.Generator) -> Tensor:
    """Return probe vectors for ``z [batch, dim]``, of its shape, type and device, drawn from a CPU generator.

    Raises
    ------
    UsageError
        If ``kind`` is neither ``gaussian`` nor ``rademacher``.
    """
    if kind == "gaussian":
        return sent_to(z.device, torch.randn(z.shape, dtype=torch.float64, generator=source), z.dtype)
    if kind == "rademacher":
        return sent_to(z.device, torch.randint(0, 2, z.shape, generator=source).mul(2).sub(1), z.dtype)
    raise UsageError(f"kind: expected 'gaussian' or 'rademacher', got {kind!r}; use one of the two")


class FlowField(nn.Module):
    """The vector field of a continuous normalizing flow on states ``(z [batch, dim], logp [batch])``.

    Parameters
    ----------
    velocity
        ``v(t, z)``, a module from ``[batch, dim]`` to ``[batch, dim]``.
    probe
        None for the exact trace, or probe vectors ``[batch, dim]`` for Hutchinson's estimate. A field never draws: one
        probe belongs to one whole solve, otherwise the right-hand side is no function and step control is void.
    """

    moving = 1
    unjudged = 0

    def __init__(self, velocity: nn.Module, probe: Tensor | None = None) -> None:
        super().__init__()
        self.velocity = velocity
        self.probe = probe

    def with_probe(self, probe: Tensor | None) -> "FlowField":
        """Return a field with the same velocity (and parameters) and another ``probe``, for the next solve."""
        return FlowField(self.velocity, probe)

    def forward(self, t: Tensor, state: FlowState) -> FlowState:
        """Return ``(dz/dt [batch, dim], dlogp/dt [batch])`` at time ``t`` (0-d).

        The trace needs a graph of ``v`` even where the caller wants none; then it is made and dropped in here.
        """
        wanted = torch.is_grad_enabled()
        with torch.enable_grad():
            z = state[0] if wanted and state[0].requires_grad else state[0].detach().requires_grad_()
            v: Tensor = self.velocity(t, z)
            if self.probe is None:
                trace = exact_divergence(v, z, create_graph=wanted)
            else:
                trace = hutchinson_divergence(v, z, self.probe, create_graph=wanted)
        return (v, -trace) if wanted else (v.detach(), -trace.detach())


def initial_state(x: Tensor) -> FlowState:
    """Return the state that starts at the points ``x [batch, dim]``: no density change yet."""
    return x, x.new_zeros(len(x))


def standard_normal_log_density(z: Tensor) -> Tensor:
    """Return the log-density ``[batch]`` in nats of a standard normal at ``z [batch, dim]``."""
    return -0.5 * z.square().sum(1) - 0.5 * z.shape[1] * math.log(2.0 * math.pi)


def log_density(solve: Solve, field: nn.Module, x: Tensor, ts: Tensor) -> Tensor:
    """Return the flow's log-density ``[batch]`` in nats at ``x [batch, dim]``.

    The flow carries data at ``ts[0]`` to a standard normal at ``ts[-1]``:
    ``log p(x) = log N(z(ts[-1]); 0, I) - (logp(ts[-1]) - logp(ts[0]))``.

    Parameters
    ----------
    solve
        A gradient method bound to its solver.
    field
        A ``FlowField`` (or one wrapped).
    x
        Points.
    ts
        Times ``[K]``.
    """
    z, change = solve(field, initial_state(x), ts)
    log_p: Tensor = standard_normal_log_density(z[-1]) - change[-1]
    return log_p


def draw_points(solve: Solve, field: nn.Module, z: Tensor, ts: Tensor) -> Tensor:
    """Return the points ``[batch, dim]`` that the flow carries to ``z [batch, dim]``: a sample where z is normal.

    The inverse of the map whose density ``log_density`` tells, by the same equation from ``ts[-1]`` back to ``ts[0]``.
    """
    points: Tensor = solve(field, initial_state(z), ts.flip(0))[0][-1]
    return points
