"""What CUDA refuses and where it makes the host wait, as rules over calls of ATen's operators.

Facts of PyTorch's CUDA backend: its notes on asynchronous execution, and which kernels read a number back.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload

aten = torch.ops.aten

COPIES = frozenset({aten.copy_.default, aten._to_copy.default})
"""May take a tensor of either device."""

READS = frozenset(
    {
        aten._local_scalar_dense.default,
        aten.is_nonzero.default,
        aten.equal.default,
        aten.nonzero.default,
        aten.masked_select.default,
        aten.unique_dim.default,
        aten._unique2.default,
        aten.unique_consecutive.default,
        aten.repeat_interleave.Tensor,
        aten._linalg_check_errors.default,
        # These look at the status of LAPACK's counterpart before they return.
        aten._linalg_eigh.default,
        aten._linalg_eigvals.default,
        aten.linalg_eig.default,
        aten._linalg_svd.default,
    }
)
"""Their results, or their shapes, are numbers that the host must have."""

INDEXING = frozenset(
    {
        aten.index.Tensor,
        aten._unsafe_index.Tensor,
        aten.index_put.default,
        aten.index_put_.default,
        aten._index_put_impl_.default,
        aten._unsafe_index_put.default,
    }
)

LISTS = ("_foreach_", "_fused_", "_amp_")
"""Beginnings of operators over lists, which take their scalars as CPU tensors."""

TAKE_SCALARS = frozenset(
    {"fill_", "fill", "where", "masked_fill", "masked_fill_", "lerp", "lerp_", "clamp", "addcmul", "addcdiv"}
)
"""Operators that take a 0-d CPU tensor beside tensors of the card without being called pointwise."""


@dataclass(frozen=True)
class Facts:
    """What an operator's schema tells."""

    name: str
    written: tuple[tuple[int, str], ...]
    """Position and name of the arguments that are written to."""
    returns: int
    is_view: bool
    draws: bool

    @classmethod
    @cache
    def of(cls, op: OpOverload) -> "Facts":
        """Return the facts of ``op``."""
        arguments, returned = op._schema.arguments, op._schema.returns
        written = tuple((i, a.name) for i, a in enumerate(arguments) if _is_written(a))
        is_view = any(r.alias_info is not None and not r.alias_info.is_write for r in returned)
        draws = torch.Tag.nondeterministic_seeded in op.tags
        return cls(op.__name__, written, len(returned), is_view or op is aten.detach.default, draws)


def tensors(value: Any) -> list[Tensor]:
    """Return the tensors in an argument."""
    found: list[Tensor] = []
    waiting = [value]
    while waiting:
        each = waiting.pop()
        if isinstance(each, Tensor):
            found.append(each)
        elif type(each) in (list, tuple):
            waiting.extend(each)
    return found


def refuse_mixture(op: OpOverload, args: Sequence[Any], on_card: type[Tensor]) -> None:
    """Raise as CUDA does if ``op`` gets a CPU tensor where it wants one of the card.

    Raises
    ------
    RuntimeError
        If it does.
    """
    facts = Facts.of(op)
    off = [x for x in tensors(list(args)) if not isinstance(x, on_card)]
    if not off or op in COPIES or facts.name.startswith(LISTS):
        return
    if op in INDEXING:
        if not isinstance(args[0], on_card):
            raise RuntimeError("indices should be either on cpu or on the same device as the indexed tensor (cpu)")
        values = args[2] if len(args) > 2 else None
        if isinstance(values, Tensor) and not isinstance(values, on_card) and values.dim() > 0:
            raise RuntimeError(f"{facts.name}: expected values on cuda:0 as the indexed tensor, got cpu")
        return
    written = (args[i] for i, _ in facts.written if i < len(args))
    if any(not isinstance(x, on_card) for each in written for x in tensors(each)):
        raise RuntimeError(f"{facts.name}: a result on cpu was given for inputs on cuda:0")
    base = facts.name.partition(".")[0]
    takes_scalars = torch.Tag.pointwise in op.tags or base in TAKE_SCALARS
    if not takes_scalars or any(x.dim() > 0 for x in off):
        raise RuntimeError(
            f"Expected all tensors to be on the same device, but found at least two devices, cuda:0 and cpu! "
            f"({facts.name} of {[tuple(x.shape) for x in off]} on the cpu)"
        )


def index_waits(op: OpOverload, args: Sequence[Any], on_card: type[Tensor]) -> Iterator[str]:
    """Yield a word for each index that makes the host wait: a mask is counted, one on the CPU is copied."""
    for index in args[1] if op in INDEXING else ():
        if index is None:
            continue
        if index.dtype in (torch.bool, torch.uint8):
            yield "mask"
        elif not isinstance(index, on_card):
            yield "copy of an index"


def checks_errors(op: OpOverload, args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
    """Return whether the call asks for a look at LAPACK's status (``check_errors=True``)."""
    for i, argument in enumerate(op._schema.arguments):
        if argument.name == "check_errors":
            return bool(args[i] if i < len(args) else kwargs.get("check_errors", False))
    return False


def _is_written(argument: Any) -> bool:
    return argument.alias_info is not None and bool(argument.alias_info.is_write)
