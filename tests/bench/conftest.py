"""Runs and workers on fake passes; the command line in this process."""

import io
import logging
import signal
import sys
from pathlib import Path

import pytest
from rich.console import Console

from odegrad.cli import main
from odegrad.executors.process import prepare
from odegrad.record import Run, freeze_options
from odegrad.worker import Worker

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


@pytest.fixture
def silent_console():
    """Return a console that shows nothing and is no terminal."""
    return Console(file=io.StringIO())


@pytest.fixture
def run_main(monkeypatch, capsys):
    """Return a function that runs the command line and returns its exit code, standard output and standard error."""
    logger = logging.getLogger("odegrad")
    before = logger.handlers, logger.level, signal.getsignal(signal.SIGTERM)

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["odegrad", *arguments])
        code = 0
        try:
            main()
        except SystemExit as stop:
            code = stop.code
        return code, *capsys.readouterr()

    yield call
    logger.handlers, logger.level = before[:2]
    signal.signal(signal.SIGTERM, before[2])
