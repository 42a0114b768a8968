"""A simulated CUDA device: tensors that say ``cuda:0`` and keep their numbers on the CPU.

It raises where CUDA would, counts where the host would wait, and keeps account of bytes as a caching allocator does.
What it computes are the CPU's own kernels, so equality with the CPU shows that everything lies where it should; about
CUDA's rounding and times it says nothing.
"""

import traceback
import warnings
import weakref
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

from tests.card.rules import COPIES, READS, Facts, aten, checks_errors, index_waits, refuse_mixture, tensors

DEVICE = torch.device("cuda", 0)
TESTS = f"{Path(__file__).parents[1]}/"
ROOMS = ("/bench/", "/methods/", "/datasets/", "/reports/", "/odegrad/")
"""Parts of the paths of files that a wait may be laid to."""
BLOCK_BYTES = 512
"""A caching allocator's smallest block."""
WAIT = "called a synchronizing CUDA operation"
"""What torch warns of at a wait, where it is asked to."""


class CardTensor(Tensor):
    """A tensor on the card, whose numbers are those of ``on_host`` on the CPU."""

    on_host: Tensor

    @staticmethod
    def __new__(cls, inner: Tensor) -> "CardTensor":
        """Return a wrapper of the layout of ``inner``."""
        made: CardTensor = Tensor._make_wrapper_subclass(
            cls, inner.size(), strides=inner.stride(), storage_offset=inner.storage_offset(),
            dtype=inner.dtype, layout=inner.layout, device=DEVICE,
        )  # fmt: skip
        return made

    def __init__(self, inner: Tensor) -> None:
        self.on_host = inner
        if Card.current is not None:
            Card.current.memory.note(inner)

    __torch_function__: ClassVar[Any] = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Let the card compute."""
        assert Card.current is not None
        return Card.current.run(func, args, kwargs or {})

    def __repr__(self, **_: Any) -> str:  # type: ignore[override]
        """Return the numbers, which costs no wait here."""
        return f"CardTensor({self.on_host!r})"

    def tolist(self) -> Any:
        """Return the numbers, by a copy to the host."""
        return self.detach().cpu().tolist()

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        """Return a copy of its own memory; a parameter stays one."""
        if id(self) not in memo:
            memo[id(self)] = _parameter_like(self, self.detach().clone())
        return memo[id(self)]

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Pickle the numbers."""
        return _rebuilt, (self.on_host.detach().clone(), self.requires_grad, getattr(self, "_is_param", False))


def _parameter_like(old: Tensor, new: Tensor) -> Tensor:
    return _rebuilt_as(new, old.requires_grad, is_parameter=getattr(old, "_is_param", False))


def _rebuilt(inner: Tensor, requires_grad: bool, is_parameter: bool) -> Tensor:
    return _rebuilt_as(CardTensor(inner), requires_grad, is_parameter=is_parameter)


def _rebuilt_as(tensor: Tensor, requires_grad: bool, *, is_parameter: bool) -> Tensor:
    tensor.requires_grad_(requires_grad)
    if is_parameter:
        tensor._is_param = True  # type: ignore[attr-defined]
    return tensor


