"""Likelihoods of pixels given a decoder's scores, in nats."""

import torch
from torch import Tensor
from torch.nn import functional

UNIT = 1.0 / 8.0
"""Scale at a score of zero, of the grey levels' range: wide enough that an untrained decoder explains every image."""
LEVELS = 256
"""Grey levels; a pixel ``k / 255`` stands for the interval ``[k - 1/2, k + 1/2] / 255``, the two ends for the rest."""


def bernoulli(scores: Tensor, pixels: Tensor) -> Tensor:
    """Return ``log p(pixels)`` of each image ``[batch]``: ink with probability ``sigmoid(scores)``.

    ``scores`` and ``pixels``, zeros and ones, are ``[batch, pixels]``.
    """
    return -functional.binary_cross_entropy_with_logits(scores, pixels, reduction="none").sum(1)


def discretized_logistic(scores: Tensor, pixels: Tensor) -> Tensor:
    """Return ``log p(pixels)`` of each image ``[batch]``: the mass of a logistic distribution at each grey level.

    Salimans et al., "PixelCNN++", ICLR 2017, equation 2, with one component.

    Parameters
    ----------
    scores
        ``[batch, 2 pixels]``: of each pixel the centre (the inverse sigmoid of a grey level in [0, 1]), then of each
        the logarithm of the scale in units of ``UNIT``.
    pixels
        ``[batch, pixels]``, multiples of 1/255 in [0, 1].
    """
    centre, log_scale = scores.chunk(2, dim=1)
    sharpness = torch.exp(-log_scale) / UNIT
    away = (pixels - torch.sigmoid(centre)) * sharpness
    half = 0.5 / (LEVELS - 1) * sharpness
    upper, lower = away + half, away - half
    # sigmoid(u) - sigmoid(l) = (1 - exp(l - u)) sigmoid(u) sigmoid(-l): no difference of almost equal numbers
    inside = functional.logsigmoid(upper) + functional.logsigmoid(-lower) + torch.log(-torch.expm1(lower - upper))
    black, white = functional.logsigmoid(upper), functional.logsigmoid(-lower)
    step = 0.5 / (LEVELS - 1)
    log_mass = torch.where(pixels < step, black, torch.where(pixels > 1.0 - step, white, inside))
    return log_mass.sum(1)
