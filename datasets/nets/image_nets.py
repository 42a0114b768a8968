"""The nets of the image tasks: that of the SNOpt paper, and ResNet4 of the interpolation paper."""

from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from odegrad.contracts import Solve
from odegrad.datasets.nets.layers import ConcatConv2d, ConcatLinear
from odegrad.states import HostNumber

CLASSES = 10


class ConvField(nn.Module):
    """Two 3x3 convolutions with the time as a channel; tanh between them is smooth, so that high orders hold."""

    sample_time = True

    def __init__(self, channels: int, activation: Callable[[Tensor], Tensor] = torch.tanh) -> None:
        super().__init__()
        self.activation = activation
        self.first = ConcatConv2d(channels, channels)
        self.second = ConcatConv2d(channels, channels)

    def forward(self, t: Tensor, z: Tensor) -> Tensor:
        """Return ``dz/dt [batch, channels, height, width]`` at time ``t`` (0-d)."""
        out: Tensor = self.second(t, self.activation(self.first(t, z)))
        return out


class LinearField(nn.Module):
    """Two linear layers with the time as one more input and tanh between them."""

    sample_time = True

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = ConcatLinear(width, width)
        self.second = ConcatLinear(width, width)

    def forward(self, t: Tensor, z: Tensor) -> Tensor:
        """Return ``dz/dt [batch, width]`` at time ``t`` (0-d)."""
        out: Tensor = self.second(t, torch.tanh(self.first(t, z)))
        return out


class ODENet(nn.Module):
    """``stem`` maps an image to the initial state, ``field`` carries it, ``head`` maps it to the classes' scores."""

    def __init__(self, stem: nn.Module, field: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.stem, self.field, self.head = stem, field, head
        self.end_time: Tensor
        self.register_buffer("end_time", torch.ones(()))
        self._known = HostNumber(self.end_time)

    def reset_buffers(self) -> None:
        """Let the ODE end at 1."""
        self.end_time.fill_(1.0)

    @property
    def ts(self) -> Tensor:
        """The times ``[2]`` that the ODE runs over, 0 and ``end_time``; on the CPU unless the end time is trained."""
        if self.end_time.requires_grad or self.end_time.device.type == "cpu":
            return torch.stack([torch.zeros_like(self.end_time), self.end_time])
        if self._known.tensor is not self.end_time:
            self._known = HostNumber(self.end_time)
        return torch.tensor([0.0, self._known.read()], dtype=self.end_time.dtype)

    def forward(self, solve: Solve, images: Tensor) -> Tensor:
        """Return the scores ``[batch, classes]`` of ``images``."""
        scores: Tensor = self.head(solve(self.field, self.stem(images), self.ts)[-1])
        return scores


class PixelScale(nn.Module):
    """Turns bytes into numbers, each channel by a table of its 256 levels: the same bits on every device.

    Parameters
    ----------
    levels
        ``[channels, 256]``, the number of each level.
    """

    levels: Tensor

    def __init__(self, levels: Tensor) -> None:
        super().__init__()
        self.register_buffer("levels", levels, persistent=False)  # of the data, not of the model

    def forward(self, pixels: Tensor) -> Tensor:
        """Return the numbers ``[batch, channels, height, width]`` of ``pixels`` (uint8) of the same shape."""
        channel = torch.arange(pixels.shape[1], device=pixels.device)[:, None, None]
        return self.levels[channel, pixels.long()]


class NormedConvField(nn.Module):
    """Two 3x3 convolutions with weight norm, without bias and without the time, each with a ReLU behind it."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first, self.second = (
            weight_norm(nn.Conv2d(channels, channels, 3, padding=1, bias=False)) for _ in range(2)
        )

    def forward(self, _t: Tensor, z: Tensor) -> Tensor:
        """Return ``dz/dt [batch, channels, height, width]``, at every time the same."""
        return cast(Tensor, self.second(self.first(z).relu()).relu())


def snopt_net(image_channels: int, channels: int) -> ODENet:
    """Return the net of Liu et al., Second-Order Neural ODE Optimizer, NeurIPS 2021; ``channels`` is 64 there.

    Three convolutions take images of 28x28 pixels to maps of 6x6, those of 32x32 to 7x7; a mean over 6x6 then leaves
    one number a channel of either (the last row and column of a 7x7 map are not in it).
    """
    return ODENet(
        stem=nn.Sequential(
            nn.Conv2d(image_channels, channels, 3, bias=False),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 4, stride=2, padding=1, bias=False),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 4, stride=2, padding=1, bias=False),
        ),
        field=ConvField(channels, torch.relu),
        head=nn.Sequential(nn.ReLU(), nn.AvgPool2d(6), nn.Flatten(), nn.Linear(channels, CLASSES)),
    )


def resnet4(image_channels: int, channels: int) -> ODENet:
    """Return the net of Daulbaev et al., Interpolation Technique, NeurIPS 2020, for CIFAR-10; ``channels`` is 64 there.

    One convolution with batch norm, one ODE block on maps of the image's own size, the mean of each map. The batch
    norm stands outside of the ODE, so that a sample's dynamics are its own.
    """
    return ODENet(
        stem=nn.Sequential(
            nn.Conv2d(image_channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels), nn.ReLU()
        ),
        field=NormedConvField(channels),
        head=nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, CLASSES)),
    )
