"""Where a field may draw random numbers from, and how its calls are made to repeat their draws."""

import random
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch


class RandomSource(Protocol):
    """A stream of random numbers whose state can be read and set."""

    def state(self) -> Any:
        """Return its state."""
        ...

    def set(self, state: Any) -> None:
        """Make ``state`` its state."""
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


@dataclass(frozen=True)
class NumpySource:
    """A generator of NumPy."""

    generator: np.random.Generator | np.random.RandomState

    def state(self) -> Any:
        """Return its state."""
        bits: Any = self.generator.bit_generator if isinstance(self.generator, np.random.Generator) else self.generator
        return bits.get_state(legacy=False) if isinstance(bits, np.random.RandomState) else bits.state

    def set(self, state: Any) -> None:
        """Make ``state`` its state."""
        if isinstance(self.generator, np.random.Generator):
            self.generator.bit_generator.state = state
        else:
            self.generator.set_state(state)


class _NumpyGlobal:
    """NumPy's global stream."""

    def state(self) -> Any:
        return np.random.get_state(legacy=False)  # noqa: NPY002 -- the field's, not ours

    def set(self, state: Any) -> None:
        np.random.set_state(state)  # noqa: NPY002


class _PythonGlobal:
    """The stream of Python's module ``random``."""

    def state(self) -> Any:
        return random.getstate()

    def set(self, state: Any) -> None:
        random.setstate(state)


OF_OTHERS: Sequence[RandomSource] = (_NumpyGlobal(), _PythonGlobal())
"""The global streams beside PyTorch's."""


def source_of(generator: object) -> RandomSource | None:
    """Return the source that ``generator`` is, None if it is none."""
    if isinstance(generator, torch.Generator):
        return TorchSource(generator)
    if isinstance(generator, (np.random.Generator, np.random.RandomState)):
        return NumpySource(generator)
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

    states: Sequence[tuple[RandomSource, Any]]

    @classmethod
    def now(cls, sources: Iterable[RandomSource]) -> "Draws":
        """Return the states at this moment."""
        return cls([(source, source.state()) for source in sources])

    def moved(self) -> "Draws":
        """Return those of which numbers have been drawn since."""
        return Draws([(source, state) for source, state in self.states if not _same(state, source.state())])

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


def _same(a: Any, b: Any) -> bool:
    """Return whether two states are equal, whatever a source keeps in its state."""
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, np.ndarray):
        return np.array_equal(a, b)
    if isinstance(a, dict):
        return all(_same(a[key], b[key]) for key in a)
    return bool(a == b)
