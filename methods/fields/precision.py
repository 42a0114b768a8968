"""A field in a low type, while what accumulates over a solve stays high.

Celledoni, Owren, Ruthotto and Yang, Mixed Precision Training of Neural ODEs, arXiv 2510.23498, 2025: f in 16 bits, with
states, stages and sums of gradients in 32, is off by O(u_L), whatever the number of steps; all of it in 16 bits is off
by O(u_L / h). Here the weights are cast once a solve. A node per call and weight, ``_Lend``, passes the copy on and
keeps none of its own; its pull-back hands a high gradient to the weight, so that sums are high.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, cast, get_args

import torch
from torch import Tensor, nn

from odegrad.contracts import State
from odegrad.errors import UnsupportedError, UsageError
from odegrad.methods.fields.held import Held
from odegrad.methods.fields.passing import PassesCalls
from odegrad.methods.fields.surroundings import out_of_inference
from odegrad.states import mapped, parts

Precision = Literal["", "bfloat16", "float16"]
"""The type that a field computes in; empty for the state's own."""

PRECISIONS: tuple[Precision, ...] = get_args(Precision)

LOW_TYPES: Mapping[str, torch.dtype] = {"bfloat16": torch.bfloat16, "float16": torch.float16}

HIGH_TYPES = (torch.float32, torch.float64)
"""What states and weights may be, of a field in a low type."""


def unit_roundoff(precision: str) -> float:
    """Return the unit roundoff ``u_L`` of a low type: 2^-8 of bfloat16, 2^-11 of float16."""
    return torch.finfo(LOW_TYPES[precision]).eps / 2


