"""Whether a field's samples are apart: by themselves, in any place and beside any mates they move alike."""

import math
import weakref
from types import FunctionType
from typing import cast

import torch
from torch import Tensor, nn

from odegrad.contracts import State, VectorField
from odegrad.errors import UnsupportedError, UsageError, is_out_of_memory
from odegrad.methods.fields.held import Held
from odegrad.methods.solvers.per_sample.rows import RowField, bare, first_line
from odegrad.states import parts, undisturbed

_CHECKED: "weakref.WeakSet[object]" = weakref.WeakSet()


def refuse_coupled(rows: RowField, t: Tensor, y: Tensor) -> None:
    """Raise if the samples of ``y [rows, n]`` at ``t [rows]`` are not apart; once per field, off the counters.

    Raises
    ------
    UnsupportedError
        If the last sample's derivative depends on the others, or the field cannot be called on fewer samples.
    """
    field = bare(rows.field)
    if len(y) < 2 or field in _CHECKED:
        return
    alone = _BareRows(rows, cast("VectorField", field))
    # The others are moved off, each by another step: samples that are alike could not tell a mean from a sample.
    steps = torch.arange(len(y) - 1, dtype=y.dtype, device=y.device)[:, None].remainder(7).add(1.0).mul(0.01)
    moved = torch.cat([y[:-1] + steps * (1.0 + y[:-1].abs()), y[-1:]])
    times = t[-1:].expand_as(t)
    with undisturbed(y.device, *([field] if isinstance(field, nn.Module) else [])), torch.no_grad():
        # Last and first: a field that holds numbers by place may happen to take the right ones of one sample alone.
        try:
            whole = alone.at(times, moved)[-1]
        except (RuntimeError, ValueError, IndexError) as error:
            if not rows.sample_time or is_out_of_memory(error) or isinstance(error, UsageError):
                raise
            first = parts(rows.rows.split(y))[0]
            shape = (len(y), *([1] * (first.dim() - 1)))
            raise UnsupportedError(
                f"field: {type(field).__name__} says sample_time = True and cannot be called at t of shape {shape} "
                f"and y of shape {tuple(first.shape)} ({first_line(error)}); let t broadcast against y, as "
                "t.expand(*y.shape[:-1], 1) does, or leave sample_time out"
            ) from error
        among = torch.stack([whole, alone.at(times, moved.flip(0))[0]])
        try:
            by_itself = alone.at(t[-1:], y[-1:])[0]
        except (RuntimeError, ValueError, IndexError) as error:
            if is_out_of_memory(error):
                raise
            raise UnsupportedError(
                f"field: {type(field).__name__} cannot be called on a part of the batch ({first_line(error)}), "
                f"which steps of each sample's own need{_held_by_sample(field, len(y))}; {OF_EACH_SAMPLE}"
            ) from error
        off, size = torch.stack([(among - by_itself).abs().amax(), by_itself.abs().amax()]).tolist()
        bound = (1e-8 if y.dtype == torch.float64 and rows.autocast is None else 1e-2) * size
        if off > bound:
            unmoved = torch.stack([alone.at(times, y)[-1], alone.at(times, y.flip(0))[0]])
            _refuse_apart(field, len(y), off, by_place=float((among - unmoved).abs().amax()) <= bound)
    # Of a sample that is not finite nothing has been seen; a bound method is another object at every look.
    if math.isfinite(off) and isinstance(field, nn.Module | FunctionType):
        _CHECKED.add(field)


OF_EACH_SAMPLE = "let numbers of a sample's own be a part of the state that rests, or use batch = 'joint'"
"""What to do with a field that holds numbers of each sample."""


def _refuse_apart(field: object, batch: int, off: float, *, by_place: bool) -> None:
    """Raise for a field of which a sample by itself moves otherwise by ``off``: by its place, or by its mates.

    Raises
    ------
    UnsupportedError
        Always.
    """
    name = type(field).__name__
    if by_place:
        raise UnsupportedError(
            f"field: what {name} says of a sample goes by its place in the batch (one by itself moves otherwise by "
            f"{off:.1g}), and with steps of each sample's own rows change their places"
            f"{_held_by_sample(field, batch)}; {OF_EACH_SAMPLE}"
        )
    raise UnsupportedError(
        f"field: the samples of {name} depend on each other (one by itself moves otherwise by {off:.1g}), as in batch "
        "normalisation in training or attention over the batch, so they cannot have steps of their own; call eval() on "
        "it, or use batch = 'joint'"
    )


def _held_by_sample(field: object, batch: int) -> str:
    """Return which tensors of ``field`` hold a row for each sample, in words; nothing if none does."""
    if not isinstance(field, nn.Module):
        return ""
    held = Held(field)
    names = [repr(held.names[key]) for key, x in held.tensors.items() if x.dim() and len(x) == batch]
    rows = "has as many rows as there are samples" if len(names) == 1 else "have as many rows as there are samples"
    return f"; {' and '.join(names)} {rows}" if names else ""


class _BareRows(RowField):
    """The same field without what counts its calls, called on whole batches: at the last time if it takes one only."""

    def __init__(self, rows: RowField, field: VectorField) -> None:
        super().__init__(field, rows.layout)
        self.sample_time = rows.sample_time

    def _of_rows(self, t: Tensor, y: State) -> State:
        dy: State = self.field(t if self.sample_time or t.dim() == 0 else t[-1], y)
        return dy
