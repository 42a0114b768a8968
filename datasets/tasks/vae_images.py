"""Images whose distribution a variational autoencoder with a flow posterior learns: digits, a face, silhouettes."""

import dataclasses
import math
from abc import abstractmethod
from collections.abc import Mapping
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from odegrad.contracts import Problem, TaskInfo, Training
from odegrad.datasets.problems.sizes import Sized, trained
from odegrad.datasets.problems.vae import VAESettings, vae_problem
from odegrad.datasets.sources.mat_images import FACE_PIXELS, read_frey_faces, read_silhouettes
from odegrad.datasets.tasks.digits import digits_split

MODEL = "the model after Grathwohl et al., FFJORD, ICLR 2019"
INK = 0.8
"""Scaled grey level of the digits above which a pixel is ink."""


class ImageVAE(Sized[VAESettings]):
    """A set of images: a subclass names itself, its settings and where its images come from."""

    info: ClassVar[TaskInfo]
    settings: ClassVar[Mapping[str, VAESettings]]

    @abstractmethod
    def read(self) -> Mapping[str, Tensor]:
        """Return images ``[count, pixels]`` in [0, 1], float64 on the CPU, by the name of the split.

        Raises
        ------
        DataError
            If they cannot be fetched.
        """

    def built(self, settings: VAESettings, seed: int, device: torch.device, dtype: torch.dtype) -> Problem:
        """Build the VAE and its images.

        Raises
        ------
        DataError
            If the images cannot be fetched.
        """
        return vae_problem(self.read(), settings, seed, device, dtype)


def vae_info(
    name: str, summary: str, target: Mapping[str, float], offline: bool, citation: str, licence: str
) -> TaskInfo:
    """Return what a set of images states about itself; targets in nats an image."""
    return TaskInfo(
        name=name,
        kind="inference",
        summary=f"{summary}; variational autoencoder, posterior refined by an amortised flow",
        metric_name="nelbo",
        higher_is_better=False,
        target=target,
        offline=offline,
        citation=f"{citation}; {MODEL}",
        licence=licence,
    )


def published(iterations: int) -> Training:
    """Return a training by Adamax at 1e-3, as in the papers."""
    base = trained(iterations, adam=1e-3, sgd=1e-4, snopt=2e-3, update_freq=100)
    return dataclasses.replace(base, optimizers={**base.optimizers, "adamax": {"lr": 1e-3}}, default_optimizer="adamax")


class VAEDigits(ImageVAE):
    """Handwritten digits of 8x8 pixels, ink or no ink."""

    info: ClassVar[TaskInfo] = vae_info(
        "vae_digits",
        "binary digits of 8x8 pixels",
        {"tiny": 23.0, "default": 20.0, "paper": 20.0},
        True,
        "Alpaydin and Kaynak, Optical Recognition of Handwritten Digits, UCI Machine Learning Repository, 1998, "
        "doi:10.24432/C50P49, as shipped with scikit-learn",
        "CC BY 4.0",
    )
    settings: ClassVar[Mapping[str, VAESettings]] = {
        "tiny": VAESettings(
            hidden=64,
            latent=6,
            flow_hidden=(16,),
            rank=2,
            end_time=0.5,
            batch_size=128,
            training=trained(80, adam=1e-2, sgd=2e-3, snopt=2e-3),
        ),
        "default": VAESettings(
            hidden=128,
            latent=12,
            flow_hidden=(32, 32),
            rank=8,
            end_time=0.5,
            batch_size=128,
            training=trained(600, adam=3e-3, sgd=2e-3, snopt=2e-3, update_freq=100),
        ),
        "paper": VAESettings(
            hidden=256,
            latent=16,
            flow_hidden=(64, 64),
            rank=16,
            end_time=0.5,
            batch_size=50,
            warm_up_iterations=500,
            training=published(3_000),
        ),
    }

    def read(self) -> Mapping[str, Tensor]:
        """Return the digits, ink or none."""
        split = digits_split(torch.device("cpu"), torch.float64)
        parts = {"train": split.train, "validation": split.validation, "test": split.test}
        return {name: (images.flatten(1) > INK).double() for name, (images, _) in parts.items()}


class VAEFreyFaces(ImageVAE):
    """A face in 1,965 moods, 28 rows of 20 grey pixels; a logistic distribution for each pixel."""

    info: ClassVar[TaskInfo] = vae_info(
        "vae_frey_faces",
        "1,965 images of one face, 28x20 pixels, grey by a discretised logistic distribution",
        {"paper": round(4.39 * FACE_PIXELS * math.log(2.0), 1)},  # FFJORD's bits a pixel, from 256 scores a pixel
        False,
        "Roweis, Saul and Hinton, Global Coordination of Local Linear Models, NeurIPS 2002 (the video of Brendan Frey)",
        "none stated; for research",
    )
    settings: ClassVar[Mapping[str, VAESettings]] = {
        "tiny": VAESettings(
            hidden=32,
            latent=4,
            flow_hidden=(16,),
            rank=2,
            end_time=0.5,
            batch_size=50,
            likelihood="discretized_logistic",
            training=trained(40, adam=3e-3, sgd=1e-5, snopt=1e-3),
        ),
        "default": VAESettings(
            hidden=128,
            latent=16,
            flow_hidden=(64, 64),
            rank=8,
            end_time=0.5,
            batch_size=50,
            activation="softplus",
            likelihood="discretized_logistic",
            warm_up_iterations=300,
            training=trained(1_000, adam=1e-3, sgd=1e-5, snopt=1e-3, update_freq=100),
        ),
        "paper": VAESettings(
            hidden=512,
            latent=64,
            flow_hidden=(512, 512),
            rank=20,
            end_time=0.5,
            batch_size=50,
            blocks=2,
            activation="softplus",
            likelihood="discretized_logistic",
            warm_up_iterations=3_100,
            training=published(15_500),
        ),
    }

    def read(self) -> Mapping[str, Tensor]:
        """Return the faces; a grey level ``k`` is ``k / 255``."""
        return {name: torch.from_numpy(grey.astype(np.float64) / 255.0) for name, grey in read_frey_faces().items()}


class VAECaltech(ImageVAE):
    """Silhouettes of objects of 101 kinds, 28x28 pixels."""

    info: ClassVar[TaskInfo] = vae_info(
        "vae_caltech",
        "8,671 silhouettes of objects, 28x28 pixels",
        {"paper": 104.03},
        False,
        "Marlin, Swersky, Chen and de Freitas, Inductive Principles for Restricted Boltzmann Machine Learning, "
        "AISTATS 2010",
        "none stated; for research",
    )
    settings: ClassVar[Mapping[str, VAESettings]] = {
        "tiny": dataclasses.replace(VAEDigits.settings["tiny"], batch_size=50),
        "default": VAESettings(
            hidden=256,
            latent=32,
            flow_hidden=(128,),
            rank=8,
            end_time=0.5,
            batch_size=50,
            warm_up_iterations=800,
            training=trained(2_000, adam=1e-3, sgd=1e-4, snopt=2e-3, update_freq=100),
        ),
        "paper": VAESettings(
            hidden=512,
            latent=64,
            flow_hidden=(2_048,),
            rank=20,
            end_time=0.5,
            batch_size=50,
            warm_up_iterations=8_200,
            training=published(20_500),
        ),
    }

    def read(self) -> Mapping[str, Tensor]:
        """Return the silhouettes, 1 in the object."""
        return {name: torch.from_numpy(images.astype(np.float64)) for name, images in read_silhouettes().items()}
