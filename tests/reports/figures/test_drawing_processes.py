"""Processes that draw end with the command that started them, also where it is killed."""

import contextlib
import os
import signal
import subprocess
import sys

CHILD = "import os, time; from odegrad.reports.figures.drawing import _end_with; _end_with(os.getppid()); "
CHILD += "print(os.getpid(), flush=True); time.sleep(60)"
PARENT = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {CHILD!r}])"


def test_a_drawing_process_ends_with_its_parent():
    """Killed without a word, the parent ends nobody; the child, which would sleep for a minute, ends with code 1."""
    parent = subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, start_new_session=True)
    try:
        child = int(parent.stdout.readline())
        parent.send_signal(signal.SIGKILL)
        parent.wait()
        with subprocess.Popen(["sleep", "30"]) as limit:
            assert parent.stdout.read() == b""  # its other end is the child's, until that ends
            assert limit.poll() is None, "it outlived its parent"
            limit.kill()
    finally:
        parent.stdout.close()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(parent.pid, signal.SIGKILL)
    assert child != parent.pid
