"""Classification of images by an ODE net: a stem, an ODE block, a linear read-out; cross-entropy and accuracy."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from odegrad.contracts import Solve, Split, State, Training, VectorField
from odegrad.datasets.nets.image_nets import ODENet
from odegrad.datasets.sources.seeding import epoch_rows
from odegrad.states import sent_to

EVALUATION_IMAGES = 1_000
"""Held-out images that are solved at a time: an adaptive solver chooses its steps for each such part by itself."""

ImageBatch = tuple[Tensor, Tensor]
"""Images ``[batch, channels, height, width]`` and their classes ``[batch]`` (int64)."""


@dataclass(frozen=True)
class ImageData:
    """Training, validation and test data on their device."""

    train: ImageBatch
    validation: ImageBatch
    test: ImageBatch


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Normalise by running statistics, which do not move, and put every module's mode back in the end."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


class ClassificationProblem:
    """An ODE net on images: epochs of shuffled batches of equal size, cross-entropy in nats, test accuracy.

    Parameters
    ----------
    model
        The ODE net, on the data's device.
    data
        Images and classes.
    batch_size
        Images in a training batch; what is left of an epoch is dropped, to come up in another one.
    training
        How it is trained.
    seed
        Orders the batches.
    """

    model: nn.Module
    fields: Sequence[nn.Module]
    training: Training

    def __init__(self, model: ODENet, data: ImageData, batch_size: int, training: Training, seed: int) -> None:
        self.net = model
        self.model = model
        self.fields = (model.field,)
        self.training = training
        self.data = data
        self.batch_size = batch_size
        self.seed = seed

    @property
    def end_time(self) -> Tensor:
        """The end of the ODE's interval, which starts at 0: a 0-d buffer of the model, 1 to begin with."""
        return self.net.end_time

    def batch(self, iteration: int) -> ImageBatch:
        """Return images ``[batch, channels, height, width]`` and classes ``[batch]`` of ``iteration``."""
        images, labels = self.data.train
        rows = sent_to(labels.device, epoch_rows(len(labels), self.batch_size, self.seed, iteration))
        return images[rows], labels[rows]

    def probe_batch(self) -> ImageBatch:
        """Return the first eight training images and their classes."""
        images, labels = self.data.train
        return images[:8], labels[:8]

    def loss(self, solve: Solve, batch: Any) -> Tensor:
        """Return the mean cross-entropy of ``batch`` in nats, 0-d."""
        return nn.functional.cross_entropy(self.scores(solve, batch), batch[1])

    def scores(self, solve: Solve, batch: Any) -> Tensor:
        """Return the scores ``[batch, classes]``."""
        scores: Tensor = self.net(solve, batch[0])
        return scores

    def evaluate(self, solve: Solve, split: Split = "test") -> float:
        """Return the fraction of held-out images whose class has the highest score, ``EVALUATION_IMAGES`` at a time."""
        scores, labels = self._held_out_scores(solve, split)
        return float((scores.argmax(1) == labels).double().mean())

    def held_out_loss(self, solve: Solve, split: Split) -> float:
        """Return the mean cross-entropy of held-out images in nats, ``EVALUATION_IMAGES`` at a time."""
        return float(nn.functional.cross_entropy(*self._held_out_scores(solve, split)))

    def _held_out_scores(self, solve: Solve, split: Split) -> tuple[Tensor, Tensor]:
        images, labels = self.data.validation if split == "validation" else self.data.test
        with torch.no_grad(), evaluating(self.net):
            scores = torch.cat([self.net(solve, part) for part in torch.split(images, EVALUATION_IMAGES)])
        return scores, labels

    def dynamics(self, batch: Any) -> tuple[VectorField, State, Tensor]:
        """Return the ODE block, the stem's output for ``batch`` (detached) and the times ``[2]``."""
        with torch.no_grad(), evaluating(self.net):
            state: Tensor = self.net.stem(batch[0])
        return self.net.field, state, self.net.ts.detach()
