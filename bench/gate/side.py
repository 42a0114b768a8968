"""The parent's side of a timed process: start it in an environment, ask it, end it."""

import json
import os
import select
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from odegrad.errors import InfrastructureError
from odegrad.processes.process import ALLOCATOR

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
        self._process = subprocess.Popen(  # noqa: S603
            [environment.python, "-P", str(SCRIPT)],
            cwd=environment.folder, env=environment.variables(threads), stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=self._log, start_new_session=True,
        )  # fmt: skip
        self.send({"threads": threads})

    def ask(self, request: Mapping[str, object]) -> dict[str, Any]:
        """Return the process's answer.

        Raises
        ------
        InfrastructureError
            If the process has ended or hangs; the message ends with the last of what it printed.
        """
        self.send(request)
        return self.answer()

    def send(self, request: Mapping[str, object]) -> None:
        """Send a request; raises what ``ask`` raises."""
        pipe = self._process.stdin
        if pipe is None:
            raise InfrastructureError("a timed process has no standard input")
        try:
            pipe.write(json.dumps(request).encode() + b"\n")
            pipe.flush()
        except BrokenPipeError as error:
            raise InfrastructureError(f"a timed process ended early: {self._last_words()}") from error

    def answer(self) -> dict[str, object]:
        """Return the next answer; raises what ``ask`` raises."""
        pipe = self._process.stdout
        if pipe is None or not select.select([pipe], [], [], ANSWER_SECONDS)[0]:
            raise InfrastructureError(f"a timed process said nothing for {ANSWER_SECONDS:g} s: {self._last_words()}")
        line = pipe.readline()
        if not line:
            raise InfrastructureError(f"a timed process ended early: {self._last_words()}")
        found: dict[str, object] = json.loads(line)
        return found

    def _last_words(self) -> str:
        self._log.seek(0)
        return self._log.read()[-500:].decode(errors="replace").strip() or "it printed nothing"

    def __enter__(self) -> Self:
        """Return this side."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the process."""
        self._process.kill()
        self._process.communicate()
        self._log.close()