class Memory:
    """The bytes on the card, each storage in whole blocks from when it is seen until it is freed."""

    def __init__(self) -> None:
        self.live = 0
        self.peak = 0
        self._known: dict[int, tuple[weakref.ref[Any], int]] = {}

    def note(self, inner: Tensor) -> None:
        """Note the storage of ``inner``."""
        storage = inner.untyped_storage()
        key = storage._cdata
        if key not in self._known:
            size = -(-storage.nbytes() // BLOCK_BYTES) * BLOCK_BYTES
            self._known[key] = weakref.ref(storage, lambda _: self._forget(key)), size
            self.live += size
            self.peak = max(self.peak, self.live)

    def _forget(self, key: int) -> None:
        self.live -= self._known.pop(key)[1]


class Card(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """The device: computes what its tensors are asked for, and keeps count.

    Attributes
    ----------
    waits
        How often the host has waited, by what made it.
    places
        The same by the line of the package that asked, where ``tells_places``.
    pageable
        Copies to the card that asked not to block, from memory that is not pinned: by line.
    launches
        Kernels launched; views are none.
    generator
        The card's random generator.
    """

    current: ClassVar["Card | None"] = None

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.generator = torch.Generator()
        self.memory = Memory()
        self.warns = False
        self.tells_places = True
        self._pinned: dict[int, weakref.ref[Any]] = {}
        self.forget()

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Return False: the wrapper that would keep the compiler out costs as much as the card itself."""
        return False

    def forget(self) -> None:
        """Count from zero."""
        self.waits: Counter[str] = Counter()
        self.places: Counter[str] = Counter()
        self.pageable: Counter[str] = Counter()
        self.launches = 0

    def wait(self, what: str) -> None:
        """Count a wait of the host."""
        self.waits[what] += 1
        if self.tells_places:
            self.places[f"{what} at {_line()}"] += 1
        if self.warns:
            warnings.warn(WAIT, stacklevel=2)

    def pin(self, tensor: Tensor) -> Tensor:
        """Return a copy of a CPU tensor in pinned memory."""
        pinned = tensor.clone()
        storage = pinned.untyped_storage()
        key = storage._cdata
        self._pinned[key] = weakref.ref(storage, lambda _: self._pinned.pop(key, None))
        return pinned

    def is_pinned(self, tensor: Tensor) -> bool:
        """Return whether a CPU tensor lies in pinned memory."""
        return not isinstance(tensor, CardTensor) and tensor.untyped_storage()._cdata in self._pinned

    @contextmanager
    def away(self) -> Iterator[None]:
        """Let work on the CPU alone run inside without passing by here."""
        with _disable_current_modes():  # type: ignore[no-untyped-call]
            yield

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Compute on the card what belongs there."""
        return self.run(func, args, kwargs or {})

    def run(self, op: OpOverload, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """Return what ``op`` gives, on the card if an argument lies there or ``device`` names it.

        Raises
        ------
        RuntimeError
            If CUDA would not take the arguments.
        """
        device = kwargs.get("device")
        to_card = device is not None and torch.device(device).type == DEVICE.type
        given = tensors([*args, *kwargs.values()])
        if not to_card and not any(isinstance(x, CardTensor) for x in given):
            return op(*args, **kwargs)
        facts = Facts.of(op)
        self._refuse(op, args, kwargs)
        self._count(op, args, kwargs, to_host=device is not None and not to_card)
        out = self._computed(op, facts, args, kwargs)
        if device is not None and not to_card:
            # A wrapper's numbers are on the CPU already: what was copied must still be a copy.
            shared = any(isinstance(x, CardTensor) and out is x.on_host for x in given)
            return out.clone() if shared else out
        return self._wrapped(facts, args, kwargs, out)

    def _refuse(self, op: OpOverload, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        generator = kwargs.get("generator")
        if generator is not None and generator is not self.generator:
            raise RuntimeError("Expected a 'cuda' device type for generator but found 'cpu'")
        refuse_mixture(op, [*args, *kwargs.values()], CardTensor)

    def _count(self, op: OpOverload, args: Sequence[Any], kwargs: Mapping[str, Any], *, to_host: bool) -> None:
        self.launches += not Facts.of(op).is_view
        if op in COPIES:
            self._count_copy(op, args, kwargs, to_host=to_host)
        elif op in READS or checks_errors(op, args, kwargs):
            self.wait(Facts.of(op).name)
        else:
            for word in index_waits(op, args, CardTensor):
                self.wait(word)

    def _count_copy(self, op: OpOverload, args: Sequence[Any], kwargs: Mapping[str, Any], *, to_host: bool) -> None:
        into = op is aten.copy_.default
        source = args[1] if into else args[0]
        target_on_card = isinstance(args[0], CardTensor) if into else not to_host
        waits_not = bool(args[2] if into and len(args) > 2 else kwargs.get("non_blocking", False))
        if isinstance(source, CardTensor):
            if not target_on_card:
                self.wait("copy to the host")
        elif target_on_card and not waits_not:
            self.wait("copy to the card")
        elif target_on_card and not self.is_pinned(source):
            self.pageable[_line()] += 1

    def _computed(self, op: OpOverload, facts: Facts, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        inner = [_unwrapped(x) for x in args]
        named = {name: _unwrapped(x) for name, x in kwargs.items()}
        if named.get("device") is not None:
            named["device"] = torch.device("cpu")
        named.pop("pin_memory", None)
        if not facts.draws or kwargs.get("generator") is not None:
            return op(*inner, **named)
        # The CPU's kernels draw from the CPU's global generator: lend it the card's state.
        outer = torch.get_rng_state()
        torch.set_rng_state(self.generator.get_state())
        try:
            return op(*inner, **named)
        finally:
            self.generator.set_state(torch.get_rng_state())
            torch.set_rng_state(outer)

    def _wrapped(self, facts: Facts, args: Sequence[Any], kwargs: Mapping[str, Any], out: Any) -> Any:
        """Return ``out`` on the card; an argument that was written to comes back as the one that was given."""
        written = [args[i] if i < len(args) else kwargs.get(name) for i, name in facts.written]
        known = {id(x.on_host): x for x in tensors(written) if isinstance(x, CardTensor)}
        for x in known.values():
            if x.shape != x.on_host.shape:
                raise RuntimeError(f"simulated card: {facts.name} has changed the shape of a result that was given")
        return _on_card(out, known)


def _unwrapped(value: Any) -> Any:
    if isinstance(value, CardTensor):
        return value.on_host
    return type(value)(_unwrapped(x) for x in value) if type(value) in (list, tuple) else value


def _on_card(out: Any, known: Mapping[int, CardTensor]) -> Any:
    if isinstance(out, Tensor):
        found = known.get(id(out))
        return CardTensor(out) if found is None else found
    return type(out)(_on_card(x, known) for x in out) if type(out) in (list, tuple) else out


def _line() -> str:
    """Return the innermost line of the package on the stack."""
    for frame in reversed(traceback.extract_stack()):
        room = next((r for r in ROOMS if r in frame.filename), None)
        # Not any folder of that name: the package may well be installed in an environment called tests.
        if room is not None and not frame.filename.startswith(TESTS):
            return f"{room[1:]}{frame.filename.rpartition(room)[2]}:{frame.lineno}"
    return "elsewhere"


Made = Callable[..., Tensor]


def made_on_the_host_first(make: Made) -> Made:
    """Return ``torch.tensor`` or ``torch.as_tensor`` as it works for a CUDA device: made on the CPU, then copied."""

    def made(data: Any, *, device: Any = None, dtype: Any = None, **others: Any) -> Tensor:
        if isinstance(data, CardTensor) and device is None:
            device = data.device
        if device is None or torch.device(device).type != DEVICE.type:
            return make(data, device=device, dtype=dtype, **others)
        if isinstance(data, Tensor):
            return data.to(DEVICE) if dtype is None else data.to(DEVICE, dtype)
        requires_grad = others.pop("requires_grad", False)
        return make(data, dtype=dtype, **others).to(DEVICE).requires_grad_(requires_grad)

    return made
