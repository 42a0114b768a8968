"""Random crops and mirror images, drawn from seed and iteration and made on the images' device."""

import torch
from torch import Tensor

from odegrad.datasets.sources.seeding import TRAIN, generator
from odegrad.states import sent_to

CROP_STREAM = 8
"""Of an iteration's random numbers."""


def random_crop(
    images: Tensor, padding: int, seed: int, iteration: int, *, mirrored: bool, fill: float = 0.0
) -> Tensor:
    """Return a random crop of each image: padded on every side and cropped to its size, drawn uniformly.

    With half of them mirrored this is the usual augmentation of CIFAR-10: He et al., Deep Residual Learning for Image
    Recognition, CVPR 2016, section 4.2.

    Parameters
    ----------
    images
        ``[batch, channels, height, width]`` on any device, of any type.
    padding
        Pixels on each side.
    seed, iteration
        The draws are a pure function of these and of the batch's size.
    mirrored
        Whether half of the images are mirrored left to right.
    fill
        Value of the padding.
    """
    count, channels, height, width = images.shape
    source = generator(seed, TRAIN, iteration, CROP_STREAM)
    top, left = sent_to(images.device, torch.randint(2 * padding + 1, (2, count), generator=source))
    flipped = sent_to(images.device, torch.rand(count, generator=source) < 0.5)
    padded = torch.nn.functional.pad(images, (padding,) * 4, value=fill)
    rows = top[:, None] + torch.arange(height, device=images.device)
    columns = torch.arange(width, device=images.device).expand(count, width)
    if mirrored:
        columns = torch.where(flipped[:, None], columns.flip(1), columns)
    columns = left[:, None] + columns
    image = torch.arange(count, device=images.device)[:, None, None, None]
    channel = torch.arange(channels, device=images.device)[:, None, None]
    return padded[image, channel, rows[:, None, :, None], columns[:, None, None, :]]
