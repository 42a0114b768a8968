"""The buffers of a field (running statistics): put back behind calls that repeat earlier ones."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


@contextmanager
def buffers_as_they_were(field: object) -> Iterator[None]:
    """Put the buffers of ``field`` back at the end."""
    kept = [(b, b.detach().clone(), b._version) for b in field.buffers()] if isinstance(field, nn.Module) else []
    statistics = {id(b) for b in _running_statistics(field)} if kept else set()
    try:
        yield
    finally:
        with torch.no_grad():
            # An unchanged buffer is left alone: a write of its own value would count as a change to autograd, which
            # then refuses every other graph that has saved it.
            for buffer, value, version in kept:
                if buffer._version != version or id(buffer) in statistics:
                    buffer.copy_(value)


def _running_statistics(field: object) -> Iterator[Tensor]:
    """Yield the buffers that a normalisation layer updates in training, which their versions do not tell."""
    for module in field.modules() if isinstance(field, nn.Module) else ():
        if module.training and getattr(module, "track_running_stats", False):
            yield from module.buffers(recurse=False)
