"""Measures what a gate compares: every run of a suite twice, each pass in a fresh process."""

from collections.abc import Sequence
from dataclasses import replace

from rich.console import Console

from odegrad.errors import UsageError
from odegrad.gate.baseline import run_name
from odegrad.records.record import Record, Run
from odegrad.running.progress import watch
from odegrad.running.runner import Executor, SweepSettings, local_executor, shared_folder
from odegrad.suites.suite import Suite

GATED_PASSES = ("count", "memory", "train")
"""Passes whose figures repeat."""

FROZEN = ("count", "memory")
"""What is measured of a suite that names no passes: training takes long, and is gated where a suite asks for it."""


def gated_runs(suite: Suite, device: str) -> list[Run]:
    """Return the runs of ``suite`` with the passes that the gate compares.

    Raises
    ------
    UsageError
        If the suite tunes, or has none of these passes.
    """
    if suite.tuned:
        raise UsageError(f"suite {suite.name}: expected fixed settings, got tuning; write the chosen settings into it")
    runs = []
    for run in suite.runs(device):
        passes = tuple(name for name in GATED_PASSES if name in run.passes.split(",")) if run.passes else FROZEN
        if not passes:
            raise UsageError(
                f"suite {suite.name}: expected one of the passes {', '.join(GATED_PASSES)}, got {run.passes}; the gate "
                "compares figures that repeat"
            )
        runs.append(replace(run, passes=",".join(passes)))
    if not runs:
        raise UsageError(f"suite {suite.name}: expected runs, got none; look at its include and exclude")
    return runs


def measure_twice(suite: Suite, settings: SweepSettings, console: Console) -> dict[str, tuple[Record, Record]]:
    """Return the two records of every run, by its name in a baseline.

    Raises
    ------
    UsageError
        If the suite has nothing to gate.
    InfrastructureError
        If no run can be started.
    """
    runs = gated_runs(suite, settings.device)
    with shared_folder() as shared:
        return measure_runs_twice(runs, local_executor(suite, settings, shared), console)


def measure_runs_twice(runs: Sequence[Run], executor: Executor, console: Console) -> dict[str, tuple[Record, Record]]:
    """Return the two records of every run, by its name in a baseline; the second after all of the first."""
    found: list[dict[str, Record]] = []
    with watch(console, [*runs, *runs]) as watcher:
        for _ in range(2):
            measured: dict[str, Record] = {}
            for record in executor.execute(runs, watcher):
                measured[run_name(record.run)] = record
                watcher.finished(record)
            found.append(measured)
    return {name: (record, found[1][name]) for name, record in found[0].items()}
