"""States: their parts, one vector ``[d]`` of them in every solve; buffers and random generators left as they were."""

import functools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor, nn

from odegrad.contracts import State, StateT, told
from odegrad.errors import UsageError

_LOW = (torch.bfloat16, torch.float16)
"""Types that a field may compute in where its state is in a finer one."""


def parts(y: State) -> tuple[Tensor, ...]:
    """Return the parts of a state: the tensor itself, or those of a tuple."""
    return (y,) if isinstance(y, Tensor) else tuple(y)


def mapped(y: StateT, change: Callable[[Tensor], Tensor]) -> StateT:
    """Return ``y`` with every part changed."""
    changed: State = change(y) if isinstance(y, Tensor) else tuple(change(p) for p in y)
    return cast("StateT", changed)


def flatten(y: State) -> Tensor:
    """Return a state as ``[batch, n]``, the parts of a tuple side by side."""
    return torch.cat([p.reshape(len(p), -1) for p in parts(y)], dim=1)


def flatten_times(ys: State) -> Tensor:
    """Return a solution ``[time, batch, *state]`` as ``[time, d]``, the parts of a tuple one behind the other."""
    return torch.cat([p.reshape(len(p), -1) for p in parts(ys)], dim=1)


def sent_to(device: torch.device, x: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """Return ``x`` on ``device`` and of ``dtype`` (its own if None), by a copy that no host waits for.

    Numbers that the host knows go to a GPU by here: a copy of any other kind would hold up the host there.
    """
    x = x if dtype is None else x.to(dtype)
    if device.type != "cuda" or x.device.type != "cpu":
        return x.to(device)
    # From pageable memory the host waits whatever it asks for: the driver first copies into pinned memory of its own.
    return x.pin_memory().to(device, non_blocking=True)


class HostNumber:
    """The number in a 0-d tensor that seldom changes: read from its device once, and again after a change in place.

    Parameters
    ----------
    tensor
        What is read. Autograd's version counter tells of a change, so not of one by way of ``data``.
    """

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor
        self._version: int | None = None
        self._value = 0.0

    def read(self) -> float:
        """Return the number."""
        if self._version != self.tensor._version:
            self._value, self._version = self.tensor.item(), self.tensor._version
        return self._value


@dataclass(frozen=True)
class GeneratorState:
    """The CPU generator's state, and that of a CUDA device if the work is there."""

    device: torch.device
    cpu: Tensor
    cuda: Tensor | None

    @classmethod
    def now(cls, device: torch.device) -> "GeneratorState":
        """Return the state at this moment."""
        cuda = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
        return cls(device, torch.get_rng_state(), cuda)

    def has_moved(self) -> bool:
        """Return whether numbers have been drawn since."""
        now = GeneratorState.now(self.device)
        same = torch.equal(self.cpu, now.cpu)
        return not (same and (self.cuda is None or now.cuda is None or torch.equal(self.cuda, now.cuda)))

    def set(self) -> None:
        """Make it the generators' state."""
        torch.set_rng_state(self.cpu)
        if self.cuda is not None:
            torch.cuda.set_rng_state(self.cuda, self.device)

    @contextmanager
    def restored(self) -> Iterator[None]:
        """Draw from this state inside, and go on from the outer one behind."""
        outer = GeneratorState.now(self.device)
        self.set()
        try:
            yield
        finally:
            outer.set()


@contextmanager
def undisturbed(device: torch.device, *modules: nn.Module) -> Iterator[None]:
    """Put the buffers of ``modules`` (running statistics) and the random generators back at the end."""
    drawn = GeneratorState.now(device)
    kept = [(buffer, buffer.detach().clone()) for module in modules for buffer in module.buffers()]
    try:
        yield
    finally:
        put_back(kept)
        drawn.set()


def put_back(kept: Iterable[tuple[Tensor, Tensor]]) -> None:
    """Copy values back into tensors, in place and outside of any graph."""
    with torch.no_grad():
        for tensor, value in kept:
            tensor.copy_(value)


@dataclass(frozen=True)
class Layout:
    """How a state ``[batch, *state]``, or a tuple of such, lies in a flat vector ``[d]``."""

    shapes: tuple[torch.Size, ...]
    is_tuple: bool
    dtype: torch.dtype
    device: torch.device
    judged: int | None = None
    """How many of the parts the error norm sees, from the first on; all of them if None."""
    own_norm: Callable[[object], object] | None = field(default=None, compare=False)
    """The user's norm of a state, instead of the largest root mean square over its parts."""

    @classmethod
    def of(cls, y: State, unjudged: int = 0) -> "Layout":
        """Return the layout of ``y``, of which the error norm does not see the last ``unjudged`` parts.

        Parts of several dtypes lie in a vector of the one that they are promoted to.

        Raises
        ------
        UsageError
            If ``y`` is no tensor or tuple of tensors, not floating point, empty, or on several devices.
        """
        is_tuple = isinstance(y, (tuple, list))
        parts: Sequence[Any] = y if isinstance(y, (tuple, list)) else (y,)
        if not parts or not all(isinstance(p, Tensor) for p in parts):
            kinds = [type(p).__name__ for p in parts]
            raise UsageError(f"y0: expected a tensor or a tuple of tensors, got {kinds}; wrap numbers in torch.tensor")
        if not all(p.is_floating_point() for p in parts):
            raise UsageError(f"y0: expected floating-point states, got {[p.dtype for p in parts]}; call y0.float()")
        if len({p.device for p in parts}) > 1:
            kinds = [f"{p.dtype} on {p.device}" for p in parts]
            raise UsageError(f"y0: expected one device for all parts, got {kinds}; convert with .to()")
        if sum(p.numel() for p in parts) == 0:
            raise UsageError("y0: expected at least one number, got an empty state")
        judged = len(parts) - unjudged if unjudged else None
        dtype = functools.reduce(torch.promote_types, (p.dtype for p in parts))
        return cls(tuple(p.shape for p in parts), is_tuple, dtype, parts[0].device, judged)

    @property
    def sizes(self) -> list[int]:
        """Return the number of floats of each part."""
        return [math.prod(s) for s in self.shapes]

    def flatten(self, y: State) -> Tensor:
        """Return ``y`` as a vector ``[d]``."""
        if isinstance(y, Tensor):
            return y.reshape(-1)
        return torch.cat([p.reshape(-1) for p in y]) if len(y) > 1 else y[0].reshape(-1)

    def unflatten(self, flat: Tensor) -> State:
        """Return ``flat``, ``[*lead, d]``, in the user's shapes ``[*lead, batch, *state]``."""
        lead = flat.shape[:-1]
        if not self.is_tuple:
            return flat.view(lead + self.shapes[0])
        parts = torch.split(flat, self.sizes, dim=-1)
        return tuple(p.reshape(lead + s) for p, s in zip(parts, self.shapes, strict=True))

    def parts_of(self, dy: object) -> Sequence[Tensor]:
        """Return the parts of what the field returned; what is in a finer type is rounded to the state's.

        The derivative of a single tensor may have a length of 1 where the state has more: it is the same for all.

        Raises
        ------
        UsageError
            If its structure, a shape or the dtype is not the state's.
        """
        parts: Sequence[Any] = dy if isinstance(dy, (tuple, list)) else (dy,)
        fits = isinstance(dy, (tuple, list)) == self.is_tuple and len(parts) == len(self.shapes)
        fits = fits and all(isinstance(p, Tensor) for p in parts)
        if fits and all(p.shape == s and p.dtype == self.dtype for p, s in zip(parts, self.shapes, strict=True)):
            return parts
        if fits and all(p.shape == s and self._is_rounded(p) for p, s in zip(parts, self.shapes, strict=True)):
            return [p.to(self.dtype) for p in parts]
        if fits and not self.is_tuple and self._is_kept(parts[0]):
            return [parts[0].to(self.dtype).expand(self.shapes[0])]
        got = [f"{tuple(p.shape)} {p.dtype}" if isinstance(p, Tensor) else type(p).__name__ for p in parts]
        want = [f"{tuple(s)} {self.dtype}" for s in self.shapes]
        low = next((p.dtype for p in parts if isinstance(p, Tensor) and p.dtype in _LOW), None)
        named = str(low).removeprefix("torch.")
        advice = "return the derivative in the structure of the state" + (
            f", or let a field in float32 compute in {named} by the solver's option precision = {named!r}"
            if low
            else ""
        )
        raise UsageError(
            f"field: expected dy/dt {'as a tuple ' if self.is_tuple else ''}of shape and dtype {want}, got {got}; "
            f"{advice}"
        )

    def _is_rounded(self, part: Tensor) -> bool:
        """Return whether ``part`` is a floating-point tensor of the state's type or a finer one."""
        return part.is_floating_point() and torch.promote_types(part.dtype, self.dtype) == part.dtype

    def _is_kept(self, part: Tensor) -> bool:
        """Return whether ``part`` has the state's dimensions, some of them with a length of 1 (``keepdim=True``)."""
        # Fewer dimensions are refused: a forgotten batch would be taken for the same derivative for all.
        lengths = zip(part.shape, self.shapes[0], strict=False)
        return part.dim() == len(self.shapes[0]) and all(n in (1, m) for n, m in lengths) and self._is_rounded(part)

    def norm(self, x: Tensor) -> Tensor:
        """Return the largest root mean square over the judged parts of ``x`` ``[d]``, or the own norm, a 0-d tensor."""
        if self.own_norm is not None:
            return self._by_own_norm(x)
        if len(self.shapes) == 1:
            root_mean_square: Tensor = torch.linalg.vector_norm(x) / math.sqrt(x.numel())
            return root_mean_square
        seen = torch.split(x, self.sizes)[: self.judged]
        norms = [torch.linalg.vector_norm(p) / math.sqrt(max(p.numel(), 1)) for p in seen]
        return torch.stack(norms).amax()

    def _by_own_norm(self, x: Tensor) -> Tensor:
        y = self.unflatten(x)
        return self.size_by(self.own_norm, y if isinstance(y, Tensor) else y[: self.judged])  # type: ignore[arg-type]

    def size_by(self, norm: Callable[[Any], Any], y: Any) -> Tensor:
        """Return ``norm(y)`` as a 0-d tensor.

        Raises
        ------
        UsageError
            If it is not one number, or ``norm`` takes other arguments.
        """
        found = told("norm", "norm(y)", norm, y)
        if not isinstance(found, (Tensor, int, float)):
            raise UsageError(f"norm: expected one number, got {type(found).__name__}; reduce over the state")
        size = torch.as_tensor(found, dtype=self.dtype, device=self.device)
        if size.numel() != 1:
            raise UsageError(f"norm: expected one number, got shape {tuple(size.shape)}; reduce over the state")
        return size.detach().abs().reshape(())

    def per_number(self, name: str, tolerance: object) -> Tensor:
        """Return a tolerance by number ``[d]``, from a number, a tensor like the state, or one of either by part.

        Raises
        ------
        UsageError
            If it does not fit the state, or is not positive.
        """
        by_part = (
            tolerance
            if isinstance(tolerance, (tuple, list))
            or (isinstance(tolerance, Tensor) and self.is_tuple and tolerance.dim() > 0)
            else [tolerance] * len(self.shapes)
        )
        try:
            parts = [
                torch.as_tensor(each, dtype=self.dtype, device=self.device).expand(shape).reshape(-1)
                for each, shape in zip(by_part, self.shapes, strict=True)
            ]
        except (RuntimeError, TypeError, ValueError) as error:
            raise UsageError(
                f"{name}: expected a number, a tensor that broadcasts to the state, or as many of either as the state "
                f"has parts, of shapes {[tuple(s) for s in self.shapes]}: {error}"
            ) from error
        flat = torch.cat(parts)
        if not bool(((flat > 0) & torch.isfinite(flat)).all()):
            raise UsageError(f"{name}: expected positive numbers, got {float(flat.min()):g} to {float(flat.max()):g}")
        return flat
