"""The Jacobian of a vector field, sample by sample: whole matrices, or products with one vector for each sample.

The samples of a batch must not depend on each other, so that the batch's Jacobian is block diagonal and one product
serves all samples. Batch normalisation in training mode couples them: a row then holds the sum over the batch of what
that number of the output tells of this sample. The field always sees its whole batch, for a field may hold numbers
of its own for each sample (the probe vectors of a flow).
"""

import logging
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call, vjp, vmap

from odegrad.contracts import State, VectorField
from odegrad.errors import NonFiniteError, is_out_of_memory
from odegrad.methods.fields.twice import pulled_with_graph
from odegrad.states import flatten, parts, undisturbed

ROWS_AT_A_TIME = 8
"""Rows in one vectorised product: more is slower where a net is wide (caches), fewer where it is narrow (calls)."""

By = Literal["torch.func", "autograd"]
"""What formed a Jacobian."""

_log = logging.getLogger("odegrad")


@dataclass(frozen=True)
class DenseJacobian:
    """The Jacobians of a batch, and what formed them."""

    values: Tensor
    """``df/dy [batch, n, n]``, ``n`` numbers per sample over all parts of the state, in the state's type."""
    by: By


class JacobianRows:
    """Forms dense Jacobians of one field at any time and state.

    ``torch.func`` takes many rows at a time: ``vmap`` over cotangents of one ``vjp`` of the whole batch. A field that
    it cannot transform (one that calls ``autograd.grad`` inside, a custom function without a rule for it) or whose
    first Jacobian it gets wrong is given to plain autograd, one row at a time, from then on; that is said once, as a
    warning of the logger ``odegrad``.

    Parameters
    ----------
    field
        The dynamics.
    """

    def __init__(self, field: VectorField) -> None:
        self.field = field
        self.by: By = "torch.func"
        self._checked = False

    def __call__(self, t: Tensor, y: State) -> DenseJacobian:
        """Return the Jacobians at time ``t`` (0-d) and state ``y [batch, ...]``.

        Raises
        ------
        NonFiniteError
            If one is not finite; the message names time and sample.
        """
        values = self._transformed(t, y) if self.by == "torch.func" else None
        if values is None:
            values = _row_by_row(self.field, t, y)
        return DenseJacobian(check_finite(values, t), self.by)

    def _transformed(self, t: Tensor, y: State) -> Tensor | None:
        try:
            values = _vectorised(self.field, t, y)
            reason = None if self._checked else _contradiction(self.field, t, y, values)
        except (RuntimeError, NotImplementedError) as error:
            if is_out_of_memory(error):
                raise
            values, reason = None, str(error).split("\n", maxsplit=1)[0]
        if reason is not None:
            self.by, values = "autograd", None
            _log.warning("Jacobian of %s: by autograd, row by row: %s", type(self.field).__name__, reason)
        self._checked = True
        return values


def dense_jacobian(field: VectorField, t: Tensor, y: State) -> DenseJacobian:
    """Return the Jacobians of ``field`` at time ``t`` (0-d) and state ``y [batch, ...]``.

    Raises
    ------
    NonFiniteError
        If one is not finite; the message names time and sample.
    """
    return JacobianRows(field)(t, y)


class JacobianProducts:
    """``J v`` and ``J^T v`` for all samples at once, from one graph of one f call; vectors are ``[batch, n]``.

    ``J v`` differentiates the pull-back by its cotangent (double backward). It takes two thirds of the time of
    forward-mode differentiation, that would call the field anew (measured on a net of convolutions), and the one
    graph holds one draw of the field's random numbers.
    """

    def __init__(self, field: VectorField, t: Tensor, y: State) -> None:
        self._t = t
        self._flat, self._dy = _with_graph(field, t, y)
        self._seed = torch.zeros_like(self._dy, requires_grad=True)
        (pulled,) = pulled_with_graph([self._dy], [self._flat], [self._seed])
        # of a field that does not depend on its state: zero, whatever the seed
        self._pulled = self._seed * 0.0 if pulled is None else pulled
        self.shape, self.device = self._dy.shape, self._dy.device

    def pull(self, v: Tensor) -> Tensor:
        """Return ``J^T v``, in the type of ``v``."""
        return self._product(self._dy, self._flat, v)

    def push(self, v: Tensor) -> Tensor:
        """Return ``J v``, in the type of ``v``."""
        return self._product(self._pulled, self._seed, v)

    def symmetric(self, v: Tensor) -> Tensor:
        """Return ``(J v + J^T v) / 2``."""
        return (self.push(v) + self.pull(v)) / 2

    def gram(self, v: Tensor) -> Tensor:
        """Return ``J^T J v``, whose largest eigenvalue is the square of ``||J||_2``."""
        return self.pull(self.push(v))

    def _product(self, output: Tensor, by: Tensor, v: Tensor) -> Tensor:
        (found,) = torch.autograd.grad(output, by, v.to(self._dy), retain_graph=True)
        return check_finite(found, self._t).to(v)