class LowField:
    """Calls a field on low copies of what it holds, with time and state cast, and casts back what it returns.

    Parameters
    ----------
    called
        Calls ``field``, or the part of it that a solve takes.
    field
        The module whose tensors are cast: parameters, buffers and attributes in float32 or float64. Layers with running
        statistics keep theirs: PyTorch's take a low input beside them.
    held
        What it holds.
    precision
        ``bfloat16`` or ``float16``.
    high
        The type of the state.

    Raises
    ------
    UsageError
        If the field is no ``nn.Module``, or the state is neither float32 nor float64.
    """

    def __init__(
        self,
        called: Callable[[Tensor, State], State],
        field: object,
        held: Held | None,
        precision: str,
        high: torch.dtype,
    ) -> None:
        own = field
        while isinstance(own, PassesCalls):
            own = own.inner
        if held is None or not isinstance(field, nn.Module) or not isinstance(own, nn.Module):
            raise UsageError(
                f"precision: expected a field that is an nn.Module, whose weights can be cast to {precision}, got "
                f"{type(own).__name__}; wrap the function in a module that holds what it depends on"
            )
        if high not in HIGH_TYPES:
            raise UsageError(
                f"y0: expected float32 or float64 with precision = {precision!r}, which is the type of the field alone "
                f"and not of the state, got {high}; call y0.float()"
            )
        self.called = called
        self.held = held
        self.precision = precision
        self.low = LOW_TYPES[precision]
        self.high = high
        self.scale = Scale() if precision == "float16" else None
        """By what cotangents are multiplied; None where they keep their range."""
        kept_high = _of_running_statistics(field)
        high_ones = [x for key, x in held.tensors.items() if x.dtype in HIGH_TYPES and key not in kept_high]
        with out_of_inference():
            self.copies = {id(x): x.detach().to(self.low) for x in high_ones}
        """Low copies by the ids of the tensors that the field holds."""
        self._versions = {key: copy._version for key, copy in self.copies.items()}
        self.masters = {key: x for key, x in held.tensors.items() if x.requires_grad}
        """What gradients are handed to, by the same ids."""
        self._leaves: dict[int, int] = {}
        """The ids of leaves that stand in for tensors, with the ids of these."""

    @property
    def bytes_of_copies(self) -> int:
        """Return the bytes of the low copies, which stand as long as the solve can be pulled back."""
        return sum(x.numel() * x.element_size() for x in self.copies.values())

    def stand_in(self, leaves: Mapping[int, Tensor]) -> None:
        """Hand gradients to ``leaves`` in the place of the tensors of these ids."""
        self.masters |= leaves
        self._leaves = {id(leaf): key for key, leaf in leaves.items()}

    def __call__(self, t: Tensor, y: State) -> State:
        """Return ``dy/dt`` in the type of the state.

        Raises
        ------
        UsageError
            If the field mixes types, or writes into a tensor that it holds.
        UnsupportedError
            If an operation of it does not know the low type.
        """
        with_graph = torch.is_grad_enabled()
        scaled = _OfCall(self.scale) if self.scale is not None and with_graph else None
        lent = self._lent(scaled) if with_graph else self.copies
        with self.held.lending(lent, self._leaves):
            try:
                dy: Any = self.called(t.to(self.low), mapped(y, lambda part: self._down(part, scaled)))
            except RuntimeError as error:
                raise _explained(error, self.precision) from error
        self._refuse_written()
        if not isinstance(dy, (Tensor, tuple, list)):
            return cast("State", dy)  # refused where it is looked at
        return cast("State", self._up(dy, scaled))

    def _lent(self, scaled: "_OfCall | None") -> dict[int, Tensor]:
        lent = dict(self.copies)
        for key, master in self.masters.items():
            copy = self.copies.get(key)
            if copy is not None:
                lent[key] = _Lend.apply(master, copy, scaled, self)  # type: ignore[no-untyped-call]
            elif self.held.tensors.get(key) is not master:
                lent[key] = master
        return lent

    def _down(self, part: Tensor, scaled: "_OfCall | None") -> Tensor:
        if scaled is None or not part.requires_grad:
            return part.to(self.low)
        down: Tensor = _Down.apply(part, self.low, scaled)  # type: ignore[no-untyped-call]
        return down

    def _up(self, dy: Any, scaled: "_OfCall | None") -> Any:
        pieces = [part for part in parts(dy) if isinstance(part, Tensor) and part.requires_grad]
        if scaled is None or not pieces:
            return mapped(dy, lambda part: part.to(self.high) if isinstance(part, Tensor) else part)
        # One node for all parts: one cotangent has one scale.
        raised = iter(_Up.apply(self.high, scaled, *pieces))  # type: ignore[no-untyped-call]
        known = {id(part) for part in pieces}
        return mapped(
            dy,
            lambda part: (
                next(raised) if id(part) in known else part.to(self.high) if isinstance(part, Tensor) else part
            ),
        )

    def _refuse_written(self) -> None:
        """Raise if a call has written into a copy: the field would not see it at its next solve."""
        for key, copy in self.copies.items():
            if copy._version != self._versions[key]:
                named = self.held.name(self.held.tensors[key]).rstrip()
                raise UsageError(
                    f"field: it writes in place into {named}, of which it sees a copy with precision = "
                    f"{self.precision!r}; assign a new tensor, or leave precision out"
                )


def _of_running_statistics(field: nn.Module) -> set[int]:
    """Return the ids of what layers with running statistics hold: they take a low input beside high numbers."""
    layers = [m for m in field.modules() if getattr(m, "track_running_stats", False)]
    return {id(x) for layer in layers for x in (*layer.parameters(False), *layer.buffers(False))}


def _explained(error: RuntimeError, precision: str) -> Exception:
    """Return what to raise for an error of PyTorch inside of a low call."""
    said = (str(error).splitlines() or [""])[0]
    if "not implemented for" in said:
        return UnsupportedError(
            f"field: an operation of it is not there in {precision} ({said}); cast its input up and its result back "
            f"inside of the field, or leave out precision = {precision!r}"
        )
    if any(word in said for word in ("dtype", "expected scalar type", "same type", "mixed")):
        return UsageError(
            f"field: with precision = {precision!r} it meets numbers of two types ({said}); what it makes itself or "
            "reaches through a closure has to be of y's type (dtype=y.dtype), and what it casts up has to be cast back"
        )
    return error


