"""What ``odegrad gate --base`` does: build the base, time both sides, judge."""

import logging
import shlex
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, replace
from pathlib import Path

from odegrad.errors import BaselineError, UsageError
from odegrad.gate.base import built_base
from odegrad.gate.decision import Decision
from odegrad.gate.paired import Measured, measure_pairs, time_verdict
from odegrad.gate.side import Environment
from odegrad.gate.verdict import GateVerdict
from odegrad.suites.suite import load_suite

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TimeOptions:
    """What was asked of the paired times.

    Parameters
    ----------
    suite
        Name or path.
    base
        A git revision; empty with ``base_python``.
    base_python
        An interpreter of an environment that holds the base already.
    budget
        Seconds in which pairs are measured.
    overrides
        ``key=value`` texts.
    threads
        Threads of one tensor operation.
    """

    suite: str
    base: str = ""
    base_python: str = ""
    budget: float = 300.0
    overrides: Sequence[str] = ()
    threads: int = 1

    def command(self) -> str:
        """Return the command that repeats this gate."""
        words = ["odegrad", "gate", self.suite]
        words += ["--base-python", self.base_python] if self.base_python else ["--base", self.base]
        words += [word for each in self.overrides for word in ("--set", each)]
        return shlex.join([*words, "--budget", f"{self.budget:g}"])


def run_time_gate(options: TimeOptions) -> GateVerdict:
    """Return the verdict of base and head timed beside each other.

    Raises
    ------
    BaselineError
        If the base cannot be built or run.
    UsageError
        If the suite has nothing to time on a CPU.
    InfrastructureError
        If a process fails.
    """
    with redirect_stdout(sys.stderr):  # a user's own file may print
        suite = load_suite(options.suite, options.overrides)
    runs = [replace(run, passes="time") for run in suite.runs("cpu") if run.device == "cpu"]
    if not runs or suite.tuned:
        raise UsageError(f"suite {suite.name}: expected runs on a cpu with fixed settings, got none")
    with _base(options, suite.folder) as (builds, since):
        head = Environment(sys.executable, suite.folder)
        found = measure_pairs(runs, builds, head, options.budget, options.threads, _told)
    return time_verdict(found, since, options.command())


@contextmanager
def _base(options: TimeOptions, folder: Path) -> Iterator[tuple[tuple[Environment, ...], str]]:
    """Yield the two builds of the base, and its commit; an environment that is given is one build, and stands twice."""
    if not options.base_python:
        with built_base(options.base, folder) as built:
            yield built
        return
    if not Path(options.base_python).is_file():
        raise BaselineError(f"--base-python {options.base_python}: expected an interpreter, got no such file")
    yield (Environment(options.base_python, folder),) * 2, options.base_python


def _told(found: Measured, pairs: int) -> None:
    left = sum(each is Decision.UNDECIDED for each in found.decisions().values())
    _log.info("pair %d: %d of %d runs undecided", pairs, left, len(found.cells))
