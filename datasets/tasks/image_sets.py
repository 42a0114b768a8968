"""MNIST, Fashion-MNIST, SVHN and CIFAR-10 as tasks: the settings of the SNOpt and the interpolation paper.

The targets of ``paper`` are what nets of this kind are known to reach, rounded down; those of the smaller sizes are
estimates that no run on the real images has confirmed. Tolerances are a run's: the papers took 1e-3.
"""

import dataclasses
from collections.abc import Mapping
from typing import ClassVar

from odegrad.contracts import Scalar, TaskInfo, Training
from odegrad.datasets.nets.image_nets import ODENet, resnet4
from odegrad.datasets.problems.images import ImageSettings, ImageTask
from odegrad.datasets.problems.sizes import trained
from odegrad.datasets.sources import openml
from odegrad.datasets.sources.openml import ImageTable

SIZES = ("tiny", "default", "paper")
TINY = (2_000, 500, 500)
"""Images of the tiny size for training, validation and test."""
SETTINGS_AFTER = "settings after Liu et al., Second-Order Neural ODE Optimizer, NeurIPS 2021"
CIFAR = "Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009; OpenML data set 40927"

MNIST_BATCHES, SVHN_BATCHES, CIFAR_BATCHES = 469, 573, 391
"""Batches of 128 in the published training images. An iteration is an update, and sizes named ``paper`` take as many
as the papers, of somewhat fewer images, since validation images are held out."""


def _settings(paper: Training, tiny: Training, default: Training) -> Mapping[str, ImageSettings]:
    """Return three sizes, of which ``paper`` is the net and the batch of the SNOpt paper."""
    return {
        "tiny": ImageSettings(channels=16, batch_size=64, training=tiny, most=TINY),
        "default": ImageSettings(channels=32, batch_size=128, training=default),
        "paper": ImageSettings(channels=64, batch_size=128, training=paper),
    }


def _short(iterations: int, adam: float, sgd: float, snopt: float, update_freq: int = 100) -> Training:
    return trained(iterations, adam, sgd, snopt, eps=0.05, update_freq=update_freq, full_precond=True)


def _descent(iterations: int, schedule: Mapping[int, float]) -> Training:
    """Return the training of ResNet4: SNOpt has no layer here that it could precondition, since weight norm."""
    optimizers: Mapping[str, Mapping[str, Scalar]] = {
        "sgd": {"lr": 0.1, "momentum": 0.9, "weight_decay": 5e-4},
        "adam": {"lr": 1e-3},
    }
    return Training(iterations, optimizers, default_optimizer="sgd", schedule=schedule)


class Mnist(ImageTask):
    """Handwritten digits."""

    table: ClassVar[ImageTable] = openml.MNIST
    info: ClassVar[TaskInfo] = TaskInfo(
        name="mnist",
        kind="classification",
        summary="70,000 handwritten digits of 28x28 pixels; conv stem, ODE block of two convolutions, linear read-out",
        metric_name="accuracy",
        higher_is_better=True,
        target={"tiny": 0.75, "default": 0.97, "paper": 0.985},
        offline=False,
        citation="LeCun, Cortes and Burges, The MNIST database of handwritten digits, 1998; OpenML data set 554; "
        f"{SETTINGS_AFTER}",
        licence="CC BY-SA 3.0",
        sizes=SIZES,
        smooth=False,
    )
    settings: ClassVar[Mapping[str, ImageSettings]] = _settings(
        paper=Training(
            5 * MNIST_BATCHES,
            {
                "adam": {"lr": 1e-3},
                "sgd": {"lr": 0.02, "momentum": 0.9},
                "snopt": {"lr": 0.02, "momentum": 0.9, "eps": 0.05, "update_freq": 100},
            },
            full_precond=True,
        ),
        tiny=_short(100, adam=3e-3, sgd=0.03, snopt=0.02, update_freq=20),
        default=_short(1_000, adam=2e-3, sgd=0.02, snopt=0.02),
    )


class FashionMnist(Mnist):
    """Pictures of clothes; as ``mnist`` in everything else."""

    table: ClassVar[ImageTable] = openml.FASHION_MNIST
    info: ClassVar[TaskInfo] = dataclasses.replace(
        Mnist.info,
        name="fashion_mnist",
        summary="70,000 pictures of clothes of 28x28 pixels; the net of mnist",
        target={"tiny": 0.60, "default": 0.82, "paper": 0.90},
        citation="Xiao, Rasul and Vollgraf, Fashion-MNIST, 2017, arXiv:1708.07747; OpenML data set 40996; settings "
        "of mnist",
        licence="MIT",
    )


