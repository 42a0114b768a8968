"""A polite end of a command, which counts like Ctrl-C."""

import signal
from types import FrameType
from typing import NoReturn


def end_politely() -> None:
    """Treat SIGTERM (a cluster's preemption) like Ctrl-C."""
    signal.signal(signal.SIGTERM, _interrupt)


def _interrupt(_number: int, _frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt
