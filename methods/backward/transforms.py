"""A solve inside of ``torch.func``: grad, vjp and jacrev, and autograd's own pull-backs of many cotangents at once.

Explicit steps of ``naive`` stand in transforms as they are, in jvp, jacfwd and hessian too. Of any other solve a
transform wraps tensors into its own, which a method's inner graphs cannot be made of. So it is done outside of the
transform, on what is wrapped, and one node tells the transform how to pull back.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn
from torch._functorch.pyfunctorch import retrieve_all_functorch_interpreters
from torch.autograd import forward_ad
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from odegrad.contracts import State, StateT, VectorField
from odegrad.errors import UnsupportedError, UsageError
from odegrad.methods.fields.held import Held
from odegrad.methods.fields.surroundings import inside_transform, outside_transforms
from odegrad.methods.solvers.opaque import Context, without_derivative
from odegrad.states import Layout, flatten_times, parts

_FUNCTORCH: Any = torch._C._functorch

OTHER_WAYS = (
    "differentiate by torch.autograd.grad or torch.autograd.functional, solve a batch as one state [batch, ...], and "
    "use transforms inside of the field only"
)

BATCHED = (
    "odeint: a solve cannot be batched by torch.func's vmap, since its steps are one sequence of numbers; solve a "
    "batch as one state [batch, ...], by options = {'batch': 'per_sample'} where each sample shall have steps of its "
    "own, and models of different parameters one after the other"
)


@contextmanager
def standing_in_transforms(y0: State, ts: Tensor) -> Iterator[None]:
    """Let a solve inside be transformed operation by operation.

    Raises
    ------
    UnsupportedError
        If a transform is around it that it cannot stand in.
    """
    if any(map(_is_batched, parts(y0))):
        raise UnsupportedError(BATCHED)
    if _moves_forward(ts):
        raise UnsupportedError(
            "t, jumps: forward derivatives (jvp, jacfwd) by output times and times of jumps are not offered; take "
            "grad, vjp or jacrev by them"
        )
    try:
        yield
    except RuntimeError as error:
        if str(error).startswith("vmap:") and inside_transform():
            raise UnsupportedError(BATCHED) from error
        raise


def _is_batched(x: Tensor) -> bool:
    while _FUNCTORCH.is_functorch_wrapped_tensor(x):
        if _FUNCTORCH.is_batchedtensor(x):
            return True
        x = _FUNCTORCH.get_unwrapped(x)
    return False


def _moves_forward(x: Tensor) -> bool:
    """Return whether ``x`` is what a forward derivative is taken by."""
    if not inside_transform():
        return forward_ad.unpack_dual(x).tangent is not None  # type: ignore[no-untyped-call]
    forward = {i.level() for i in retrieve_all_functorch_interpreters() if i.key().name == "Jvp"}
    while _FUNCTORCH.is_functorch_wrapped_tensor(x):
        if _FUNCTORCH.maybe_get_level(x) in forward:
            return True
        x = _FUNCTORCH.get_unwrapped(x)
    return False


def _refuse_transforms() -> None:
    """Raise where the call is inside of any transform but one grad."""
    keys = [interpreter.key().name for interpreter in retrieve_all_functorch_interpreters()]
    if "Vmap" in keys and "Jvp" not in keys:
        raise UnsupportedError(BATCHED)
    if "Jvp" in keys or forward_ad._current_level >= 0:
        raise UnsupportedError(
            "odeint: this solve has no forward derivatives (jvp, jacfwd, hessian); take gradient method 'naive' with "
            "an explicit solver, on steps that all samples share and without precision, which has them, or grad, vjp "
            "or jacrev"
        )
    if len(keys) > 1:
        raise UnsupportedError(
            "odeint: under torch.func this gradient method has no second derivative; take one grad, vjp or jacrev, or "
            "gradient method 'naive' with an explicit solver, whose second derivatives are exact"
        )


def solved_outside(
    solve: Callable[[VectorField, StateT, Tensor], StateT], field: VectorField, y0: StateT, ts: Tensor
) -> StateT:
    """Return what ``solve`` gives outside of the transform that the call is inside of, with one node for its gradient.

    Raises
    ------
    UnsupportedError
        If the transform is none that can be answered.
    """
    _refuse_transforms()
    layout = Layout.of(y0)
    outside = _Outside(solve, field, layout, ts)
    flat = layout.flatten(y0 if isinstance(y0, Tensor) else tuple(y0))
    ys: Tensor = _Bridge.apply(outside, flat, ts, *outside.tensors)  # type: ignore[no-untyped-call]
    return cast("StateT", layout.unflatten(ys))


class _Outside:
    """The solve on what the transform has wrapped."""

    def __init__(self, solve: Callable[..., Any], field: VectorField, layout: Layout, ts: Tensor) -> None:
        self.solve = solve
        self.field = field
        self.layout = layout
        self.times_matter = ts.requires_grad
        self.held = Held(field) if isinstance(field, nn.Module) else None
        known = self.held.tensors.values() if self.held is not None else ()
        self.tensors = [x for x in known if x.requires_grad]
        """What the field holds and is differentiated by, as the caller sees it."""
        wrapped = [x for x in known if not x.requires_grad and _FUNCTORCH.is_functorch_wrapped_tensor(x)]
        self._replaced = {id(x): unwrapped(x) for x in wrapped}
        self._ends: Sequence[Tensor] = ()
        self._ys: Tensor | None = None

    @contextmanager
    def _holding(self) -> Iterator[None]:
        """Let the field hold inside what the transform has wrapped, and refuse what else it is given of it."""
        held = nullcontext() if self.held is None else self.held.as_it_was(self._replaced, ())
        with held, _NothingWrapped():
            yield

    def forward(self, y0: Tensor, ts: Tensor, tensors: Sequence[Tensor]) -> Tensor:
        """Return the states ``[K, d]``; keep their graph."""
        with torch.enable_grad():
            y, t = y0.detach().requires_grad_(), ts.detach().requires_grad_(self.times_matter)
            pairs = list(zip(self.tensors, tensors, strict=True))
            # A tensor that no transform has wrapped is the field's own, which it goes on to hold.
            self._replaced |= {id(own): x.detach().requires_grad_() for own, x in pairs if x is not own}
            with self._holding():
                ys = flatten_times(self.solve(self.field, self.layout.unflatten(y), t))
        self._ends, self._ys = (y, t, *(self._replaced.get(id(own), own) for own in self.tensors)), ys
        return ys.detach()

    def pull_back(self, grad: Tensor) -> Sequence[Tensor | None]:
        """Return the gradients by start, times and tensors."""
        wanted = [x for x in self._ends if x.requires_grad]
        if self._ys is None or not self._ys.requires_grad:
            return [None] * len(self._ends)
        with self._holding():
            found = iter(torch.autograd.grad(self._ys, wanted, grad, retain_graph=True, allow_unused=True))
        return [next(found) if x.requires_grad else None for x in self._ends]


class _NothingWrapped(TorchFunctionMode):
    """Raises where an operation meets what a transform has wrapped: outside of it that would count as a constant."""

    def __torch_function__(
        self,
        func: Callable[..., object],
        types: object,
        args: tuple[object, ...] = (),
        kwargs: dict[str, object] | None = None,
    ) -> object:
        if inside_transform():
            raise UnsupportedError(
                "field: it uses torch.func itself and is inside of another transform, which this gradient method "
                "cannot tell apart; use torch.autograd inside of the field, or gradient method 'naive'"
            )
        if any(
            isinstance(x, Tensor) and _FUNCTORCH.is_functorch_wrapped_tensor(x) for x in tree_leaves((args, kwargs))
        ):
            raise UsageError(
                "field: under torch.func it depends on a tensor that it does not hold (reached through a closure), so "
                "this method would lose its gradient; keep it as an attribute of the field, pass it by "
                "functional_call, or use gradient method 'naive'"
            )
        return func(*args, **(kwargs or {}))


class _BridgeContext(Context, Protocol):
    outside: _Outside


class _Bridge(torch.autograd.Function):
    """The node that a transform sees."""

    @staticmethod
    def forward(outside: _Outside, y0: Tensor, ts: Tensor, *tensors: Tensor) -> Tensor:
        return outside.forward(y0, ts, tensors)

    @staticmethod
    def setup_context(ctx: _BridgeContext, inputs: tuple[Any, ...], output: Tensor) -> None:  # noqa: ARG004
        ctx.outside = inputs[0]
        ctx.save_for_backward(*inputs[1:])

    @staticmethod
    def backward(ctx: _BridgeContext, *grads: Tensor) -> tuple[Tensor | None, ...]:
        seen = ctx.saved_tensors

        def pull_back(grad: Tensor) -> Sequence[Tensor | None]:
            inputs = (grad, *(unwrapped(x) for x in seen))
            return without_derivative(ctx.outside.pull_back(grad), inputs, "a gradient under torch.func")

        return None, *each_cotangent(pull_back, grads[0])


def unwrapped(x: Tensor) -> Tensor:
    """Return what every transform around ``x`` has wrapped."""
    while _FUNCTORCH.is_functorch_wrapped_tensor(x):
        x = _FUNCTORCH.get_unwrapped(x)
    return x


def each_cotangent(pull_back: Callable[[Tensor], Sequence[Tensor | None]], grad: Tensor) -> tuple[Tensor | None, ...]:
    """Return what ``pull_back`` gives for ``grad`` outside of all transforms; of a batch one cotangent after another.

    A batch comes from ``jacrev``, ``vectorize=True`` and ``is_grads_batched=True``.

    Raises
    ------
    UnsupportedError
        If it is a batch of batches of the latter two.
    """
    if _FUNCTORCH.is_legacy_batchedtensor(grad):
        return _each_of_batch(pull_back, grad)
    if not _FUNCTORCH.is_functorch_wrapped_tensor(grad):
        with outside_transforms():
            return tuple(pull_back(grad))
    inner = _FUNCTORCH.get_unwrapped(grad)
    if not _FUNCTORCH.is_batchedtensor(grad):
        return each_cotangent(pull_back, inner)
    level, at = _FUNCTORCH.maybe_get_level(grad), _FUNCTORCH.maybe_get_bdim(grad)
    with outside_transforms():
        columns = _stacked([each_cotangent(pull_back, row) for row in inner.unbind(at)])
    return tuple(None if x is None else _FUNCTORCH._add_batch_dim(x, 0, level) for x in columns)


def is_batch(grad: Tensor) -> bool:
    """Return whether ``grad`` may stand for several cotangents."""
    return bool(_FUNCTORCH.is_legacy_batchedtensor(grad) or _FUNCTORCH.is_functorch_wrapped_tensor(grad))


def _each_of_batch(pull_back: Callable[[Tensor], Sequence[Tensor | None]], grad: Tensor) -> tuple[Tensor | None, ...]:
    """Do so for a batch of autograd's own, which it marks by a mode and a level."""
    mode: Any = torch._C
    level = mode._vmapmode_decrement_nesting() + 1
    try:
        if level != 1:
            raise UnsupportedError(
                "this gradient method pulls back one batch of cotangents at a time; leave out vectorize=True or "
                "is_grads_batched=True of one of them, or use gradient method naive"
            )
        rows = torch._remove_batch_dim(grad, level, 0, 0)
        columns = _stacked([tuple(pull_back(row)) for row in rows.unbind(0)])
    finally:
        mode._vmapmode_increment_nesting()
    return tuple(None if x is None else torch._add_batch_dim(x, 0, level) for x in columns)


def _stacked(rows: Sequence[Sequence[Tensor | None]]) -> list[Tensor | None]:
    """Return the rows' gradients column by column."""
    # Which there are is the same for every cotangent.
    return [None if column[0] is None else torch.stack(column) for column in zip(*rows, strict=True)]
