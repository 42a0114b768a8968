"""Products with a field's Jacobian whose graph is differentiated again, and operations that do not allow it."""

from collections.abc import Iterable, Sequence
from typing import Protocol

import torch
from torch import Tensor

from odegrad.errors import UnsupportedError
from odegrad.methods.fields.closures import explained


class _Node(Protocol):
    """A node of autograd's graph."""

    @property
    def next_functions(self) -> Sequence[tuple["_Node | None", int]]: ...


def pulled_with_graph(
    outputs: Sequence[Tensor], inputs: Sequence[Tensor], weights: Sequence[Tensor]
) -> tuple[Tensor | None, ...]:
    """Return the products of ``weights`` with the Jacobian of ``outputs`` by ``inputs``, with their graph.

    The weights should require gradients: an operation that can be differentiated only once
    (``once_differentiable``) shows by them alone. With others its product would pass for a constant.

    Parameters
    ----------
    outputs, inputs
        What is differentiated, and by what.
    weights
        One for each output, of its shape.

    Raises
    ------
    UnsupportedError
        If an operation between them has no second derivative.
    """
    try:
        found = torch.autograd.grad(outputs, inputs, weights, create_graph=True, allow_unused=True)
    except RuntimeError as error:
        raise explained(error) from error
    refuse_once_differentiable(found, (*inputs, *weights))
    return found


def refuse_once_differentiable(products: Iterable[Tensor | None], ends: Iterable[Tensor]) -> None:
    """Raise if the graph of ``products`` ends in an operation that can be differentiated only once.

    Such an operation leaves a node that raises when it is gone through; but no way leads from there to a product's
    inputs, so a gradient by these alone never comes by, and would be zero in silence.

    Parameters
    ----------
    products
        Gradients with their graph.
    ends
        Tensors behind which nothing is looked for.

    Raises
    ------
    UnsupportedError
        If it does.
    """
    seen: set[object] = {None, *(x.grad_fn for x in ends)}
    stack: list[_Node | None] = [x.grad_fn for x in products if x is not None]
    while stack:
        node = stack.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if type(node).__name__ == "Error":
            raise UnsupportedError(
                "field: an operation of it can be differentiated only once (its backward is marked with "
                "once_differentiable), and its second derivative is needed here; write that backward with operations "
                "that autograd knows, or use another gradient method, such as aca, with a solver such as dopri5"
            )
        stack += [following for following, _ in node.next_functions]