class Svhn(ImageTask):
    """House numbers in photographs of streets."""

    table: ClassVar[ImageTable] = openml.SVHN
    info: ClassVar[TaskInfo] = dataclasses.replace(
        Mnist.info,
        name="svhn",
        summary="99,289 digits of house numbers in 32x32 pixels, in colour; the net of mnist",
        target={"tiny": 0.25, "default": 0.75, "paper": 0.90},
        citation="Netzer et al., Reading Digits in Natural Images with Unsupervised Feature Learning, 2011; OpenML "
        f"data set 41081; {SETTINGS_AFTER}",
        licence="for non-commercial use",
    )
    settings: ClassVar[Mapping[str, ImageSettings]] = _settings(
        paper=Training(
            10 * SVHN_BATCHES,
            {
                "adam": {"lr": 5e-4, "weight_decay": 1e-3},
                "sgd": {"lr": 0.02, "momentum": 0.9},
                "snopt": {"lr": 0.01, "momentum": 0.9, "eps": 0.05, "update_freq": 100, "weight_decay": 1e-4},
            },
            full_precond=True,
        ),
        tiny=_short(150, adam=3e-3, sgd=0.03, snopt=0.02, update_freq=20),
        default=_short(2_000, adam=2e-3, sgd=0.02, snopt=0.01),
    )


class Cifar10(ImageTask):
    """Photographs of animals and vehicles, cropped and mirrored at random in training."""

    table: ClassVar[ImageTable] = openml.CIFAR10
    cropped: ClassVar[bool] = True
    info: ClassVar[TaskInfo] = dataclasses.replace(
        Mnist.info,
        name="cifar10",
        summary="60,000 photographs of 32x32 pixels, in colour, training images cropped and mirrored; the net of mnist",
        target={"tiny": 0.22, "default": 0.50, "paper": 0.75},
        citation=f"{CIFAR}; {SETTINGS_AFTER}",
        licence="not stated",
    )
    settings: ClassVar[Mapping[str, ImageSettings]] = _settings(
        paper=Training(
            20 * CIFAR_BATCHES,
            {
                "adam": {"lr": 1e-3, "weight_decay": 1e-3},
                "sgd": {"lr": 0.01, "momentum": 0.9},
                "snopt": {"lr": 0.01, "momentum": 0.9, "eps": 0.03, "update_freq": 100},
            },
            full_precond=True,
        ),
        tiny=_short(150, adam=3e-3, sgd=0.03, snopt=0.02, update_freq=20),
        default=_short(2_000, adam=2e-3, sgd=0.01, snopt=0.01),
    )


class Cifar10ResNet4(Cifar10):
    """The same photographs by the net of the interpolation paper, trained by gradient descent with a schedule."""

    info: ClassVar[TaskInfo] = dataclasses.replace(
        Cifar10.info,
        name="cifar10_resnet4",
        summary="photographs as in cifar10; convolution with batch norm, ODE block of two with weight norm, linear",
        target={"tiny": 0.20, "default": 0.55, "paper": 0.85},
        citation=f"{CIFAR}; settings after Daulbaev et al., Interpolation Technique to Speed Up Gradients Propagation "
        "in Neural ODEs, NeurIPS 2020",
    )
    settings: ClassVar[Mapping[str, ImageSettings]] = {
        "tiny": ImageSettings(channels=8, batch_size=32, training=_descent(60, {45: 0.1}), most=TINY),
        "default": ImageSettings(channels=16, batch_size=128, training=_descent(2_000, {1_000: 0.1, 1_600: 0.01})),
        "paper": ImageSettings(
            channels=64,
            batch_size=128,
            training=_descent(350 * CIFAR_BATCHES, {150 * CIFAR_BATCHES: 0.1, 250 * CIFAR_BATCHES: 0.01}),
        ),
    }

    def net(self, channels: int) -> ODENet:
        """Return the net of that width, whose parameters ``build`` then draws from the seed."""
        return resnet4(self.table.channels, channels)
