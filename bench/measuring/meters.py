"""Clock and memory meters: context managers that change nothing they measure."""

import warnings
import weakref
from collections.abc import Iterable, Iterator
from time import perf_counter
from typing import Any, Protocol, Self

import torch
from torch.utils._python_dispatch import TorchDispatchMode


class Clock:
    """Seconds of a block, with the device's work done before the start and before the stop."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.seconds = 0.0
        self._start = 0.0

    def __enter__(self) -> Self:
        """Start."""
        synchronize(self.device)
        self._start = perf_counter()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop, and add to ``seconds``."""
        synchronize(self.device)
        self.seconds += perf_counter() - self._start


def synchronize(device: torch.device) -> None:
    """Wait for the device's work; nothing on a CPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


class HostWaits:
    """How often the host waits for a CUDA device inside of a ``with`` block; ``count`` is None on another device."""

    def __init__(self, device: torch.device) -> None:
        self.count = 0 if device.type == "cuda" else None
        self._caught = warnings.catch_warnings(record=True)
        self._found: list[warnings.WarningMessage] = []

    def __enter__(self) -> Self:
        """Let torch warn of every wait."""
        if self.count is not None:
            torch.cuda.synchronize()
            self._found = self._caught.__enter__()
            warnings.simplefilter("always")
            # Inside: the first use in a process warns that the mode is a prototype.
            torch.cuda.set_sync_debug_mode("warn")
            self._found.clear()
        return self

    def __exit__(self, *exc: object) -> None:
        """Count the warnings, and pass on those of anything else."""
        if self.count is None:
            return
        torch.cuda.set_sync_debug_mode("default")
        self._caught.__exit__(*exc)  # type: ignore[arg-type]
        for w in self._found:
            if "synchronizing CUDA operation" in str(w.message):
                self.count += 1
            else:
                warnings.warn_explicit(w.message, w.category, w.filename, w.lineno)


class MemoryMeter(Protocol):
    """Tensor bytes above what stood at the start, inside of a ``with`` block."""

    def __enter__(self) -> Self:
        """Start at a baseline of zero."""
        ...

    def __exit__(self, *_: object) -> None:
        """Stop."""
        ...

    def current_bytes(self) -> int:
        """Return the bytes that live now."""
        ...

    def peak_bytes(self) -> int:
        """Return the most bytes that lived at one time so far."""
        ...


def memory_meter(device: torch.device) -> MemoryMeter:
    """Return the meter for ``device``: CUDA's caching allocator, or every storage that an operator makes on a CPU."""
    return CudaMemory(device) if device.type == "cuda" else StorageMemory()


class CudaMemory:
    """Bytes of CUDA's caching allocator above its state at the start."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.baseline = 0

    def __enter__(self) -> Self:
        """Reset the allocator's peak."""
        synchronize(self.device)
        torch.cuda.reset_peak_memory_stats(self.device)
        self.baseline = torch.cuda.memory_allocated(self.device)
        return self

    def __exit__(self, *_: object) -> None:
        """Stop; nothing to undo."""

    def current_bytes(self) -> int:
        """Return the bytes that live now."""
        return torch.cuda.memory_allocated(self.device) - self.baseline

    def peak_bytes(self) -> int:
        """Return the most bytes that lived at one time so far."""
        return torch.cuda.max_memory_allocated(self.device) - self.baseline


class StorageMemory:
    """Bytes of every new storage that an operator returns, until it is freed: the same on every run, to the byte.

    It sees what autograd and custom functions keep and what the backward engine allocates; not the scratch memory that
    a kernel takes and gives back inside.
    """

    def __init__(self) -> None:
        self._tracker = _StorageTracker()

    def __enter__(self) -> Self:
        """Start to note storages."""
        self._tracker.__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *exc: object) -> None:
        """Stop to note storages."""
        self._tracker.__exit__(*exc)  # type: ignore[no-untyped-call]

    def current_bytes(self) -> int:
        """Return the bytes that live now."""
        return self._tracker.live

    def peak_bytes(self) -> int:
        """Return the most bytes that lived at one time so far."""
        return self._tracker.peak


def _tensors(given: Iterable[object]) -> Iterator[torch.Tensor]:
    """Yield the tensors among an operator's arguments or results, which are tensors, plain data, and lists of both.

    Not by ``tree_iter``, which knows every kind of container and takes as long as the operator.
    """
    for each in given:
        if isinstance(each, torch.Tensor):
            yield each
        elif isinstance(each, list | tuple):
            yield from _tensors(each)


class _StorageTracker(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts each storage once, at its present size, from the operator that makes it until it is freed.

    ``lift_fresh`` hands over what ``torch.tensor`` made unseen: its argument is new, not given.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.live = 0
        self.peak = 0
        self._known: dict[int, weakref.ref[object]] = {}
        self._sizes: dict[int, int] = {}

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Return False: torch need not import its compiler, which takes seconds, to keep it out of these few lines."""
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> object:
        kwargs = kwargs or {}
        given = () if func is torch.ops.aten.lift_fresh.default else (*args, *kwargs.values())
        before = {t.untyped_storage()._cdata for t in _tensors(given)}
        out = func(*args, **kwargs)
        for tensor in _tensors((out,)):
            storage = tensor.untyped_storage()
            if storage._cdata in self._known or storage._cdata not in before:
                self._note(storage)
        return out

    def _note(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key not in self._known:
            self._known[key] = weakref.ref(storage, lambda _: self._forget(key))
        self.live += size - self._sizes.get(key, 0)
        self._sizes[key] = size
        self.peak = max(self.peak, self.live)

    def _forget(self, key: int) -> None:
        self._known.pop(key)
        self.live -= self._sizes.pop(key)
