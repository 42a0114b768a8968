"""torch's operators in jax: what the fields of tasks are made of, by the names that a trace gives them.

Each takes jax's modules ``J`` and the operator's own arguments. An operator that is not here is refused by name.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from odegrad.errors import UnsupportedError

JaxArray = Any
"""An array of jax, which this module does not import."""


@dataclass(frozen=True)
class Jax:
    """The modules of jax that operators need."""

    np: Any
    nn: Any
    lax: Any


def _same(_j: Jax, x: JaxArray, *_: object, **__: object) -> JaxArray:
    # Of a detached output that autograd saved too: taking it for a constant would lose the second derivatives of a
    # field that differentiates inside. Whether it was one is decided by the comparison of products with torch's.
    return x


def _shape(x: JaxArray, sizes: Sequence[int]) -> list[int]:
    lead = len(sizes) - x.ndim
    return [x.shape[i - lead] if n == -1 else n for i, n in enumerate(sizes)]


def _slice(_j: Jax, x: JaxArray, dim: int = 0, start: object = None, end: object = None, step: int = 1) -> JaxArray:
    at = [slice(None)] * x.ndim
    at[dim] = slice(start, None if end is None or end > x.shape[dim] else end, step)
    return x[tuple(at)]


def _select(_j: Jax, x: JaxArray, dim: int, index: int) -> JaxArray:
    return x[(*([slice(None)] * (dim % x.ndim)), index)]


def _select_backward(j: Jax, g: JaxArray, sizes: Sequence[int], dim: int, index: int) -> JaxArray:
    at = (*([slice(None)] * (dim % len(sizes))), index)
    return j.np.zeros(sizes, g.dtype).at[at].set(g)


def _slice_backward(j: Jax, g: JaxArray, sizes: Sequence[int], dim: int, start: int, end: int, step: int) -> JaxArray:
    at = [slice(None)] * len(sizes)
    at[dim] = slice(start, min(end, sizes[dim]), step)
    return j.np.zeros(sizes, g.dtype).at[tuple(at)].set(g)


def _index(_j: Jax, x: JaxArray, places: Sequence[JaxArray | None]) -> JaxArray:
    return x[tuple(slice(None) if place is None else place for place in places)]


def _searchsorted(j: Jax, ordered: JaxArray, x: JaxArray, *, right: bool = False, **_: object) -> JaxArray:
    if ordered.ndim != 1:
        raise UnsupportedError("searchsorted among rows of several sequences is not translated to jax; give one row")
    return j.np.searchsorted(ordered, x, side="right" if right else "left")


def _split(j: Jax, x: JaxArray, size: int | Sequence[int], dim: int = 0) -> list[JaxArray]:
    sizes = [size] * -(-x.shape[dim] // size) if isinstance(size, int) else list(size)
    ends = [sum(sizes[: i + 1]) for i in range(len(sizes) - 1)]
    return list(j.np.split(x, ends, axis=dim))


def _sum(j: Jax, x: JaxArray, dim: Any = None, keepdim: bool = False, *, dtype: object = None) -> JaxArray:  # noqa: ARG001
    return j.np.sum(x, axis=tuple(dim) if dim else None, keepdims=keepdim)


def _addmm(j: Jax, c: JaxArray, a: JaxArray, b: JaxArray, *, beta: float = 1, alpha: float = 1) -> JaxArray:
    return beta * c + alpha * j.np.matmul(a, b)


def _softplus(j: Jax, x: JaxArray, beta: float = 1, threshold: float = 20) -> JaxArray:
    # The branch that is not taken must not overflow either: its derivative would be 0 times infinity.
    small = j.np.where(x * beta > threshold, 0.0, x)
    return j.np.where(x * beta > threshold, x, j.np.log1p(j.np.exp(small * beta)) / beta)


def _softplus_backward(j: Jax, g: JaxArray, x: JaxArray, beta: float, threshold: float) -> JaxArray:
    return j.np.where(x * beta > threshold, g, g * j.nn.sigmoid(x * beta))


def _convolution(
    j: Jax,
    x: JaxArray,
    w: JaxArray,
    b: JaxArray,
    stride: Any,
    padding: Any,
    dilation: Any,
    transposed: bool,
    _p: object,
    groups: int,
) -> JaxArray:
    if transposed:
        raise NotImplementedError("transposed convolution")
    out = j.lax.conv_general_dilated(
        x, w, tuple(stride), [(p, p) for p in padding], rhs_dilation=tuple(dilation), feature_group_count=groups
    )
    return out if b is None else out + b.reshape(1, -1, *([1] * (out.ndim - 2)))


def _group_norm(
    j: Jax, x: JaxArray, w: JaxArray, b: JaxArray, n: int, c: int, size: int, groups: int, eps: float
) -> object:
    split = x.reshape(n, groups, c // groups * size)
    mean = split.mean(axis=2, keepdims=True)
    scale = j.lax.rsqrt(((split - mean) ** 2).mean(axis=2, keepdims=True) + eps)
    out = ((split - mean) * scale).reshape(x.shape)
    lay = (1, c, *([1] * (x.ndim - 2)))
    out = out if w is None else out * w.reshape(lay)
    return (out if b is None else out + b.reshape(lay)), mean, scale


def _filled(value: float) -> Callable[..., JaxArray]:
    return lambda j, x, *_, **__: j.np.full(x.shape, value, x.dtype)


def _new(value: float) -> Callable[..., JaxArray]:
    return lambda j, x, sizes, **_: j.np.full(tuple(sizes), value, x.dtype)


def _made(value: float) -> Callable[..., JaxArray]:
    return lambda j, sizes, *, dtype=None, **_: j.np.full(tuple(sizes), value, _dtype(j, dtype))


def _dtype(j: Jax, dtype: object) -> object:
    return getattr(j.np, str(dtype).removeprefix("torch.")) if dtype is not None else j.np.float32


def _filled_with(j: Jax, sizes: Any, value: Any, *, dtype: object = None, **_: object) -> JaxArray:
    return j.np.full(tuple(sizes), value, None if dtype is None else _dtype(j, dtype))


OPERATORS: Mapping[str, Callable[..., object]] = {
    **dict.fromkeys(("detach", "alias", "clone", "lift_fresh_copy", "lift_fresh", "_to_copy", "positive"), _same),
    "t": lambda _j, x: x.T,
    "transpose": lambda j, x, a, b: j.np.swapaxes(x, a, b),
    "permute": lambda j, x, dims: j.np.transpose(x, dims),
    **dict.fromkeys(("view", "_unsafe_view", "reshape"), lambda _j, x, sizes: x.reshape(tuple(sizes))),
    "expand": lambda j, x, sizes, **_: j.np.broadcast_to(x, _shape(x, sizes)),
    "roll": lambda j, x, shifts, dims=(): j.np.roll(x, tuple(shifts), tuple(dims) or None),
    "unsqueeze": lambda j, x, dim: j.np.expand_dims(x, dim),
    "squeeze": lambda j, x, dim=None: j.np.squeeze(x, tuple(dim) if isinstance(dim, list) else dim),
    "slice": _slice,
    "index": _index,
    "index_select": lambda j, x, dim, index: j.np.take(x, j.np.atleast_1d(index), axis=dim),
    "searchsorted": _searchsorted,
    "clamp": lambda j, x, low=None, high=None: j.np.clip(x, low, high),
    "select": _select,
    "slice_backward": _slice_backward,
    "select_backward": _select_backward,
    "cat": lambda j, xs, dim=0: j.np.concatenate(xs, axis=dim),
    "stack": lambda j, xs, dim=0: j.np.stack(xs, axis=dim),
    "split": _split,
    "split_with_sizes": _split,
    "unbind": lambda j, x, dim=0: [j.np.squeeze(part, dim) for part in j.np.split(x, x.shape[dim], axis=dim)],
    "add": lambda _j, a, b, alpha=1: a + alpha * b if alpha != 1 else a + b,
    "sub": lambda _j, a, b, alpha=1: a - alpha * b if alpha != 1 else a - b,
    "rsub": lambda _j, a, b, alpha=1: b - alpha * a,
    "mul": lambda _j, a, b: a * b,
    "div": lambda _j, a, b: a / b,
    "neg": lambda _j, x: -x,
    "pow": lambda _j, x, power: x**power,
    "reciprocal": lambda _j, x: 1.0 / x,
    "sqrt": lambda j, x: j.np.sqrt(x),
    "exp": lambda j, x: j.np.exp(x),
    "log": lambda j, x: j.np.log(x),
    "sin": lambda j, x: j.np.sin(x),
    "cos": lambda j, x: j.np.cos(x),
    "tanh": lambda j, x: j.np.tanh(x),
    "sigmoid": lambda j, x: j.nn.sigmoid(x),
    "relu": lambda j, x: j.nn.relu(x),
    "softplus": _softplus,
    "tanh_backward": lambda _j, g, y: g * (1.0 - y * y),
    "sigmoid_backward": lambda _j, g, y: g * y * (1.0 - y),
    "softplus_backward": _softplus_backward,
    "threshold_backward": lambda j, g, x, threshold: j.np.where(x > threshold, g, 0.0),
    **dict.fromkeys(("mm", "bmm", "mv"), lambda j, a, b: j.np.matmul(a, b)),
    "addmm": _addmm,
    "sum": _sum,
    "mean": lambda j, x, dim=None, keepdim=False, **_: j.np.mean(x, tuple(dim) if dim else None, keepdims=keepdim),
    "ones_like": _filled(1.0),
    "zeros_like": _filled(0.0),
    "full": _filled_with,
    "scalar_tensor": lambda j, x, *, dtype=None, **_: j.np.asarray(x, _dtype(j, dtype)),
    "zeros": _made(0.0),
    "ones": _made(1.0),
    "new_zeros": _new(0.0),
    "new_ones": _new(1.0),
    "convolution": _convolution,
    "native_group_norm": _group_norm,
}
"""Name of torch's operator, its overload left out -> the same on jax's arrays."""
