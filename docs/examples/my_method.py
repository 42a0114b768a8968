"""A gradient method of one's own in one file: torch's own checkpointing around the whole solve."""

from contextlib import nullcontext
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch.utils.checkpoint import checkpoint

from odegrad.contracts import Traits
from odegrad.methods.gradients.naive import Naive


class BuffersPutBack:
    """Calls that repeat earlier ones must not move running statistics a second time."""

    def __init__(self, field):
        self.field = field

    def __enter__(self):
        self.before = [(b, b.clone()) for b in self.field.buffers()]

    def __exit__(self, *_):
        with torch.no_grad():
            for buffer, value in self.before:
                buffer.copy_(value)


@dataclass(frozen=True)
class TorchCheckpoint:
    traits: ClassVar[Traits] = Traits(
        name="torch_checkpoint",
        summary="naive backprop inside torch.utils.checkpoint",
        paper="Chen et al., Training Deep Nets with Sublinear Memory Cost, 2016",
        exact=True,
        memory="d + A s N",
        cost_forward="s(N+R)+2 F",
        cost_backward="s(N+R)+2 F + sN B",
        backward_phase="recompute",
    )

    def __call__(self, field, solver, y0, ts):
        def contexts():
            return nullcontext(), BuffersPutBack(field)

        return checkpoint(Naive(), field, solver, y0, ts, use_reentrant=False, context_fn=contexts)

    def refuses(self, solver):
        return None  # or the reason why it cannot use this solver
