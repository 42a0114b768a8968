"""Where a field may draw random numbers from, and how its calls are made to repeat their draws."""

import ctypes
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch

from odegrad.methods.fields.global_streams import NumpyGlobal, PythonGlobal


class RandomSource(Protocol):
    """A stream of random numbers whose state can be read and set."""

    def state(self) -> Any:
        """Return its state."""
        ...

    def set(self, state: Any) -> None:
        """Make ``state`` its state."""
        ...

    def stands_at(self, state: Any) -> bool:
        """Return whether nothing has been drawn since it was in ``state``."""
        ...


@dataclass(frozen=True)
class TorchSource:
    """A generator of PyTorch, on any device."""

    generator: torch.Generator

    def state(self) -> torch.Tensor:
        """Return its state."""
        return self.generator.get_state()

    def set(self, state: torch.Tensor) -> None:
        """Make ``state`` its state."""
        self.generator.set_state(state)

    def stands_at(self, state: torch.Tensor) -> bool:
        """Return whether nothing has been drawn since it was in ``state``."""
        return torch.equal(state, self.generator.get_state())


@dataclass(frozen=True)
class NumpySource:
    """A generator of NumPy."""

    generator: np.random.Generator

    def state(self) -> object:
        """Return its state."""
        return self.generator.bit_generator.state

    def set(self, state: Any) -> None:
        """Make ``state`` its state."""
        self.generator.bit_generator.state = state

    def stands_at(self, state: object) -> bool:
        """Return whether nothing has been drawn since it was in ``state``."""
        return repr(state) == repr(self.state())


@dataclass(frozen=True)
class NumpyStream:
    """An older generator of NumPy."""

    generator: np.random.RandomState

    def state(self) -> Any:
        """Return its state."""
        return self.generator.get_state()

    def set(self, state: Any) -> None:
        """Make ``state`` its state."""
        self.generator.set_state(state)

    def stands_at(self, state: Any) -> bool:
        """Return whether nothing has been drawn since it was in ``state``."""
        # Every draw moves the position, or takes the number that was kept; behind the last one all words are new.
        now = self.state()
        return bool(now[2:] == state[2:] and now[1][0] == state[1][0])


OF_OTHERS: Sequence[RandomSource] = (NumpyGlobal(), PythonGlobal())
"""The global streams beside PyTorch's."""


def source_of(generator: object) -> RandomSource | None:
    """Return the source that ``generator`` is, None if it is none."""
    if isinstance(generator, torch.Generator):
        return TorchSource(generator)
    if isinstance(generator, np.random.Generator):
        return NumpySource(generator)
    if isinstance(generator, np.random.RandomState):
        return OF_OTHERS[0] if generator is NumpyGlobal.generator else NumpyStream(generator)
    return None


def torch_sources(device: torch.device) -> list[RandomSource]:
    """Return PyTorch's global streams: the CPU's, and that of a CUDA device if the work is there."""
    sources: list[RandomSource] = [TorchSource(torch.default_generator)]
    if device.type == "cuda":
        torch.cuda.init()  # type: ignore[no-untyped-call]
        index = torch.cuda.current_device() if device.index is None else device.index
        sources.append(TorchSource(torch.cuda.default_generators[index]))
    return sources


@dataclass(frozen=True)
class Draws:
    """States of sources at one moment."""

    states: Sequence[tuple[RandomSource, object]]

    @classmethod
    def now(cls, sources: Iterable[RandomSource]) -> "Draws":
        """Return the states at this moment."""
        return cls([(source, source.state()) for source in sources])

    def has_moved(self) -> bool:
        """Return whether numbers have been drawn since; no operator of PyTorch runs, which a count would see."""
        return not all(
            _bytes(state) == _bytes(source.state()) if isinstance(state, torch.Tensor) else source.stands_at(state)
            for source, state in self.states
        )

    def moved(self) -> "Draws":
        """Return those of which numbers have been drawn since."""
        return Draws([(source, state) for source, state in self.states if not source.stands_at(state)])

    def set(self) -> None:
        """Make them the sources' states."""
        for source, state in self.states:
            source.set(state)

    @contextmanager
    def restored(self) -> Iterator[None]:
        """Draw from these states inside, and go on from the outer ones behind."""
        outer = Draws.now(source for source, _ in self.states)
        self.set()
        try:
            yield
        finally:
            outer.set()

    def __bool__(self) -> bool:
        return bool(self.states)

    def __contains__(self, source: object) -> bool:
        return any(held == source for held, _ in self.states)


def _bytes(state: torch.Tensor) -> bytes:
    return ctypes.string_at(state.data_ptr(), state.numel())
