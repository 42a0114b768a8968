"""Classification of images kept as bytes on the device: splits, scaling, and the task that a table makes."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from sklearn.model_selection import train_test_split
from torch import Tensor, nn

from odegrad.contracts import Problem, TaskInfo, Training
from odegrad.datasets.nets.image_nets import ODENet, PixelScale, snopt_net
from odegrad.datasets.problems.classification import ClassificationProblem, ImageBatch, ImageData
from odegrad.datasets.problems.sizes import Sized
from odegrad.datasets.sources.augmentation import random_crop
from odegrad.datasets.sources.openml import Images, ImageTable, Pixels
from odegrad.datasets.sources.seeding import PARAMETERS, SPLIT_SEED, generator, seeded_module

CROP_PADDING = 4


@dataclass(frozen=True)
class ImageSettings:
    """One size: the net's width, the images that are used, and how the net is trained."""

    channels: int
    batch_size: int
    training: Training
    most: tuple[int | None, int | None, int | None] = (None, None, None)
    """Most images for training, validation and test, the first ones of each part; None takes all."""


class ImageProblem(ClassificationProblem):
    """An ODE net on images kept as bytes on the device; ``cropped`` says whether training images are augmented."""

    def __init__(
        self, model: ODENet, data: ImageData, batch_size: int, training: Training, seed: int, cropped: bool
    ) -> None:
        super().__init__(model, data, batch_size, training, seed)
        self.cropped = cropped

    def batch(self, iteration: int) -> ImageBatch:
        """Return bytes ``[batch, channels, height, width]`` and classes ``[batch]`` of ``iteration``."""
        pixels, labels = super().batch(iteration)
        return (
            random_crop(pixels, CROP_PADDING, self.seed, iteration, mirrored=True) if self.cropped else pixels
        ), labels


class ImageTask(Sized[ImageSettings]):
    """Ten classes of images; a subclass names itself, its table, its net and its settings."""

    info: ClassVar[TaskInfo]
    settings: ClassVar[Mapping[str, ImageSettings]]
    table: ClassVar[ImageTable]
    cropped: ClassVar[bool] = False
    """Whether training images are cropped and mirrored at random."""

    def net(self, channels: int) -> ODENet:
        """Return the net of that width, whose parameters ``build`` then draws from the seed."""
        return snopt_net(self.table.channels, channels)

    def built(self, s: ImageSettings, seed: int, device: torch.device, dtype: torch.dtype) -> Problem:
        """Read the images and build the net.

        Raises
        ------
        DataError
            If the images are not there and cannot be fetched.
        """
        images = self.table.read()
        rows = split_rows(self.table, images)
        levels = scaled_levels(images.pixels[rows[0]])
        parts = [part[:most] for part, most in zip(rows, s.most, strict=True)]
        net = seeded_module(lambda: self.net(s.channels), generator(seed, PARAMETERS), device, dtype)
        net.stem = nn.Sequential(PixelScale(levels.to(device, dtype)), net.stem)

        def part(index: np.ndarray) -> ImageBatch:
            return torch.from_numpy(images.pixels[index]).to(device), torch.from_numpy(images.labels[index]).to(device)

        data = ImageData(*map(part, parts))
        return ImageProblem(net, data, s.batch_size, s.training, seed, self.cropped)


def split_rows(table: ImageTable, images: Images) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the rows for training, validation and test.

    Test rows are the published ones, in their order; the validation rows are cut from the published training rows,
    every class in its share.
    """
    known = np.arange(table.train_rows)
    train, validation = train_test_split(
        known, test_size=table.validation_rows, stratify=images.labels[known], random_state=SPLIT_SEED
    )
    return train, validation, np.arange(table.train_rows, table.rows)


def scaled_levels(pixels: Pixels) -> Tensor:
    """Return each channel's 256 levels less its mean, over its standard deviation in ``pixels``: ``[channels, 256]``.

    In float64, of all training images whatever the size of the task.
    """
    levels = np.arange(256, dtype=np.float64)
    scaled = []
    for channel in range(pixels.shape[1]):
        share = np.bincount(pixels[:, channel].reshape(-1), minlength=256) / pixels[:, channel].size
        mean = share @ levels
        scaled.append((levels - mean) / np.sqrt(share @ np.square(levels - mean)))
    return torch.from_numpy(np.stack(scaled))
