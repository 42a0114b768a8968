"""Gaussians with independent coordinates: densities and divergences in nats."""

import math

import torch
from torch import Tensor


def log_density_about(mean: Tensor, log_deviation: Tensor, x: Tensor) -> Tensor:
    """Return the log-density of each coordinate of ``x`` under ``N(mean, exp(log_deviation)^2)``; one shape for all."""
    scaled = (x - mean) * torch.exp(-log_deviation)
    return -0.5 * scaled.square() - log_deviation - 0.5 * math.log(2.0 * math.pi)


def diagonal_kl(mean: Tensor, log_deviation: Tensor) -> Tensor:
    """Return ``KL(N(mean, exp(log_deviation)^2) || N(0, I))`` of each row of ``[batch, dim]``, ``[batch]``."""
    return 0.5 * (mean.square() + torch.exp(2.0 * log_deviation) - 1.0 - 2.0 * log_deviation).sum(-1)


def evidence_bounds(
    mean: Tensor, log_deviation: Tensor, found: Tensor, observed: Tensor, noise: float, seen: Tensor | None = None
) -> Tensor:
    """Return each series' lower bound on the logarithm of its evidence, in nats, ``[batch]``.

    Parameters
    ----------
    mean, log_deviation
        Of the latent state's posterior, ``[batch, latent]``; its prior is the standard normal.
    found
        Decoded from a draw of it, ``[batch, times, channels]``.
    observed
        The observations, of the same shape.
    noise
        Their standard deviation about what is decoded.
    seen
        Which there are, ``[batch, times]``; all if None.
    """
    likelihoods = log_density_about(found, torch.full_like(observed, math.log(noise)), observed)
    if seen is not None:
        likelihoods = likelihoods * seen[..., None]
    return likelihoods.sum((1, 2)) - diagonal_kl(mean, log_deviation)
