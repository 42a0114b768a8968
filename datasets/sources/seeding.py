"""Random numbers and initial parameters from a seed alone: the global generators are neither read nor moved."""

from collections.abc import Callable
from typing import TypeVar

import numpy as np
import torch
from torch import nn
from torch.nn.utils import parametrize

from odegrad.errors import UsageError

ModuleT = TypeVar("ModuleT", bound=nn.Module)

NORMALISATIONS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.GroupNorm, nn.LayerNorm)
"""Layers whose weights start at 1 and whose biases, and statistics, at their defaults."""

TANH_SCALE = 5.0 / 3.0 * 3.0**0.5
"""The half-width of a uniform distribution of standard deviation 5/3, PyTorch's gain for tanh."""

SPLIT_SEED = 0
"""Data in one piece are split alike for all seeds, so that figures of different seeds are about the same rows."""

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
    ``dtype``, so that builds in two precisions are one model up to rounding. A reparametrised weight (weight norm) is
    drawn as the same layer without it draws its own. Batch, group and layer normalisation start as the identity after
    scaling. A module with buffers of its own sets them in a method ``reset_buffers``.

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
        If a submodule holds parameters of its own but no ``weight`` to read ``n`` from, or buffers that it cannot
        set.
    """
    with torch.device("meta"):
        module = build().to(torch.float64)
    module.to_empty(device="cpu")
    with torch.no_grad():
        for name, layer in module.named_modules():
            if isinstance(layer, NORMALISATIONS):
                layer.reset_parameters()
            elif not isinstance(layer, parametrize.ParametrizationList):
                _draw(layer, name, source, scale)
    return module.to(device, dtype)


def _draw(layer: nn.Module, name: str, source: torch.Generator, scale: float) -> None:
    """Draw the layer's own parameters; those that stand behind a reparametrised one follow from it."""
    behind = list(layer.parametrizations) if parametrize.is_parametrized(layer) else []  # type: ignore[arg-type]
    own: dict[str, torch.Tensor] = {key: getattr(layer, key) for key in behind}
    own |= dict(layer.named_parameters(recurse=False))
    reset = getattr(layer, "reset_buffers", None)
    if reset is not None:
        reset()
    unknown = [] if reset is not None else sorted(key for key, _ in layer.named_buffers(recurse=False))
    if unknown or (own and "weight" not in own):
        found = f"buffers {unknown}" if unknown else f"parameters {sorted(own)} but no 'weight'"
        raise UsageError(
            f"build: submodule {name or type(layer).__name__!r} has the {found}; expected layers made of nn.Linear, "
            "convolutions and normalisations; hold the parameter in one of those, set a buffer in reset_buffers()"
        )
    for key, parameter in own.items():
        bound = scale * own["weight"][0].numel() ** -0.5
        draw = (2.0 * torch.rand(parameter.shape, dtype=torch.float64, generator=source) - 1.0) * bound
        if key in behind:
            setattr(layer, key, draw)
        else:
            parameter.copy_(draw)
