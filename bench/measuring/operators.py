"""Operators and floating-point operations of a block, as torch's dispatcher sees them: the same on every run."""

from typing import Any

from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry


class OperatorCount(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts every operator that is dispatched inside of a ``with`` block, those of the backward engine too.

    ``flops`` are those of matrix products, convolutions and attention by torch's own formulas, two for a
    multiplication with its addition; products with a vector and elementwise operators count as operators only.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.operators = 0
        self.flops = 0

    def __torch_dispatch__(self, func: Any, types: object, args: Any = (), kwargs: Any = None) -> object:
        """Call ``func`` and count it."""
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        self.operators += 1
        formula = flop_registry.get(getattr(func, "_overloadpacket", None))
        if formula is not None:
            self.flops += formula(*args, **kwargs, out_val=out)
        return out
