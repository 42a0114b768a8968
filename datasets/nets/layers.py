"""Layers of vector fields: each takes the time beside its input, ``layer(t, x)``.

Weights sit in ordinary ``nn.Linear`` and ``nn.Conv2d`` submodules, so that whatever knows those layers (curvature
factors, weight norm, counters of operations) also knows these.
"""

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor, nn


class ConcatLinear(nn.Module):
    """A linear layer that sees the time as one more input, the first: ``W [t; x] + b``."""

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__()
        self.linear = nn.Linear(in_features + 1, out_features)

    def forward(self, t: Tensor, x: Tensor) -> Tensor:
        """Map ``x [..., in_features]`` at time ``t`` (0-d or ``[..., 1]``, of x's type) to ``[..., out_features]``."""
        out: Tensor = self.linear(torch.cat([t.expand(*x.shape[:-1], 1), x], dim=-1))
        return out


class ConcatConv2d(nn.Module):
    """A convolution that keeps height and width and sees the time as one more channel, the first."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int = 3) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels + 1, out_channels, kernel_size, padding="same")

    def forward(self, t: Tensor, x: Tensor) -> Tensor:
        """Map ``x [batch, in_channels, height, width]`` at time ``t``, of x's type, to ``out_channels``.

        ``t`` is 0-d or ``[batch, 1, 1, 1]``. The time channel is padded with zeros like the others, so the layer sees
        where the border is.
        """
        batch, _, height, width = x.shape
        out: Tensor = self.conv(torch.cat([t.expand(batch, 1, height, width), x], dim=1))
        return out


class ConcatSquashLinear(nn.Module):
    """A linear layer whose output is scaled and shifted by the time: ``(W x + b) * sigmoid(w_g t + b_g) + w_b t``.

    Grathwohl et al., "FFJORD: Free-form Continuous Dynamics for Scalable Reversible Generative Models", ICLR 2019.
    """

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__()
        self.linear = nn.Linear(in_features, out_features)
        self.gate = nn.Linear(1, out_features)
        self.shift = nn.Linear(1, out_features, bias=False)

    def forward(self, t: Tensor, x: Tensor, own: Tensor | None = None) -> Tensor:
        """Map ``x [batch, in_features]`` at time ``t`` (0-d or ``[batch, 1]``) to ``[batch, out_features]``.

        ``own [batch, out_features]`` is added before scaling: what a sample has beside the shared weights.
        """
        time = t.reshape(-1, 1)
        linear = self.linear(x) if own is None else self.linear(x) + own
        out: Tensor = linear * torch.sigmoid(self.gate(time)) + self.shift(time)
        return out


class ConcatSquashNet(nn.Module):
    """Concat-squash layers with ``activation`` between them: a velocity ``[batch, dim] -> [batch, dim]``."""

    sample_time = True

    def __init__(self, dim: int, hidden: tuple[int, ...], activation: Callable[[Tensor], Tensor] = torch.tanh) -> None:
        super().__init__()
        self.activation = activation
        widths = (dim, *hidden, dim)
        self.layers = nn.ModuleList(ConcatSquashLinear(a, b) for a, b in pairwise(widths))

    def forward(self, t: Tensor, x: Tensor) -> Tensor:
        """Return the velocity ``[batch, dim]`` of ``x [batch, dim]`` at time ``t`` (0-d)."""
        first, *rest = self.layers
        out: Tensor = first(t, x)
        for layer in rest:
            out = layer(t, self.activation(out))
        return out


def tanh_layers(*widths: int) -> nn.Sequential:
    """Return linear layers from ``widths[0]`` numbers to ``widths[-1]`` with tanh between them."""
    layers: list[nn.Module] = []
    for before, after in pairwise(widths):
        layers += [nn.Linear(before, after), nn.Tanh()]
    return nn.Sequential(*layers[:-1])


class AutonomousNet(nn.Module):
    """Linear layers with tanh between them that do not see the time: a velocity ``[batch, dim] -> [batch, dim]``."""

    sample_time = True

    def __init__(self, dim: int, hidden: tuple[int, ...]) -> None:
        super().__init__()
        self.layers = tanh_layers(dim, *hidden, dim)

    def forward(self, _t: Tensor, y: Tensor) -> Tensor:
        """Return the velocity ``[batch, dim]`` of ``y [batch, dim]``."""
        out: Tensor = self.layers(y)
        return out


class GRUCell(nn.Module):
    """A gated recurrent unit made of two linear layers; PyTorch's ``nn.GRUCell`` with the same weights is the same.

    Cho et al., Learning Phrase Representations using RNN Encoder-Decoder for Statistical Machine Translation, 2014.
    """

    def __init__(self, inputs: int, hidden: int) -> None:
        super().__init__()
        self.of_input = nn.Linear(inputs, 3 * hidden)
        self.of_state = nn.Linear(hidden, 3 * hidden)

    def forward(self, x: Tensor, h: Tensor) -> Tensor:
        """Return the state ``[batch, hidden]`` after the input ``x [batch, inputs]`` in state ``h [batch, hidden]``."""
        x_reset, x_update, x_new = self.of_input(x).chunk(3, dim=-1)
        h_reset, h_update, h_new = self.of_state(h).chunk(3, dim=-1)
        update = torch.sigmoid(x_update + h_update)
        new = torch.tanh(x_new + torch.sigmoid(x_reset + h_reset) * h_new)
        return torch.lerp(new, h, update)
