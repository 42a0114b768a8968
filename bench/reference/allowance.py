"""The time that an answer may take, and what is told of it on the way."""

import math
import time
from collections.abc import Callable

Tell = Callable[[str], None]
"""Takes one line on how far the work is."""


def in_silence(_line: str) -> None:
    """Tell nobody."""


class Allowance:
    """Seconds from when it is made; what has begun is finished, and nothing new is begun when they are over.

    Parameters
    ----------
    seconds
        None for as long as it takes.
    """

    def __init__(self, seconds: float | None = None) -> None:
        self.seconds = math.inf if seconds is None else seconds
        self._started = time.perf_counter()

    def left(self, share: float = 1.0) -> float:
        """Return the seconds until ``share`` of them all is over; not below 0."""
        return max(0.0, share * self.seconds - (time.perf_counter() - self._started))

    def over(self, share: float = 1.0) -> bool:
        """Return whether ``share`` of the seconds is over."""
        return self.left(share) <= 0.0

    def __str__(self) -> str:
        return f"the budget of {self.seconds:g} s"
