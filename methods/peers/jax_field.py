"""A torch field in jax: traced once at its shapes, its tensors as arguments, and held against torch before it is used.

The trace sees through ``autograd.grad`` inside of a field, and jax differentiates all of it again. Whatever a
translation could lose shows in the value or in the vector-Jacobian product: both must equal torch's.
"""

import operator
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn
from torch.fx.experimental.proxy_tensor import make_fx

from odegrad.contracts import State
from odegrad.errors import UnsupportedError
from odegrad.methods.peers.jax_operators import OPERATORS, Jax, JaxArray
from odegrad.states import parts

LARGEST_DIFFERENCE = {torch.float64: 1e-12, torch.float32: 1e-4}
"""The largest difference of values and products between both, relative to their size."""


@dataclass(frozen=True)
class HeldArrays:
    """The tensors that a field holds: parameters, buffers and plain attributes, each by its place."""

    names: tuple[str, ...]
    tensors: tuple[Tensor, ...]

    @classmethod
    def by(cls, field: nn.Module) -> "HeldArrays":
        """Return those of ``field`` and its modules."""
        found: dict[str, Tensor] = dict(field.named_parameters()) | dict(field.named_buffers())
        for place, module in field.named_modules():
            own = {name: value for name, value in vars(module).items() if isinstance(value, Tensor)}
            found |= {f"{place}.{name}" if place else name: value for name, value in own.items()}
        return cls(tuple(found), tuple(found.values()))

    @property
    def trained(self) -> list[int]:
        """Return the places of the trained parameters."""
        return [i for i, x in enumerate(self.tensors) if isinstance(x, nn.Parameter) and x.requires_grad]


@contextmanager
def _holding(field: nn.Module, held: Mapping[str, Tensor]) -> Iterator[None]:
    """Let ``field`` hold other tensors at these places inside."""
    kept: list[tuple[dict[str, object], str, Any]] = []
    try:
        for place, tensor in held.items():
            owner, _, name = place.rpartition(".")
            module = field.get_submodule(owner)
            shelves = (module._parameters, module._buffers, vars(module))
            shelf: Any = next(shelf for shelf in shelves if name in shelf)
            kept.append((shelf, name, shelf[name]))
            shelf[name] = tensor
        yield
    finally:
        for shelf, name, tensor in reversed(kept):
            shelf[name] = tensor


@dataclass(frozen=True)
class JaxField:
    """A field as a function of jax arrays ``(t, state parts, held tensors) -> parts of dy/dt``."""

    graph: fx.Graph
    constants: Mapping[str, JaxArray]
    jax: Jax

    def __call__(self, t: JaxArray, y: Sequence[JaxArray], held: Sequence[JaxArray]) -> tuple[JaxArray, ...]:
        """Return the parts of ``dy/dt``."""
        values: dict[fx.Node, Any] = {}
        given = iter((t, *y, *held))

        def known(x: Any) -> Any:
            return fx.node.map_arg(x, lambda node: values[node])

        for node in self.graph.nodes:
            if node.op == "placeholder":
                values[node] = next(given)
            elif node.op == "get_attr":
                values[node] = self.constants[node.target]
            elif node.op == "output":
                return tuple(known(node.args[0]))
            elif node.target is operator.getitem:
                values[node] = known(node.args[0])[node.args[1]]
            else:
                values[node] = OPERATORS[_name(node)](self.jax, *known(node.args), **known(node.kwargs))
        raise AssertionError("a graph without an output")


def _name(node: fx.Node) -> str:
    """Return the operator's name without overload: ``aten.add.Tensor`` is ``add``."""
    return str(node.target).split(".")[1]


def translated(field: nn.Module, t: Tensor, y: State, jax: Any) -> JaxField:
    """Return ``field`` in jax at the shapes of ``y``, after both have given the same value and product at ``(t, y)``.

    Raises
    ------
    UnsupportedError
        If it uses an operator that is not translated, branches on numbers, draws random ones, or differs in jax.
    """
    held, pieces = HeldArrays.by(field), parts(y)

    def called(t: Tensor, *tensors: Tensor) -> tuple[Tensor, ...]:
        with torch.enable_grad(), _holding(field, dict(zip(held.names, tensors[len(pieces) :], strict=True))):
            state = tuple(x.detach().requires_grad_() for x in tensors[: len(pieces)])
            return parts(field(t, state[0] if isinstance(y, Tensor) else state))

    drawn = torch.get_rng_state()
    try:
        module = make_fx(called)(t.detach(), *(x.detach() for x in (*pieces, *held.tensors)))
    except Exception as error:
        raise UnsupportedError(
            f"the field cannot be traced for jax: {type(error).__name__}: {str(error).strip()[:200]}"
        ) from error
    if not torch.equal(drawn, torch.get_rng_state()):
        raise UnsupportedError("the field draws random numbers, which jax would draw otherwise; draw them before")
    graph = module.graph
    graph.eliminate_dead_code()
    _check_operators(graph)
    constants = {n.target: _constant(module, n, jax) for n in graph.nodes if n.op == "get_attr"}
    found = JaxField(graph, constants, Jax(jax.numpy, jax.nn, jax.lax))
    _check_agreement(field, found, t, y, jax)
    return found


