"""A polite end of every command, which counts like Ctrl-C."""

import signal
import threading
from types import FrameType
from typing import NoReturn


def end_politely() -> None:
    """Treat SIGTERM (a cluster's preemption) and SIGHUP (a terminal that closes) like Ctrl-C.

    What is ignored, as under ``nohup``, stays so; beside the main thread nothing can be set.
    """
    if threading.current_thread() is not threading.main_thread():
        return
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, _interrupt)


def _interrupt(_number: int, _frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt
