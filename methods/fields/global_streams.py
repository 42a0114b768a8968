"""The global streams of random numbers beside PyTorch's: NumPy's and Python's.

Every solve looks at them twice. Both are Mersenne twisters of 624 words and a position, and reading these as they lie
in memory takes a hundredth of the time that the libraries take to hand out a state.
"""

import _random
import ctypes
import random
import struct
import sys
from collections.abc import Callable
from typing import Any

import numpy as np

_WORDS = 624


class PythonGlobal:
    """The stream of Python's module ``random``: ``state`` is a state of ``getstate``, or its words and what is kept."""

    def __init__(self) -> None:
        self._address = _address_of(random.getstate()[1])

    def state(self) -> object:
        """Return its state."""
        if self._address is None:
            return random.getstate()
        return ctypes.string_at(self._address, 4 * (_WORDS + 1)), _STREAM.gauss_next

    def set(self, state: Any) -> None:
        """Make ``state`` its state."""
        if self._address is None:
            random.setstate(state)
            return
        words, kept = state
        position, *rest = struct.unpack(f"={_WORDS + 1}I", words)
        random.setstate((_STREAM.VERSION, (*rest, position), kept))

    def stands_at(self, state: object) -> bool:
        """Return whether nothing has been drawn since it was in ``state``."""
        return bool(self.state() == state)


class NumpyGlobal:
    """NumPy's older stream, ``np.random``: ``state`` is one of ``get_state``."""

    generator = np.random.mtrand._rand

    def __init__(self) -> None:
        self._seen: tuple[bytes, Any] | None = None

    def state(self) -> Any:
        """Return its state, taken anew only where it has moved since the last time."""
        words = self._words()
        # The words do not hold the normal number that is kept for the next draw.
        if words is not None and self._seen is not None and self._seen[0] == words and not self._seen[1][3]:
            return self._seen[1]
        state = self.generator.get_state()
        if words is not None:
            self._seen = words, state
        return state

    def set(self, state: Any) -> None:
        """Make ``state`` its state."""
        self._seen = None
        self.generator.set_state(state)

    def stands_at(self, state: Any) -> bool:
        """Return whether nothing has been drawn since it was in ``state``."""
        now = self.state()
        # Every draw moves the position, or takes the number that was kept; behind the last one all words are new.
        return now is state or bool(now[2:] == state[2:] and now[1][0] == state[1][0])

    def _words(self) -> bytes | None:
        """Return the words and the position; None where the stream is no Mersenne twister."""
        bits = _BITS()
        if type(bits) is not np.random.MT19937:
            return None
        return ctypes.string_at(bits.ctypes.state_address, 4 * (_WORDS + 1))


_STREAM: Any = random._inst

_BITS: Callable[[], object] = getattr(np.random, "get_bit_generator", lambda: None)
"""NumPy's own, since 1.24."""


def _address_of(state: tuple[int, ...]) -> int | None:
    """Return where Python's stream holds its position and words, None if it is not found in the object."""
    *words, position = state
    size = _random.Random.__basicsize__
    # CPython's id() is an address; the object is searched for what it is known to hold, and no layout is assumed.
    held = ctypes.string_at(id(_STREAM), size) if sys.implementation.name == "cpython" else b""
    at = held.find(struct.pack(f"={_WORDS + 1}I", position, *words))
    return id(_STREAM) + at if at >= 0 else None