def _check_operators(graph: fx.Graph) -> None:
    for node in graph.nodes:
        if node.op == "call_function" and node.target is not operator.getitem and _name(node) not in OPERATORS:
            line = (node.stack_trace or "").strip().splitlines()
            where = f", at {line[-2].strip()}: {line[-1].strip()}" if len(line) > 1 else ""
            raise UnsupportedError(f"operator {node.target} of the field is not translated to jax{where}")


def _constant(module: nn.Module, node: fx.Node, jax: object) -> JaxArray:
    """Return a tensor that the field makes of numbers at each call; one that it keeps elsewhere could change."""
    if not all(str(user.target).startswith("aten.lift_fresh") for user in node.users):
        raise UnsupportedError(
            "the field uses a tensor that is no parameter, buffer or attribute of its modules, which could change: "
            "register it as a buffer"
        )
    return array(getattr(module, str(node.target)), jax)


def _check_agreement(field: nn.Module, found: JaxField, t: Tensor, y: State, jax: object) -> None:
    difference = disagreement(field, found, t, y, jax)
    limit = LARGEST_DIFFERENCE.get(t.dtype, 0.0)
    if not difference <= limit:
        raise UnsupportedError(
            f"the field in jax differs from torch's in value or vector-Jacobian product by {difference:.1e} (allowed "
            f"{limit:g}): it detaches what jax differentiates, or depends on something that is not given to it"
        )


def disagreement(field: nn.Module, found: JaxField, t: Tensor, y: State, jax: Any) -> float:
    """Return the largest difference of value and product by state and parameters, relative to torch's own."""
    held, pieces = HeldArrays.by(field), parts(y)
    leaves = [x.detach().requires_grad_() for x in pieces]
    with torch.enable_grad():
        ours = parts(field(t.detach(), leaves[0] if isinstance(y, Tensor) else tuple(leaves)))
        weights = [torch.cos(torch.arange(x.numel(), dtype=x.dtype)).reshape(x.shape) for x in ours]
        inputs = [*leaves, *(held.tensors[i] for i in held.trained)]
        pulled = [(x, w) for x, w in zip(ours, weights, strict=True) if x.requires_grad]
        products = torch.autograd.grad(
            [x for x, _ in pulled], inputs, [w for _, w in pulled], allow_unused=True, materialize_grads=True
        )
    arrays = [array(x, jax) for x in held.tensors]

    def of(state: Sequence[JaxArray], trained: Sequence[JaxArray]) -> tuple[JaxArray, ...]:
        return found(array(t, jax), state, exchanged(arrays, held.trained, trained))

    def both(state: object, trained: object, weights: object) -> object:
        values, pull = jax.vjp(of, state, trained)
        return values, *pull(weights)

    given = [array(x, jax) for x in leaves], [arrays[i] for i in held.trained], tuple(array(w, jax) for w in weights)
    theirs, states, parameters = jax.jit(both)(*given)
    pairs = [*zip(ours, theirs, strict=True), *zip(products, [*states, *parameters], strict=True)]
    return max(_apart(mine, tensor(its)) for mine, its in pairs)


def _apart(mine: Tensor, its: Tensor) -> float:
    size = float(mine.detach().abs().max()) if mine.numel() else 0.0
    return float((mine.detach() - its).abs().max()) / (size or 1.0) if mine.numel() else 0.0


def exchanged(arrays: Sequence[JaxArray], places: Sequence[int], others: Sequence[JaxArray]) -> list[JaxArray]:
    """Return ``arrays`` with ``others`` at ``places``."""
    out = list(arrays)
    for place, other in zip(places, others, strict=True):
        out[place] = other
    return out


def array(x: Tensor, jax: Any) -> JaxArray:
    """Return a copy of ``x`` as an array of jax: an optimizer moves parameters in place."""
    return jax.numpy.array(x.detach().cpu().numpy())


def tensor(x: JaxArray) -> Tensor:
    """Return a copy of ``x`` as a tensor; waits for it."""
    return torch.from_numpy(np.array(x))
