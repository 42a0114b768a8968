"""States as rows ``[rows, n]``, a sample each, and the user's field called on some of them, each at its own time."""

import warnings
import weakref
from collections.abc import Sequence
from dataclasses import replace
from functools import cache

import torch
from torch import Tensor, nn

from odegrad.contracts import CallsHeard, State, VectorField
from odegrad.errors import UnsupportedError, UsageError, is_out_of_memory
from odegrad.methods.solvers.dynamics import FlatField
from odegrad.states import Layout, mapped, parts

DRAWS = (
    "field: it draws random numbers, which with batch = 'per_sample' would be others for each round of steps; draw "
    "them before the solve and keep them in a part of the state, or use batch = 'joint'"
)
"""Why a field is refused that draws."""

_WARNED: "weakref.WeakSet[nn.Module]" = weakref.WeakSet()


class RowLayout:
    """How a state's samples lie in rows: the parts of a tuple side by side.

    Parameters
    ----------
    layout
        The state's.

    Raises
    ------
    UsageError
        If its parts do not share a first dimension, the batch.
    """

    def __init__(self, layout: Layout) -> None:
        firsts = {shape[0] if shape else 0 for shape in layout.shapes}
        if len(firsts) != 1 or 0 in firsts:
            shapes = [tuple(shape) for shape in layout.shapes]
            raise UsageError(
                f"y0: expected parts [batch, ...] of one batch for batch = 'per_sample', got {shapes}; a state without "
                "a batch dimension is passed as y0[None], or solved with batch = 'joint'"
            )
        self.layout = layout
        self.batch = next(iter(firsts))
        self.widths = [size // self.batch for size in layout.sizes]
        self.n = sum(self.widths)
        self.of_width = cache(self._of_width)
        self._tails = [tuple(shape[1:]) for shape in layout.shapes]
        self._flat = [len(tail) == 1 for tail in self._tails]
        """Which parts lie in a row as they are."""

    def _of_width(self, rows: int) -> Layout:
        return replace(self.layout, shapes=tuple(torch.Size((rows, *shape[1:])) for shape in self.layout.shapes))

    def joined(self, y: State) -> Tensor:
        """Return the parts ``[*lead, rows, ...]`` of a state as ``[*lead, rows, n]``."""
        found = parts(y)
        lead = found[0].dim() - len(self._tails[0])
        pieces = [
            p if flat else p.reshape(*p.shape[:lead], width)
            for p, flat, width in zip(found, self._flat, self.widths, strict=True)
        ]
        return torch.cat(pieces, dim=-1) if len(pieces) > 1 else pieces[0]

    def split(self, rows: Tensor) -> State:
        """Return ``[*lead, rows, n]`` in the user's shapes, ``[*lead, rows, *state]``."""
        if not self.layout.is_tuple:
            return rows if self._flat[0] else rows.reshape(*rows.shape[:-1], *self._tails[0])
        pieces = rows.split_with_sizes(self.widths, -1)
        lead = rows.shape[:-1]
        shapes = zip(pieces, self._flat, self._tails, strict=True)
        return tuple(p if flat else p.reshape(*lead, *tail) for p, flat, tail in shapes)

    def write(self, found: Sequence[Tensor], out: Tensor) -> None:
        """Write the parts ``[rows, ...]`` of a state into ``out [rows, n]``."""
        if not self.layout.is_tuple:
            out.copy_(found[0].detach().reshape(out.shape))
            return
        for part, flat, slot in zip(found, self._flat, out.split_with_sizes(self.widths, 1), strict=True):
            slot.copy_(part.detach() if flat else part.detach().reshape(slot.shape))

    def norms(self, x: Tensor) -> Tensor:
        """Return the largest root mean square over the judged parts of each row of ``x [rows, n]``, ``[rows]``."""
        if x.shape[0] == 1:
            # One row is the joint loop's vector, and takes its arithmetic: the same bits.
            return self.of_width(1).norm(x[0])[None]
        if len(self.widths) == 1:
            root: Tensor = torch.linalg.vector_norm(x, dim=1) / self.n**0.5
            return root
        seen = torch.split(x, self.widths, dim=1)[: self.layout.judged]
        norms = [torch.linalg.vector_norm(p, dim=1) / max(p.shape[1], 1) ** 0.5 for p in seen]
        return torch.stack(norms).amax(0)


class RowField(FlatField):
    """The user's field on rows of samples, each at a time of its own.

    A field that sets ``sample_time = True`` is given ``t`` as ``[rows, 1, ..., 1]``, with as many dimensions as its
    state, the first part of a tuple. Any other sees a batch of one at a 0-d time, vectorised by ``torch.func.vmap``.
    """

    def __init__(self, field: VectorField, layout: Layout) -> None:
        super().__init__(field, layout)
        self.rows = RowLayout(layout)
        self.sample_time = bool(getattr(field, "sample_time", False))
        self._of_field = self._of_rows
        self.units: dict[str, Tensor] = {}
        """The unit matrix that Jacobians of any number of rows are formed by."""

    def at(self, t: Tensor, y: Tensor) -> Tensor:
        """Return ``dy/dt [rows, n]`` at ``(t [rows], y [rows, n])``; under ``enable_grad`` it carries the graph."""
        out = self.rows.joined(tuple(self.parts_at(t, self.rows.split(y))))
        if self._unchecked and torch.is_grad_enabled():
            self.refuse_unchecked(out, t, y)
        return out

    def parts_at(self, t: Tensor, state: State) -> Sequence[Tensor]:
        """Return the parts of ``dy/dt`` at ``t [rows]`` and a state of as many samples in the user's shapes."""
        first = parts(state)[0]
        count = first.shape[0]
        time = t.view(count, *([1] * (first.dim() - 1))) if self.sample_time else t[0] if count == 1 else t
        dy = self._call(time, state)
        if self.draws:
            raise UnsupportedError(DRAWS)
        return self.rows.of_width(count).parts_of(dy)

    def write_rows(self, t: Tensor, y: Tensor, out: Tensor) -> None:
        """Write ``dy/dt`` at ``(t [rows], y [rows, n])`` into ``out [rows, n]``, without a graph."""
        if self._unchecked:
            with torch.enable_grad():
                out.copy_(self.at(t, y.detach().requires_grad_()).detach())
            return
        self.rows.write(self.parts_at(t, self.rows.split(y)), out)

    def _of_rows(self, t: Tensor, y: State) -> State:
        if self.sample_time or parts(y)[0].shape[0] == 1:
            dy: State = self.field(t, y)
            return dy
        self._warn_of_transform()
        inner, is_tuple = self.field, self.layout.is_tuple

        def of_one(time: Tensor, *pieces: Tensor) -> State:
            own = tuple(p[None] for p in pieces)
            found: State = inner(time, own if is_tuple else own[0])
            return mapped(found, lambda p: p[0])

        try:
            found: State = torch.func.vmap(of_one)(t, *parts(y))
        except (RuntimeError, ValueError, NotImplementedError) as error:
            if is_out_of_memory(error) or isinstance(error, UsageError):
                raise
            raise UnsupportedError(_not_vectorised(error)) from error
        return found

    def _warn_of_transform(self) -> None:
        """Say once per field what calling it sample by sample costs."""
        field = bare(self.field)
        if isinstance(field, nn.Module) and field not in _WARNED:
            _WARNED.add(field)
            warnings.warn(
                f"field: {type(field).__name__} takes one time for the whole batch, so with batch = 'per_sample' it is "
                "vectorised over samples by torch.func.vmap, which makes a small call about 5 times as long; let "
                "forward(t, y) work with t of shape [batch, 1, ...] and set sample_time = True on it",
                stacklevel=2,
            )


def bare(field: object) -> object:
    """Return the user's own field, without what counts its calls."""
    while isinstance(field, CallsHeard):
        field = field.inner
    return field


def _not_vectorised(error: Exception) -> str:
    return (
        f"field: torch.func.vmap cannot vectorise it over samples ({first_line(error)}), as it cannot what draws "
        "random numbers, changes buffers, branches on numbers or calls requires_grad_() inside; let forward(t, y) take "
        "t of shape [batch, 1, ...] and set sample_time = True on it, or use batch = 'joint'"
    )


def first_line(error: Exception) -> str:
    """Return the first line of a message that says anything, or the error's kind."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
