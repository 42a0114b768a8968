"""Random numbers and initial parameters from a seed alone: the global generators are neither read nor moved."""

from collections.abc import Callable
from typing import TypeVar

import numpy as np
import torch
from torch import nn

from odegrad.errors import UsageError

ModuleT = TypeVar("ModuleT", bound=nn.Module)

TANH_SCALE = 5.0 / 3.0 * 3.0**0.5
"""The half-width of a uniform distribution of standard deviation 5/3, PyTorch's gain for tanh."""

PARAMETERS, TRAIN, TEST, PROBE, VALIDATION = range(5)
"""Streams of one seed, so that, for example, a wider model leaves the data as they were."""


def generator(seed: int, *stream: int) -> torch.Generator:
    """Return a CPU generator for one ``stream`` of ``seed``; different streams are statistically independent.

    Parameters
    ----------
    seed
        The run's seed, not negative.
    *stream
        Non-negative integers that name the stream, for example ``(TRAIN, iteration)``.

    Returns
    -------
    torch.Generator
        On the CPU for every device, so that all devices see the same numbers.

    Raises
    ------
    UsageError
        If a number is negative.
    """
    if min(seed, *stream, 0) < 0:
        raise UsageError(f"seed, stream: expected non-negative integers, got {seed}, {stream}; pass a seed from 0 up")
    state = np.random.SeedSequence(seed, spawn_key=stream).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(state[0]))


def epoch_rows(count: int, batch_size: int, seed: int, iteration: int) -> torch.Tensor:
    """Return the rows ``[batch_size]`` of ``iteration``: epochs of shuffled batches of equal size.

    What is left of an epoch is dropped, to come up in another one. Where there are fewer rows than a batch has, all
    are one batch.
    """
    size = min(batch_size, count)
    epoch, place = divmod(iteration, count // size)
    order = torch.randperm(count, generator=generator(seed, TRAIN, epoch))
    return order[place * size : (place + 1) * size]


def seeded_module(
    build: Callable[[], ModuleT],
    source: torch.Generator,
    device: torch.device,
    dtype: torch.dtype,
    scale: float = 1.0,
) -> ModuleT:
    """Return ``build()`` with parameters drawn from ``source``.

    Weights and biases are uniform in ``[-b, b]``, ``b = scale / sqrt(n)``, for ``n`` inputs to one output; at scale 1
    this is PyTorch's own rule for linear and convolutional layers. They are drawn in float64 and then rounded to
    ``dtype``, so that builds in two precisions are one model up to rounding.

    Parameters
    ----------
    build
        Makes the module; called under the meta device, so that its own initialisation draws nothing.
    source
        Generator on the CPU.
    device, dtype
        Where the parameters lie and how they are stored.
    scale
        ``TANH_SCALE`` keeps the signal's variance through layers with tanh between them.

    Raises
    ------
    UsageError
        If a submodule holds parameters of its own but no ``weight`` to read ``n`` from.
    """
    with torch.device("meta"):
        module = build().to(dtype)
    module.to_empty(device=device)
    with torch.no_grad():
        for name, layer in module.named_modules():
            own = dict(layer.named_parameters(recurse=False))
            if own and "weight" not in own:
                raise UsageError(
                    f"build: submodule {name or type(layer).__name__!r} has the parameters {sorted(own)} but no "
                    "'weight'; expected layers made of nn.Linear and convolutions; hold the parameter in one of those"
                )
            for parameter in own.values():
                bound = scale * own["weight"][0].numel() ** -0.5
                draw = torch.rand(parameter.shape, dtype=torch.float64, generator=source)
                parameter.copy_((2.0 * draw - 1.0) * bound)
    return module
