"""Asking another process by lines of JSON: an answer repeats its question's key, and is checked before it counts."""

import json
import os
import select
import subprocess
import time
from collections import deque
from collections.abc import Mapping
from typing import Any

from odegrad.errors import InfrastructureError, OdegradError, UsageError
from odegrad.processes.deaths import death
from odegrad.processes.framing import KEY_BYTES, REPLY_BYTES
from odegrad.records.record import Status

QUESTION_KEY = "key"
"""What a question and its answer share; drawn anew for every question."""

END_SECONDS = 10.0
"""How long a process that has closed its output may take to end."""

_CHUNK = 2**20


class Asker:
    """Asks a process that answers each line on its standard input with one on its standard output, in order.

    Parameters
    ----------
    process
        Started with pipes for both, unbuffered.
    what
        What an error calls it, with an article.
    """

    def __init__(self, process: subprocess.Popen[bytes], what: str) -> None:
        self._process, self._what = process, what
        self._keys: deque[str] = deque()
        self._bytes = bytearray()

    def send(self, request: Mapping[str, object]) -> None:
        """Send a question; a process that has ended is told of by ``answer``."""
        key = os.urandom(KEY_BYTES).hex()
        self._keys.append(key)
        if self._process.stdin is None:
            raise InfrastructureError(f"{self._what} has no standard input")
        line = memoryview(json.dumps({**request, QUESTION_KEY: key}).encode() + b"\n")
        try:
            while line:
                line = line[os.write(self._process.stdin.fileno(), line) :]
        except BrokenPipeError:
            return

    def answer(self, seconds: float | None = None) -> dict[str, Any]:
        """Return the answer to the oldest question that has none, without its key.

        Raises
        ------
        UsageError
            If the process has ended by itself, says nothing for ``seconds``, or writes what is no answer: what runs in
            it is to blame.
        InfrastructureError
            If it was killed from outside.
        """
        key = self._keys.popleft()
        line = self._line(seconds)
        try:
            found = json.loads(line)
        except (ValueError, RecursionError):
            found = None
        if not isinstance(found, dict) or found.pop(QUESTION_KEY, None) != key:
            raise UsageError(f"{self._what} wrote what is no answer: {bytes(line[:80])!r}")
        return found

    def _line(self, seconds: float | None) -> bytes:
        """Return the next line of its output."""
        if self._process.stdout is None:
            raise InfrastructureError(f"{self._what} has no standard output")
        descriptor, end = self._process.stdout.fileno(), None if seconds is None else time.monotonic() + seconds
        while (place := self._bytes.find(b"\n")) < 0:
            left = None if end is None else max(0.0, end - time.monotonic())
            if not select.select([descriptor], [], [], left)[0]:
                raise UsageError(f"{self._what} said nothing for {seconds:g} s")
            data = os.read(descriptor, _CHUNK)
            if not data:
                raise self._ended()
            self._bytes += data
            if len(self._bytes) > REPLY_BYTES:
                raise UsageError(f"{self._what} wrote an answer of more than {REPLY_BYTES} bytes")
        line = bytes(self._bytes[:place])
        del self._bytes[: place + 1]
        return line

    def _ended(self) -> OdegradError:
        """Return why there is no answer of a process that has closed its output."""
        try:
            code: int | None = self._process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            return UsageError(f"{self._what} closed its output and went on without an answer")
        status, message = death(code, held_most=False, memory_ran_out=False)
        told = f"{self._what} ended early: {message}"
        return InfrastructureError(told) if status is Status.INFRASTRUCTURE else UsageError(told)
