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
from odegrad.datasets.nets.image_nets import ConvField, LinearField, ODENet
from odegrad.datasets.problems.classification import ClassificationProblem, ImageBatch, ImageData
from odegrad.datasets.problems.sizes import Sized, trained
from odegrad.datasets.sources.augmentation import random_crop
from odegrad.datasets.sources.seeding import PARAMETERS, SPLIT_SEED, generator, seeded_module

VALIDATION_IMAGES, TEST_IMAGES = 180, 360
BACKGROUND = -1.2
"""Scaled grey level of no ink."""


@dataclass(frozen=True)
class DigitsSettings:
    """One size: the net's shape and how it is trained."""

    channels: int
    """Of the ODE block; in the net of linear layers, its width."""
    batch_size: int
    training: Training
    deep_stem: bool = False
    """Two convolutions, the second of stride 2, in place of one."""
    shift: int = 0
    """Most pixels by which a training image is moved, up or down and left or right."""


def digits_split(device: torch.device, dtype: torch.dtype) -> ImageData:
    """Return 1,257 training, 180 validation and 360 test images ``[count, 1, 8, 8]``, every class in its share.

    Grey levels 0 .. 16 become ``x / 4 - 1.2``: mean about zero, standard deviation 1.5.
    """
    images, labels = load_digits(return_X_y=True)
    pixels = torch.from_numpy(images).reshape(-1, 1, 8, 8) / 4.0 + BACKGROUND
    classes = torch.from_numpy(labels)

    def split(rows: list[int], count: int) -> list[list[int]]:
        return train_test_split(rows, test_size=count, stratify=labels[rows], random_state=SPLIT_SEED)  # type: ignore[no-any-return]

    rest, test = split(list(range(len(labels))), TEST_IMAGES)
    train, validation = split(rest, VALIDATION_IMAGES)

    def part(rows: list[int]) -> ImageBatch:
        return pixels[rows].to(device, dtype), classes[rows].to(device, torch.int64)

    return ImageData(part(train), part(validation), part(test))


def digits_net(settings: DigitsSettings) -> ODENet:
    """Return a conv stem, an ODE block on its output of 3x3 or, if the stem is deep, 4x4 places, and a read-out.

    The deep stem is a small copy of the SNOpt paper's for images: Liu et al., NeurIPS 2021.
    """
    channels = settings.channels
    if settings.deep_stem:
        first, second = nn.Conv2d(1, channels, 3, padding=1), nn.Conv2d(channels, channels, 4, stride=2, padding=1)
        stem = nn.Sequential(first, nn.ReLU(), second)
        head = nn.Sequential(nn.ReLU(), nn.Flatten(), nn.Linear(16 * channels, 10))
    else:
        stem = nn.Sequential(nn.Conv2d(1, channels, 5, stride=2, padding=1), nn.Tanh())
        head = nn.Sequential(nn.AvgPool2d(2, stride=1), nn.Flatten(), nn.Linear(4 * channels, 10))
    return ODENet(stem=stem, field=ConvField(channels), head=head)


def digits_mlp(settings: DigitsSettings) -> ODENet:
    """Return a linear stem from the 64 pixels, an ODE block of two linear layers with the time, a linear read-out."""
    width = settings.channels
    return ODENet(
        stem=nn.Sequential(nn.Flatten(), nn.Linear(64, width), nn.Tanh()),
        field=LinearField(width),
        head=nn.Linear(width, 10),
    )


class DigitsProblem(ClassificationProblem):
    """An ODE net on the digits; training images are moved by up to ``shift`` pixels, white paper coming in."""

    def __init__(self, model: ODENet, data: ImageData, settings: DigitsSettings, seed: int) -> None:
        super().__init__(model, data, settings.batch_size, settings.training, seed)
        self.shift = settings.shift

    def batch(self, iteration: int) -> ImageBatch:
        """Return images ``[batch, 1, 8, 8]`` and classes ``[batch]`` of ``iteration``."""
        images, labels = super().batch(iteration)
        if self.shift == 0:
            return images, labels
        return random_crop(images, self.shift, self.seed, iteration, mirrored=False, fill=BACKGROUND), labels


class Digits(Sized[DigitsSettings]):
    """Ten classes of 8x8 images; an ODE block of two 3x3 convolutions over t in [0, 1]."""

    info: ClassVar[TaskInfo] = TaskInfo(
        name="digits",
        kind="classification",
        summary="handwritten digits of 8x8 pixels; conv stem, ODE block of two 3x3 convolutions, linear read-out",
        metric_name="accuracy",
        higher_is_better=True,
        target={"tiny": 0.94, "default": 0.97, "paper": 0.98},
        offline=True,
        citation="Alpaydin and Kaynak, Optical Recognition of Handwritten Digits, UCI Machine Learning Repository, "
        "1998, doi:10.24432/C50P49; its 1,797 test images as shipped with scikit-learn",
        licence="CC BY 4.0",
    )
    settings: ClassVar[Mapping[str, DigitsSettings]] = {
        "tiny": DigitsSettings(
            channels=16,
            batch_size=128,
            training=trained(100, adam=1e-2, sgd=0.1, snopt=0.02, weight_decay=1e-3, full_precond=True),
        ),
        "default": DigitsSettings(
            channels=16,
            batch_size=128,
            deep_stem=True,
            shift=1,
            training=trained(
                500, adam=3e-3, sgd=0.1, snopt=0.05, weight_decay=1e-4, eps=0.05, kl_clip=3e-4, full_precond=True
            ),
        ),
        "paper": DigitsSettings(
            channels=64,
            batch_size=128,
            deep_stem=True,
            shift=1,
            training=trained(
                2_000, adam=1e-3, sgd=0.02, snopt=0.02, weight_decay=1e-4, eps=0.05, update_freq=100, full_precond=True
            ),
        ),
    }

    def net(self, settings: DigitsSettings) -> ODENet:
        """Return the net, whose parameters ``build`` then draws from the seed."""
        return digits_net(settings)

    def built(self, s: DigitsSettings, seed: int, device: torch.device, dtype: torch.dtype) -> Problem:
        """Build the ODE net and its data."""
        net = seeded_module(lambda: self.net(s), generator(seed, PARAMETERS), device, dtype)
        return DigitsProblem(net, digits_split(device, dtype), s, seed)


def _linear_layers(iterations: int) -> Training:
    return trained(
        iterations, adam=3e-3, sgd=0.1, snopt=0.02, weight_decay=1e-3, eps=0.05, update_freq=100, full_precond=True
    )


class DigitsMLP(Digits):
    """The same images by linear layers only; an ODE block of two of them over t in [0, 1]."""

    info: ClassVar[TaskInfo] = dataclasses.replace(
        Digits.info,
        name="digits_mlp",
        summary="handwritten digits of 8x8 pixels; linear stem, ODE block of two linear layers, linear read-out",
        target={"tiny": 0.93, "default": 0.95, "paper": 0.95},
    )
    settings: ClassVar[Mapping[str, DigitsSettings]] = {
        "tiny": dataclasses.replace(Digits.settings["tiny"], channels=32),
        "default": DigitsSettings(channels=64, batch_size=128, training=_linear_layers(500)),
        "paper": DigitsSettings(channels=128, batch_size=128, shift=1, training=_linear_layers(2_000)),
    }

    def net(self, settings: DigitsSettings) -> ODENet:
        """Return the net, whose parameters ``build`` then draws from the seed."""
        return digits_mlp(settings)
