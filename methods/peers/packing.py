"""States as other libraries take them: one tensor ``[batch, n]``, and a field over such."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from odegrad.contracts import State, StateT, VectorField
from odegrad.errors import UnsupportedError, UsageError
from odegrad.methods.solvers.dynamics import trained_parameters
from odegrad.states import Layout, flatten


@dataclass(frozen=True)
class Packing:
    """How a state lies in a tensor ``[batch, n]``."""

    layout: Layout

    @classmethod
    def of(cls, y0: State) -> "Packing":
        """Return the packing of ``y0``.

        Raises
        ------
        UsageError
            If ``y0`` is no state, or its parts differ in the size of the batch.
        """
        layout = Layout.of(y0)
        if any(not shape for shape in layout.shapes) or len({shape[0] for shape in layout.shapes}) > 1:
            shapes = [tuple(shape) for shape in layout.shapes]
            raise UsageError(f"y0: expected parts [batch, *state] of one batch size, got shapes {shapes}")
        return cls(layout)

    @property
    def batch(self) -> int:
        """Return the number of samples."""
        return self.layout.shapes[0][0]

    def pack(self, y: State) -> Tensor:
        """Return ``y`` as ``[batch, n]``, the parts of a tuple side by side."""
        return flatten(y)

    def unpack(self, packed: Tensor, batch: int | None = None) -> State:
        """Return ``packed``, ``[*lead, batch, n]``, in the user's shapes ``[*lead, batch, *state]``.

        ``batch`` is the number of samples in ``packed`` where it is not that of the whole state.
        """
        lead = packed.shape[:-2]
        shapes = [torch.Size((batch or s[0], *s[1:])) for s in self.layout.shapes]
        if not self.layout.is_tuple:
            return packed.reshape(lead + shapes[0])
        pieces = torch.split(packed, [s[1:].numel() for s in shapes], dim=-1)
        return tuple(p.reshape(lead + s) for p, s in zip(pieces, shapes, strict=True))

    def unpacked(self, packed: Tensor, like: StateT) -> StateT:  # noqa: ARG002
        """Return a solution ``[K, batch, n]`` in the structure of ``like``."""
        out: Any = self.unpack(packed)
        return out  # type: ignore[no-any-return]


class PackedField(nn.Module):
    """A user's field on states ``[batch, n]``.

    Libraries hand over the time as a float, 0-d, as ``[1]`` or as ``[batch]`` equal entries, and some in float32: the
    field gets a 0-d tensor of the state's type.

    Raises
    ------
    UnsupportedError
        If the field has no trained parameter, or one that is not trained: the libraries gather the gradient by all of
        them in one vector.
    """

    def __init__(self, field: VectorField, packing: Packing) -> None:
        super().__init__()
        self.field = field
        self.packing = packing
        trained = len(trained_parameters(field))
        if not trained or trained < sum(1 for _ in field.parameters()):
            raise UnsupportedError(
                f"the library differentiates by every parameter of the field, and {trained} of its "
                f"{sum(1 for _ in field.parameters())} are trained; make the others buffers"
            )

    def forward(self, t: Tensor | float, x: Tensor) -> Tensor:
        """Return ``dx/dt [batch, n]``."""
        when = torch.as_tensor(t, dtype=x.dtype, device=x.device).reshape(-1)[0]
        dy: object = self.field(when, self.packing.unpack(x))
        pieces = self.packing.layout.parts_of(dy)
        if len(pieces) == 1:
            return pieces[0].reshape(x.shape)
        return torch.cat([p.reshape(len(p), -1) for p in pieces], dim=1)