class Scale:
    """By which power of two the cotangents of a float16 field are multiplied on their way through it.

    ``S = 2^k / 2^e`` with the exponent e of the largest number of the cotangent and ``2^k`` about
    ``1 / (u_L sqrt(n))``, chosen anew at every call and on the device, which no host waits for. It is undone on the
    way out, where numbers are high again, so that nothing outside of the call knows of it.
    """

    def __init__(self) -> None:
        self.lowered = 0
        """By how many powers of two the target stands lower, after an overflow."""
        self.last: Tensor | None = None
        """S of the last call that was pulled back, 0-d."""

    @property
    def log2(self) -> int | None:
        """Return log2 of the last S, by a read of the device; None if no call was pulled back."""
        return None if self.last is None else int(torch.frexp(self.last).exponent) - 1

    def of(self, cotangent: Sequence[Tensor]) -> Tensor:
        """Return S for the parts of a cotangent, 0-d; 1 where it is zero or not finite."""
        seen = [part.detach() for part in cotangent if part.numel()]
        largest = torch.stack([torch.linalg.vector_norm(part, math.inf) for part in seen]).amax()
        n = sum(part.numel() for part in seen)
        power = round(-math.log2(unit_roundoff("float16")) - 0.5 * math.log2(n) + 0.5) - self.lowered
        # The quotient by its mantissa is a power of two, exactly.
        scale = 2.0**power * torch.frexp(largest).mantissa / largest
        self.last = torch.where(torch.isfinite(scale) & (scale > 0), scale, torch.ones_like(scale))
        return self.last


class _OfCall:
    """The scale of one call's pull-back, known from where the cotangent comes in."""

    def __init__(self, scale: Scale) -> None:
        self.scale = scale
        self.inverse: Tensor | None = None

    def scaled(self, cotangent: Sequence[Tensor]) -> list[Tensor]:
        """Return the parts of the cotangent that comes in, scaled."""
        factor = self.scale.of(cotangent)
        self.inverse = 1.0 / factor
        return [part * factor for part in cotangent]

    def undone(self, grad: Tensor, high: torch.dtype) -> Tensor:
        """Return a low cotangent that goes out, in ``high`` and in its own units."""
        raised = grad.to(high)
        return raised if self.inverse is None else raised * self.inverse.to(high)


class _Lend(torch.autograd.Function):
    """A low copy for one call; its pull-back hands a gradient in the master's type to the master."""

    @staticmethod
    def forward(ctx: Any, master: Tensor, copy: Tensor, scaled: _OfCall | None, lender: LowField) -> Tensor:
        # The lender stands as long as the graph does, and all copies with it: what they are is told in bytes.
        ctx.high, ctx.scaled, ctx.lender = master.dtype, scaled, lender
        return copy.detach()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grad,) = grads
        scaled: _OfCall | None = ctx.scaled
        return grad.to(ctx.high) if scaled is None else scaled.undone(grad, ctx.high), None, None, None


class _Down(torch.autograd.Function):
    """A state on its way into a call; the scale is undone on the way back."""

    @staticmethod
    def forward(ctx: Any, y: Tensor, low: torch.dtype, scaled: _OfCall) -> Tensor:
        ctx.high, ctx.scaled = y.dtype, scaled
        return y.to(low)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return ctx.scaled.undone(grads[0], ctx.high), None, None


class _Up(torch.autograd.Function):
    """A derivative on its way out of a call, all parts of it; its cotangent is scaled on the way back."""

    @staticmethod
    def forward(ctx: Any, high: torch.dtype, scaled: _OfCall, *dy: Tensor) -> tuple[Tensor, ...]:
        ctx.types, ctx.scaled = [part.dtype for part in dy], scaled
        return tuple(part.to(high, copy=True) for part in dy)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        scaled = ctx.scaled.scaled(grads)
        return None, None, *(grad.to(kind) for grad, kind in zip(scaled, ctx.types, strict=True))