@contextmanager
def jacobian_products(field: VectorField, t: Tensor, y: State) -> Iterator[JacobianProducts]:
    """Give the products with the Jacobians at time ``t`` (0-d) and state ``y``; the field is as before at the end."""
    with _undisturbed(field, parts(y)[0].device):
        yield JacobianProducts(field, t, y)


def _undisturbed(field: VectorField, device: torch.device) -> AbstractContextManager[None]:
    return undisturbed(device, *([field] if isinstance(field, nn.Module) else []))


def check_finite(x: Tensor, t: Tensor) -> Tensor:
    """Return ``x [batch, ...]``, a part of Jacobians at time ``t``.

    Raises
    ------
    NonFiniteError
        If it is not finite; the message names time and sample.
    """
    finite = torch.isfinite(x).reshape(len(x), -1).all(1)
    if not bool(finite.all()):
        sample = int((~finite).nonzero()[0])
        raise NonFiniteError(
            f"Jacobian: not finite at t = {float(t):g}, sample {sample}; check the parameters and the state for NaN"
        )
    return x


def _on_flat(field: Callable[[Tensor, State], State], t: Tensor, y: State) -> Callable[[Tensor], Tensor]:
    """Return ``f(t, .)`` from and to ``[batch, n]``, the parts of a tuple side by side."""
    like = parts(y)

    def call(flat: Tensor) -> Tensor:
        pieces = torch.split(flat, [p[0].numel() for p in like], dim=1)
        state = tuple(piece.reshape(p.shape) for piece, p in zip(pieces, like, strict=True))
        out = flatten(field(t, state[0] if isinstance(y, Tensor) else state))
        return out + 0 * flat  # connected even where f ignores y; adds zeros to the Jacobian

    return call


def _vectorised(field: VectorField, t: Tensor, y: State) -> Tensor:
    """Return the Jacobians by ``torch.func``, ``[batch, n, n]``."""

    def call(time: Tensor, state: State) -> State:
        if not isinstance(field, nn.Module):
            plain: State = field(time, state)
            return plain
        copies = {name: b.clone() for name, b in field.named_buffers()}  # torch.func refuses to change captured ones
        found: State = functional_call(field, copies, (time, state))
        return found

    flat = flatten(y).detach()
    with _undisturbed(field, flat.device), torch.no_grad():
        pull = vjp(_on_flat(call, t, y), flat)[1]
        batch, n = flat.shape
        basis = torch.eye(n, dtype=flat.dtype, device=flat.device)[:, None].expand(n, batch, n)
        # The field was called once, so its draws are one for all rows; a pull-back that draws must repeat itself too.
        rows: Tensor = vmap(lambda e: pull(e)[0], randomness="same", chunk_size=ROWS_AT_A_TIME)(basis)
    return rows.transpose(0, 1)


def _row_by_row(field: VectorField, t: Tensor, y: State) -> Tensor:
    """Return the Jacobians by autograd, one vector-Jacobian product for each row, ``[batch, n, n]``."""
    with _undisturbed(field, parts(y)[0].device):
        flat, dy = _with_graph(field, t, y)
        rows = [torch.autograd.grad(column.sum(), flat, retain_graph=True)[0] for column in dy.unbind(1)]
    return torch.stack(rows, dim=1)


def _with_graph(field: VectorField, t: Tensor, y: State) -> tuple[Tensor, Tensor]:
    """Return ``y`` as a leaf and ``f(t, y)`` with its graph, ``[batch, n]`` each."""
    flat = flatten(y).detach().clone().requires_grad_()
    with torch.enable_grad():
        return flat, _on_flat(field, t, y)(flat)


def _contradiction(field: VectorField, t: Tensor, y: State, values: Tensor) -> str | None:
    """Return how Jacobians ``[batch, n, n]`` differ from one product of plain autograd, or None if they do not."""
    with _undisturbed(field, values.device):
        flat, dy = _with_graph(field, t, y)
        # One cotangent for all samples, as the rows have: so it holds where a batch is coupled, too.
        weights = torch.cos(torch.arange(dy.shape[1], dtype=torch.float64)).to(dy).expand_as(dy)
        (product,) = torch.autograd.grad(dy, flat, weights)
    found = torch.einsum("bi,bij->bj", weights, values)
    size = torch.einsum("bi,bij->bj", weights.abs(), values.abs()) + product.abs()
    off = (found - product).abs() > torch.finfo(values.dtype).eps ** 0.5 * size.amax(1, keepdim=True)
    return "torch.func gives another product than autograd" if bool(off.any()) else None
