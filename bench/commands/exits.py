"""How a command ends: exit codes, and a polite end that counts like Ctrl-C."""

import signal
from types import FrameType
from typing import NoReturn

FAILED_CHECK, USAGE, FAILED_RUNS, TRY_AGAIN, INTERRUPTED = 1, 2, 3, 75, 130


def end_politely() -> None:
    """Treat SIGTERM (a cluster's preemption) like Ctrl-C."""
    signal.signal(signal.SIGTERM, _interrupt)


def _interrupt(_number: int, _frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt
