"""A flat state as its samples: ``[batch, n, 1]``, the parts of a tuple side by side, and the field called on it."""

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from odegrad.contracts import State
from odegrad.states import Layout


class LinearisedField(Protocol):
    """A field on states in the user's shapes, as implicit steps linearise it."""

    layout: Layout

    def time(self, t: float) -> Tensor:
        """Return ``t`` as the field sees it."""
        ...

    def parts(self, time: Tensor, y: State) -> Sequence[Tensor]:
        """Return the parts of ``dy/dt``."""
        ...

    def pulled_through(
        self, outputs: Sequence[Tensor], inputs: Sequence[Tensor], grads: Sequence[Tensor], *, keep: bool = False
    ) -> tuple[Tensor | None, ...]:
        """Return the gradients by ``inputs``, pulled back through calls; ``keep`` keeps the graph."""
        ...

    def refuse_unchecked(self, dy: Tensor, *known: Tensor) -> None:
        """Make the check of a first call that has been asked for."""
        ...


class Samples:
    """How a flat state ``[d]`` divides into samples, ``d = batch n``.

    Parts that do not share a first dimension are one sample.

    Parameters
    ----------
    layout
        The state's.
    together
        Take the whole batch as one sample.
    """

    def __init__(self, layout: Layout, *, together: bool = False) -> None:
        firsts = {shape[0] if shape else 0 for shape in layout.shapes}
        shared = len(firsts) == 1 and 0 not in firsts
        d = sum(layout.sizes)
        self.layout = layout
        self.batch = next(iter(firsts)) if shared and not together else 1
        self.n = d // self.batch
        self.whole = len(layout.shapes) == 1
        self._widths = [size // self.batch for size in layout.sizes]

    def of(self, flat: Tensor) -> Tensor:
        """Return ``flat [d]`` as ``[batch, n, 1]``."""
        if self.whole or self.batch == 1:
            return flat.view(self.batch, self.n, 1)
        parts = torch.split(flat, self.layout.sizes)
        return torch.cat([p.view(self.batch, -1) for p in parts], dim=1)[:, :, None]

    def flat(self, x: Tensor) -> Tensor:
        """Return ``x [batch, n, 1]`` as ``[d]``."""
        if self.whole or self.batch == 1:
            return x.reshape(-1)
        return torch.cat([p.reshape(-1) for p in torch.split(x, self._widths, dim=1)])

    def call(self, field: LinearisedField, t: Tensor, y: Tensor) -> Tensor:
        """Return ``f(t, y)`` for ``y [batch, n, 1]``, likewise."""
        layout = self.layout
        if self.whole:
            (dy,) = field.parts(t, y.view(layout.shapes[0]))
            return dy.reshape(self.batch, self.n, 1)
        pieces = torch.split(y, self._widths, dim=1)
        found = field.parts(t, tuple(p.reshape(shape) for p, shape in zip(pieces, layout.shapes, strict=True)))
        return torch.cat([p.reshape(self.batch, -1) for p in found], dim=1)[:, :, None]

    def order(self) -> Tensor:
        """Return where each number of ``[batch, n, 1]`` lies in the flat state: indices ``[d]``."""
        return self.of(torch.arange(self.batch * self.n, device=self.layout.device)).reshape(-1)
