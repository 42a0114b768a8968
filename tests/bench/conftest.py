"""Runs and workers on fake passes; the command line in this process."""

import io
import logging
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from odegrad.cli import main
from odegrad.history.line import Line
from odegrad.processes.process import prepare
from odegrad.records.record import Run, freeze_options
from odegrad.running.worker import Worker

HERE = Path(__file__).parent


@pytest.fixture
def make_run():
    """Return a function that makes a run whose gradient method names a behaviour of ``fake_passes``."""

    def make(behaviour="ok", seed=0, **options):
        return Run(
            suite="fake",
            task="digits",
            size="tiny",
            gradient=behaviour,
            optimizer="adam",
            solver="dopri5",
            seed=seed,
            rtol=1e-3,
            atol=1e-3,
            iterations=2,
            method=behaviour,
            gradient_options=freeze_options(options),
        )

    return make


@pytest.fixture
def make_worker(monkeypatch):
    """Return a function that makes a worker on ``fake_passes``, importable in its processes."""
    monkeypatch.syspath_prepend(str(HERE))
    prepare([])

    def make(passes=("first", "second"), **settings):
        return Worker(passes, "fake_passes:run_pass", **settings)

    return make


HISTORY_MACHINE = {
    "cpu": "Test CPU 3000", "cores": 2, "threads": 1, "torch": "2.13.0", "python": "3.11.7", "odegrad": "0.1.0",
}  # fmt: skip


@pytest.fixture
def make_line():
    """Return a function that makes the line of a history of a run at the commit of a place; by default 26 f calls."""

    def make(number, seconds=None, machine=None, release=None, status="ok", **metrics):
        return Line(
            commit=f"{number + 1:040x}", date=f"2026-01-01T{number // 60:02d}:{number % 60:02d}:00+00:00",
            order=number + 1, parent=f"{number:040x}" if number else None, suite="mine",
            run="linear/tiny mine seed 0", device="cpu", status=status, machine=HISTORY_MACHINE | (machine or {}),
            metrics=metrics or {"nfe_forward": 26},
            times={} if seconds is None else {"backward_seconds": float(seconds)}, release=release,
        )  # fmt: skip

    return make


class Checkout:
    """A git repository in a folder, with an author of its own."""

    def __init__(self, folder):
        self.folder = folder
        self("init", "-q", "-b", "main", str(folder))

    def __call__(self, *arguments):
        """Return what git prints."""
        author = ["-c", "user.name=A", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false"]
        command = [shutil.which("git"), *author, *arguments]
        done = subprocess.run(command, cwd=self.folder, check=True, capture_output=True, text=True)
        return done.stdout.strip()

    def commit(self, message="a change", **files):
        """Write files, of which ``__`` in the name is a dot, and commit everything; return the hash."""
        for name, text in files.items():
            (self.folder / name.replace("__", ".")).write_text(text, encoding="utf-8")
        self("add", "-A")
        self("commit", "-q", "--allow-empty", "-m", message)
        return self("rev-parse", "HEAD")


@pytest.fixture
def checkout(tmp_path):
    """Return an empty git repository in a folder of its own."""
    folder = tmp_path / "checkout"
    folder.mkdir()
    return Checkout(folder)


@pytest.fixture
def silent_console():
    """Return a console that shows nothing and is no terminal."""
    return Console(file=io.StringIO())


@pytest.fixture
def run_main(monkeypatch, capsys):
    """Return a function that runs the command line and returns its exit code, standard output and standard error."""
    logger = logging.getLogger("odegrad")
    before = logger.handlers, logger.level
    signals = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["odegrad", *arguments])
        code = 0
        try:
            main()
        except SystemExit as stop:
            code = stop.code
        return code, *capsys.readouterr()

    yield call
    logger.handlers, logger.level = before
    for number, handler in signals.items():
        signal.signal(number, handler)
