"""What the graph of an f call reaches: a trained tensor that nobody told of would lose its gradient in silence."""

import functools
import math
import sys
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from odegrad.errors import UnsupportedError, UsageError

_ACCUMULATE = torch._C._functions.AccumulateGrad  # type: ignore[attr-defined]

BETWEEN = 5
"""Graphs of one shape between two that are walked."""
_MAX_SHAPES = 64
"""A field whose calls have more shapes than these has its graphs walked anew."""

nodes_made: Callable[[], float] = getattr(torch._C._autograd, "_get_sequence_nr", lambda: math.nan)
"""How many nodes of graphs this thread has made so far."""


def leaves(outputs: Iterable[Tensor], seen: set[object] | None = None) -> Iterator[Tensor]:
    """Yield the leaves that the graphs of ``outputs`` reach, each once; an output may be one itself.

    Behind the nodes ``seen``, which the walk adds to, nothing is looked for; None is one of them.
    """
    for node in _accumulating([out.grad_fn for out in outputs], {None} if seen is None else seen):
        yield node.variable
    for out in outputs:
        if out.grad_fn is None and out.requires_grad:
            yield out


def _accumulating(nodes: Iterable[Any], seen: set[object]) -> list[Any]:
    """Return the nodes behind ``nodes`` that accumulate into leaves, which are seen in the graph as such."""
    found: list[Any] = []
    stack: list[Any] = [node for node in nodes if node not in seen]
    # At every pull-back: a node costs its wrapper in Python, so that each is asked for once, and nothing else is.
    while stack:
        for node, _ in stack.pop().next_functions:
            if node not in seen:
                seen.add(node)
                (found if type(node) is _ACCUMULATE else stack).append(node)
    return found


def reached(output: Tensor, named: Sequence[Tensor]) -> set[int]:
    """Return the ids of those of ``named``, none of them a leaf, that the graph of ``output`` reaches."""
    seen: set[object] = {None, output.grad_fn}
    stack: list[Any] = [output.grad_fn]
    while stack:
        for node, _ in stack.pop().next_functions:
            if node not in seen:
                seen.add(node)
                stack.append(node)
    return {id(x) for x in named if x.grad_fn in seen}


class Known:
    """The tensors that the graph of an f call may reach: ``trained``, beside the call's own time and state."""

    def __init__(self, trained: Sequence[Tensor]) -> None:
        self._trained = frozenset(map(id, trained))
        self._ends: set[object] = {None, *(x.grad_fn for x in trained)}
        """Where the walk ends: at computed tensors, and at leaves that it has found to be known."""
        self._left: dict[Hashable, int] = {}
        """Shape of a call's graph -> how many more of it may go by before one is walked again."""

    def is_due(self, shape: Hashable) -> bool:
        """Return whether the graph of an f call must be walked: one of a new ``shape``, and one in six of any other.

        To walk a small field's graph takes a twentieth of the time that its pull-back takes. What reaches another
        tensor makes another number of nodes, or leaves out a tensor that was reached, or else stands where a constant
        stood; and that is found within six calls.
        """
        left = self._left.get(shape, 0)
        self._note(shape, left - 1 if left else BETWEEN)
        return not left

    def is_new(self, shape: Hashable) -> bool:
        """Return whether no graph of this ``shape`` has been asked about."""
        if shape in self._left:
            return False
        self._note(shape, 0)
        return True

    def _note(self, shape: Hashable, left: int) -> None:
        if shape not in self._left and len(self._left) >= _MAX_SHAPES:
            self._left.clear()
        self._left[shape] = left

    def refuse_others(self, outputs: Sequence[Tensor], also: Sequence[Tensor], named: Callable[[Tensor], str]) -> None:
        """Raise if the graph of ``outputs`` reaches a leaf that is neither trained nor in ``also``.

        A method that solves without a graph would silently give such a leaf no gradient. A leaf that the field has made
        within the call, and that nobody holds, is none of them: no gradient of it can be asked for.

        Parameters
        ----------
        outputs
            What f calls returned, or what was computed from it.
        also
            Times and states of the calls.
        named
            Says in words where the field has a tensor from.

        Raises
        ------
        UsageError
            If there is such a leaf.
        """
        self.refuse_behind([out.grad_fn for out in outputs], also, named)
        for out in outputs:
            if out.grad_fn is None and out.requires_grad and id(out) not in self._trained and _is_lost(out, also):
                raise _closure(out, named)

    def refuse_behind(
        self,
        nodes: Iterable[Any],
        also: Sequence[Tensor],
        named: Callable[[Tensor], str],
        until: Iterable[object] = (),
    ) -> None:
        """Raise what ``refuse_others`` does of the leaves behind ``nodes``; not of those behind the nodes ``until``."""
        # No name for a leaf here: it would count as somebody who holds it.
        for node in _accumulating(nodes, self._ends.union(until)):
            if id(node.variable) in self._trained:
                self._ends.add(node)
            elif _is_lost(node.variable, also):
                raise _closure(node.variable, named)


def _is_lost(leaf: Tensor, also: Sequence[Tensor]) -> bool:
    """Return whether ``leaf`` is none of ``also``, and somebody holds it who may ask for its gradient."""
    for known in also:
        if known is leaf:
            return False
    return sys.getrefcount(leaf) > _references_of_a_leaf_that_nobody_holds()


def _closure(leaf: Tensor, named: Callable[[Tensor], str]) -> UsageError:
    return UsageError(
        f"field: it depends on {named(leaf)}of shape {tuple(leaf.shape)} that requires a gradient but is not among "
        "field.parameters() (reached through a closure), so this method would lose its gradient; keep it as an "
        "attribute of the field (self.name = tensor), register it as a parameter, or make it part of the state"
    )


@functools.cache
def _references_of_a_leaf_that_nobody_holds() -> int:
    """Return how many references ``_is_lost`` sees of a tensor that lives in its graph alone."""
    # Measured, as it depends on how this PyTorch keeps the Python object of a tensor alive.
    with torch.enable_grad():
        fresh = torch.zeros(1).requires_grad_() * 2.0
    return max(_references(node.variable, ()) for node in _accumulating([fresh.grad_fn], {None}))


def _references(leaf: Tensor, _also: Sequence[Tensor]) -> int:
    return sys.getrefcount(leaf)


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
            f"field: an operation of it has no second derivative, which is needed here ({said.splitlines()[0]}); use "
            "another gradient method, such as aca, with a solver such as dopri5"
        )
    return error
