"""What the graph of an f call reaches: a trained tensor that nobody told of would lose its gradient in silence."""

import functools
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from odegrad.errors import UnsupportedError, UsageError

_ACCUMULATE = torch._C._functions.AccumulateGrad  # type: ignore[attr-defined]


def leaves(outputs: Iterable[Tensor], ends: Iterable[Tensor] = ()) -> Iterator[Tensor]:
    """Yield the leaves that the graphs of ``outputs`` reach, each once; an output may be one itself.

    Behind the computed tensors ``ends`` nothing is looked for.
    """
    seen: set[Any] = {x.grad_fn for x in ends}
    stack: list[Any] = []
    for out in outputs:
        if out.grad_fn is not None:
            stack.append(out.grad_fn)
        elif out.requires_grad:
            yield out
    while stack:
        for node, _ in stack.pop().next_functions:
            if node is None or node in seen:
                continue
            seen.add(node)
            # A leaf is seen in the graph only, as a node that accumulates into it.
            if type(node) is _ACCUMULATE:
                yield node.variable
            else:
                stack.append(node)


def refuse_closures(
    outputs: Sequence[Tensor],
    known: frozenset[int],
    ends: Sequence[Tensor],
    also: Iterable[Tensor],
    named: Callable[[Tensor], str],
) -> None:
    """Raise if the graph of ``outputs`` reaches a leaf that is neither among ``known`` (ids) nor in ``also``.

    A method that solves without a graph would silently give such a leaf no gradient. A leaf that the field has made
    within the call, and that nobody holds, is none of them: no gradient of it can be asked for.

    Parameters
    ----------
    outputs
        What f calls returned, or what was computed from it.
    known, ends, also
        The trained tensors, by their ids; those of them that were computed; times and states of the calls.
    named
        Says in words where the field has a tensor from.

    Raises
    ------
    UsageError
        If there is such a leaf.
    """
    allowed = None
    for leaf in leaves(outputs, ends):
        if id(leaf) in known:
            continue
        if allowed is None:
            allowed = {id(x) for x in also}
        if id(leaf) not in allowed and sys.getrefcount(leaf) > _references_of_a_leaf_that_nobody_holds():
            raise UsageError(
                f"field: it depends on {named(leaf)}of shape {tuple(leaf.shape)} that requires a gradient but is not "
                "among field.parameters() (reached through a closure), so this method would lose its gradient; keep "
                "it as an attribute of the field (self.name = tensor), register it as a parameter, or make it part of "
                "the state"
            )


@functools.cache
def _references_of_a_leaf_that_nobody_holds() -> int:
    """Return how many references the loop over ``leaves`` sees of a tensor that lives in its graph alone."""
    # Measured, as it depends on how this PyTorch keeps the Python object of a tensor alive.
    with torch.enable_grad():
        fresh = torch.zeros(1).requires_grad_() * 2.0
    count = 0
    for leaf in leaves([fresh]):
        count = sys.getrefcount(leaf)
    return count


def explained(error: RuntimeError) -> Exception:
    """Return what to raise for an error of PyTorch inside of a pull-back through f."""
    said = str(error)
    if "backward through the graph a second time" in said:
        return UsageError(
            "field: it depends on a tensor that was computed from trained tensors before the solve and that it does "
            "not hold as an attribute, so only its first f call can be pulled back; keep it as an attribute of the "
            "field (self.name = tensor), or compute it inside of forward"
        )
    if "is not compatible with .grad()" in said or "incompatible with .grad()" in said:
        return UnsupportedError(
            "field: it calls torch.utils.checkpoint with use_reentrant=True, which cannot be pulled back inside of a "
            "gradient method; pass use_reentrant=False"
        )
    if "is not implemented" in said and "derivative for" in said:
        return UnsupportedError(
            f"field: an operation of it has no second derivative, which forward_sensitivity and sees='tangent' need "
            f"({said.splitlines()[0]}); use another gradient method, such as aca"
        )
    return error
