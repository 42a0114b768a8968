"""The parent's side of a timed process: start it in an environment, ask it, end it."""

import contextlib
import math
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from odegrad.errors import BaselineError, InfrastructureError, OdegradError, UsageError
from odegrad.processes.asking import Asker
from odegrad.processes.process import ALLOCATOR
from odegrad.processes.reaping import end_family

SCRIPT = Path(__file__).with_name("timed_process.py")
ANSWER_SECONDS = 120.0
"""A process that says nothing for so long hangs."""


@dataclass(frozen=True)
class Environment:
    """Where one side runs.

    Parameters
    ----------
    python
        The interpreter.
    folder
        Working folder, where relative names such as ``my_method.py:MyMethod`` are looked up.
    path
        Folder of packages that win over the interpreter's own; None: the interpreter's own.
    """

    python: str = sys.executable
    folder: Path = Path()
    path: Path | None = None

    def variables(self, threads: int) -> dict[str, str]:
        """Return the environment variables of its processes."""
        paths = [*([] if self.path is None else [str(self.path)]), *filter(None, [os.environ.get("PYTHONPATH")])]
        own = {"OMP_NUM_THREADS": str(threads)} | ({"PYTHONPATH": os.pathsep.join(paths)} if paths else {})
        return {**ALLOCATOR, **os.environ, **own}


class Side:
    """A timed process; a context manager that ends it."""

    def __init__(self, environment: Environment, threads: int) -> None:
        self._log = tempfile.TemporaryFile()  # noqa: SIM115
        try:
            self._process = subprocess.Popen(  # noqa: S603
                [environment.python, "-P", str(SCRIPT)],
                cwd=environment.folder, env=environment.variables(threads), stdin=subprocess.PIPE,
                stdout=subprocess.PIPE, stderr=self._log, start_new_session=True, bufsize=0,
            )  # fmt: skip
        except OSError as error:
            self._log.close()
            raise BaselineError(f"a timed process cannot be started with {environment.python}: {error}") from error
        self._asker = Asker(self._process, "a timed process")
        self._asker.send({"threads": threads})  # answered once torch is there, while other sides start
        self._greeted = False

    def ask(self, request: Mapping[str, object]) -> dict[str, Any]:
        """Return the process's answer; raises what ``answer`` raises."""
        self.send(request)
        return self.answer()

    def seconds(self, cell: str, least: float) -> list[float]:
        """Return the seconds of a block of ``cell`` that takes ``least`` of them: the whole, and the backward pass.

        Raises
        ------
        InfrastructureError
            If the cell could be built and cannot be run now; else what ``answer`` raises.
        UsageError
            If the answer holds no two times.
        """
        answer = self.ask({"cell": cell, "seconds": least})
        if "error" in answer:
            raise InfrastructureError(f"{cell}: {answer['error']}")
        found = answer.get("seconds")
        if not isinstance(found, list) or len(found) != 2 or not all(map(_is_time, found)):
            raise UsageError(f"{cell}: expected two times above 0 s from a timed process, got {str(found)[:80]}")
        return [float(part) for part in found]

    def send(self, request: Mapping[str, object]) -> None:
        """Send a request."""
        self._asker.send(request)

    def answer(self) -> dict[str, Any]:
        """Return the next answer.

        Raises
        ------
        UsageError
            If the process has ended by itself, hangs or writes what is no answer; the message ends with the last of
            what it printed.
        InfrastructureError
            If it was killed from outside.
        """
        try:
            if not self._greeted:
                self._asker.answer(ANSWER_SECONDS)
                self._greeted = True
            return self._asker.answer(ANSWER_SECONDS)
        except OdegradError as error:
            raise type(error)(f"{error}: {self._last_words()}") from error

    def _last_words(self) -> str:
        self._log.seek(0)
        return self._log.read()[-500:].decode(errors="replace").strip() or "it printed nothing"

    def __enter__(self) -> Self:
        """Return this side."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the process, and what the code in it has started."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._process.pid, signal.SIGSTOP)  # so that it starts nothing more
        end_family(self._process.pid)
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
        self._log.close()


def _is_time(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0.0 < value < math.inf
