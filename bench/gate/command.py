"""What ``odegrad gate`` does: measure, compare or accept, and say it in every form that was asked for."""

import datetime as dt
import logging
import shlex
import sys
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console

from odegrad.errors import InfrastructureError, UsageError
from odegrad.gate.baseline import Baseline, Reason, baseline_of, read_baseline, run_name
from odegrad.gate.exact import in_common, judge
from odegrad.gate.measure import gated_runs, measure_twice
from odegrad.gate.verdict import GateVerdict
from odegrad.machine.description import commit
from odegrad.records.record import Record, Status
from odegrad.running.runner import SweepSettings
from odegrad.running.slots import available_cores
from odegrad.suites.suite import load_suite

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class GateOptions:
    """What was asked of the gate.

    Parameters
    ----------
    suite
        Name or path.
    baseline
        The file.
    overrides
        ``key=value`` texts; with some only a part of the suite may be measured, and none of it accepted.
    update
        Whether to accept what is measured.
    reason
        Why it is accepted.
    workers
        Runs at a time; None: as many as there are cores for.
    threads
        Threads of one tensor operation.
    timeout
        Seconds that one run may take.
    """

    suite: str
    baseline: Path
    overrides: Sequence[str] = ()
    update: bool = False
    reason: str = ""
    workers: int | None = None
    threads: int = 1
    timeout: float | None = None

    def command(self) -> str:
        """Return the command that repeats this gate."""
        words = ["odegrad", "gate", self.suite, "--baseline", str(self.baseline)]
        words += [word for each in self.overrides for word in ("--set", each)]
        words += ["--threads", str(self.threads)] if self.threads != 1 else []
        return shlex.join(words)


def run_gate(options: GateOptions, console: Console) -> GateVerdict:
    """Return the verdict of the exact gate; with ``update`` write the baseline, and the verdict is its change.

    Raises
    ------
    BaselineError
        If the baseline cannot be used.
    UsageError
        If the options do not go together, or the suite has nothing to gate.
    InfrastructureError
        If the machine fails, so that nothing can be accepted.
    """
    _check(options)
    with redirect_stdout(sys.stderr):  # a user's own file may print
        suite = load_suite(options.suite, options.overrides, options.timeout)
    fresh = options.update and not options.baseline.exists()
    old = None if fresh else read_baseline(options.baseline, suite.name)
    if old is not None and not options.update:
        in_common(old, [run_name(run) for run in gated_runs(suite, "cpu")])  # said before anything is measured
    workers = options.workers or max(1, len(available_cores()) // options.threads)
    settings = SweepSettings(threads=options.threads, timeout=options.timeout, workers=workers, exclusive=False)
    pairs = measure_twice(suite, settings, console)
    if options.update:
        return _accept(options, suite.name, old, pairs)
    if old is None:
        raise UsageError(f"--baseline {options.baseline}: expected a file; write it with --update --reason TEXT")
    verdict = judge(old, pairs, whole=not options.overrides)
    return replace(verdict, since=_since(old), command=options.command())


def _check(options: GateOptions) -> None:
    if options.update and not options.reason.strip():
        raise UsageError("--update: expected --reason TEXT beside it, which the baseline keeps; say why it changes")
    if options.reason and not options.update:
        raise UsageError("--reason: expected --update beside it; without it nothing is written")
    if options.update and options.overrides:
        raise UsageError("--update, --set: expected the whole suite; a part of it cannot be accepted: leave out --set")
    folder = options.baseline.parent
    if not folder.is_dir():
        raise UsageError(f"--baseline {options.baseline}: there is no folder {folder}; make it, or give another file")


def _accept(
    options: GateOptions, suite: str, old: Baseline | None, pairs: Mapping[str, tuple[Record, Record]]
) -> GateVerdict:
    """Write the baseline; return how it differs from the old one."""
    failed = [name for name, both in pairs.items() if any(r.status is Status.INFRASTRUCTURE for r in both)]
    if failed:
        raise InfrastructureError(
            f"{len(failed)} runs failed because of this machine, among them {failed[0]}; try again"
        )
    today = dt.datetime.now(dt.UTC).date().isoformat()
    found = commit(options.baseline.resolve().parent)
    reason = Reason(today, found and found.removesuffix("-dirty"), options.reason.strip())
    new = baseline_of(suite, pairs, old, reason)
    shared = old is not None and any(name in old.runs for name in pairs)
    verdict = judge(old if old is not None and shared else new, pairs)
    new.write(options.baseline)
    _log.info("wrote %s: %d runs", options.baseline, len(new.runs))
    return replace(verdict, since=_since(old or new), command=options.command())


def _since(baseline: Baseline) -> str:
    """Return when and why the baseline was accepted last."""
    if not baseline.reasons:
        return "no reason recorded"
    last = baseline.reasons[-1]
    return f"{last.date}{f', commit {last.commit}' if last.commit else ''}: {last.reason}"
