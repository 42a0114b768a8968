"""A continuous flow whose weights are the sample's own: a shared matrix plus one of low rank from an encoder.

Grathwohl et al., "FFJORD", ICLR 2019, section 4.3. The matrices of low rank are part of the state, at rest, so that
every gradient method returns their gradient.
"""

import copy
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from odegrad.datasets.nets.flow import hutchinson_divergence
from odegrad.datasets.nets.layers import ConcatSquashLinear
from odegrad.errors import UsageError

AmortisedState = tuple[Tensor, Tensor, Tensor]
"""Positions ``[batch, dim]``, log-density changes ``[batch]`` in nats, and matrices of low rank ``[batch, m]``."""


class AmortisedFlowField(nn.Module):
    """The vector field of an amortised flow, its trace by Hutchinson's estimate with a frozen probe.

    Each layer maps ``x`` to ``(W x + U V^T x / rank + b) * sigmoid(w_g t + b_g) + w_b t``, with a sample's own U and V.

    Parameters
    ----------
    dim
        Of the positions.
    hidden
        Widths of the hidden layers.
    rank
        Columns of each U and V.
    activation
        Between the layers; smooth.

    Raises
    ------
    UsageError
        From a call without a probe: a field never draws, ``with_probe`` gives it one for a whole solve.
    """

    moving = 1
    unjudged = 0
    probe: Tensor | None

    def __init__(
        self, dim: int, hidden: Sequence[int], rank: int, activation: Callable[[Tensor], Tensor] = torch.tanh
    ) -> None:
        super().__init__()
        self.activation = activation
        self.widths = (dim, *hidden, dim)
        self.rank = rank
        self.layers = nn.ModuleList(ConcatSquashLinear(a, b) for a, b in pairwise(self.widths))
        self.probe = None

    def with_probe(self, probe: Tensor) -> "AmortisedFlowField":
        """Return a field with the same layers and another ``probe [batch, dim]``, for the next solve."""
        other = copy.copy(self)
        other.probe = probe
        return other

    @property
    def amortised_size(self) -> int:
        """Return the numbers of a sample's matrices of low rank."""
        return sum((a + b) * self.rank for a, b in pairwise(self.widths))

    def velocity(self, t: Tensor, z: Tensor, low_rank: Tensor) -> Tensor:
        """Return ``dz/dt [batch, dim]`` at ``z [batch, dim]`` with matrices ``low_rank [batch, m]``."""
        parts = torch.split(low_rank, [n * self.rank for pair in pairwise(self.widths) for n in pair], dim=1)
        out = z
        for i, layer in enumerate(self.layers):
            v = parts[2 * i].reshape(len(z), self.widths[i], self.rank)
            u = parts[2 * i + 1].reshape(len(z), self.widths[i + 1], self.rank)
            x = out if i == 0 else self.activation(out)
            own = torch.bmm(u, torch.bmm(v.transpose(1, 2), x[..., None]))[..., 0] / self.rank
            out = layer(t, x, own)
        return out

    def forward(self, t: Tensor, state: AmortisedState) -> AmortisedState:
        """Return the derivative of the state at time ``t`` (0-d); the matrices are at rest."""
        if self.probe is None:
            raise UsageError("probe: expected vectors for the trace, got none; call with_probe before a solve")
        wanted = torch.is_grad_enabled()
        with torch.enable_grad():
            z = state[0] if wanted and state[0].requires_grad else state[0].detach().requires_grad_()
            velocity = self.velocity(t, z, state[2])
            trace = hutchinson_divergence(velocity, z, self.probe, create_graph=wanted)
        at_rest = torch.zeros_like(state[2])
        return (velocity, -trace, at_rest) if wanted else (velocity.detach(), -trace.detach(), at_rest)
