"""Handwritten digits, 8x8 pixels, from scikit-learn: real data that needs no network."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn

from odegrad.contracts import Problem, TaskInfo, Training
from odegrad.datasets.classification import Batch, ClassificationProblem, ConvField, ImageData, LinearField, ODENet
from odegrad.datasets.seeding import PARAMETERS, generator, seeded_module
from odegrad.datasets.sizes import Sized, trained

VALIDATION_IMAGES, TEST_IMAGES = 180, 360
SPLIT_SEED = 0
"""The split is one for all seeds, so that accuracies of different seeds are about the same images."""


@dataclass(frozen=True)
class DigitsSettings:
    """One size: the net's shape and how it is trained."""

    channels: int
    """Of the ODE block; in the net of linear layers, its width."""
    stem_kernel: int
    """Side of the stem's convolution, which pads by one pixel."""
    stem_stride: int
    pool_stride: int
    """Stride of the 2x2 mean pooling behind the ODE block."""
    batch_size: int
    training: Training


def digits_split(device: torch.device, dtype: torch.dtype) -> ImageData:
    """Return 1,257 training, 180 validation and 360 test images ``[count, 1, 8, 8]``, every class in its share.

    Grey levels 0 .. 16 become ``x / 4 - 1.2``: mean about zero, standard deviation 1.5.
    """
    images, labels = load_digits(return_X_y=True)
    pixels = torch.from_numpy(images).reshape(-1, 1, 8, 8) / 4.0 - 1.2
    classes = torch.from_numpy(labels)

    def split(rows: list[int], count: int) -> list[list[int]]:
        return train_test_split(rows, test_size=count, stratify=labels[rows], random_state=SPLIT_SEED)  # type: ignore[no-any-return]

    rest, test = split(list(range(len(labels))), TEST_IMAGES)
    train, validation = split(rest, VALIDATION_IMAGES)

    def part(rows: list[int]) -> Batch:
        return pixels[rows].to(device, dtype), classes[rows].to(device, torch.int64)

    return ImageData(part(train), part(validation), part(test))


def digits_net(settings: DigitsSettings) -> ODENet:
    """Return a conv stem, an ODE block on its output, 2x2 mean pooling and a linear read-out."""
    channels, stride = settings.channels, settings.stem_stride
    side = (8 + 2 - settings.stem_kernel) // stride + 1
    pooled = (side - 2) // settings.pool_stride + 1
    return ODENet(
        stem=nn.Sequential(nn.Conv2d(1, channels, settings.stem_kernel, stride=stride, padding=1), nn.Tanh()),
        field=ConvField(channels),
        head=nn.Sequential(
            nn.AvgPool2d(2, stride=settings.pool_stride), nn.Flatten(), nn.Linear(channels * pooled**2, 10)
        ),
    )


def digits_mlp(settings: DigitsSettings) -> ODENet:
    """Return a linear stem from the 64 pixels, an ODE block of two linear layers with the time, a linear read-out."""
    width = settings.channels
    return ODENet(
        stem=nn.Sequential(nn.Flatten(), nn.Linear(64, width), nn.Tanh()),
        field=LinearField(width),
        head=nn.Linear(width, 10),
    )


class Digits(Sized[DigitsSettings]):
    """Ten classes of 8x8 images; an ODE block of two 3x3 convolutions over t in [0, 1]."""

    info: ClassVar[TaskInfo] = TaskInfo(
        name="digits",
        kind="classification",
        summary="handwritten digits of 8x8 pixels; conv stem, ODE block of two 3x3 convolutions, linear read-out",
        metric_name="accuracy",
        higher_is_better=True,
        target={"tiny": 0.94, "default": 0.96},
        offline=True,
        citation="Alpaydin and Kaynak, Optical Recognition of Handwritten Digits, UCI Machine Learning Repository, "
        "1998, doi:10.24432/C50P49; its 1,797 test images as shipped with scikit-learn",
        licence="CC BY 4.0",
    )
    settings: ClassVar[Mapping[str, DigitsSettings]] = {
        "tiny": DigitsSettings(
            channels=16,
            stem_kernel=5,
            stem_stride=2,
            pool_stride=1,
            batch_size=128,
            training=trained(100, adam=1e-2, sgd=0.1, snopt=0.02, weight_decay=1e-3, full_precond=True),
        ),
        "default": DigitsSettings(
            channels=16,
            stem_kernel=3,
            stem_stride=1,
            pool_stride=2,
            batch_size=128,
            training=trained(
                500, adam=3e-3, sgd=0.1, snopt=0.02, weight_decay=1e-3, eps=0.05, update_freq=100, full_precond=True
            ),
        ),
    }

    def net(self, settings: DigitsSettings) -> ODENet:
        """Return the net, whose parameters ``build`` then draws from the seed."""
        return digits_net(settings)

    def build(self, size: str, seed: int, device: torch.device, dtype: torch.dtype) -> Problem:
        """Build the ODE net and its data.

        Raises
        ------
        UnknownNameError
            If there is no such size.
        """
        s = self.at(size)
        net = seeded_module(lambda: self.net(s), generator(seed, PARAMETERS), device, dtype)
        return ClassificationProblem(net, digits_split(device, dtype), s.batch_size, s.training, seed)


class DigitsMLP(Digits):
    """The same images by linear layers only; an ODE block of two of them over t in [0, 1]."""

    info: ClassVar[TaskInfo] = dataclasses.replace(
        Digits.info,
        name="digits_mlp",
        summary="handwritten digits of 8x8 pixels; linear stem, ODE block of two linear layers, linear read-out",
        target={"tiny": 0.93, "default": 0.95},
    )
    settings: ClassVar[Mapping[str, DigitsSettings]] = {
        "tiny": dataclasses.replace(Digits.settings["tiny"], channels=32),
        "default": dataclasses.replace(Digits.settings["default"], channels=64),
    }

    def net(self, settings: DigitsSettings) -> ODENet:
        """Return the net, whose parameters ``build`` then draws from the seed."""
        return digits_mlp(settings)
