"""The commands that measure: ``run``, ``paper`` and ``plan``."""

# ruff: noqa: PLC0415
# Commands import what they need, so that --help is quick and reading results needs no torch.

import functools
import logging
import operator
import sys
from contextlib import redirect_stdout
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from odegrad.commands.options import (
    Device,
    DeviceOption,
    JsonOption,
    SetOption,
    SuiteArgument,
    TaskSizeOption,
    TimeoutOption,
    device_name,
    with_size,
)
from odegrad.commands.printing import print_rows
from odegrad.commands.results import write_report
from odegrad.errors import UsageError
from odegrad.exits import ExitCode
from odegrad.running.mode import ProgressMode

if TYPE_CHECKING:
    from odegrad.running.runner import Connect, SweepOutcome, SweepSettings

ERRORS = Console(stderr=True)
_log = logging.getLogger("odegrad")


class ExecutorName(StrEnum):
    """Where runs are measured."""

    LOCAL = "local"
    DASK = "dask"


class PaperName(StrEnum):
    """A paper whose experiments are made again."""

    IRDM = "irdm"
    SNOPT = "snopt"
    STIFF_GRADIENTS = "stiff-gradients"
    PRECISION = "precision"


class Size(StrEnum):
    """How large a paper's tasks are."""

    TINY = "tiny"
    DEFAULT = "default"
    PAPER = "paper"


ProgressOption = Annotated[
    ProgressMode, typer.Option(help="A table that fills, or plain lines; auto: a table on a terminal without NO_COLOR.")
]


class ClusterName(StrEnum):
    """What Dask runs on, if it does not run yet."""

    LOCAL = "local"
    SLURM = "slurm"


def run(
    suite: SuiteArgument,
    results: Annotated[Path | None, typer.Option(help="Results folder; default results/NAME.")] = None,
    device: DeviceOption = Device.AUTO,
    rerun_failed: Annotated[bool, typer.Option("--rerun-failed", help="Measure failed runs again.")] = False,
    threads: Annotated[int, typer.Option(min=1, max=4096, help="Threads of one tensor operation.")] = 1,
    timeout: Annotated[float | None, typer.Option(min=0, max=1e9, help="Seconds that one run may take.")] = None,
    memory: Annotated[
        str | None, typer.Option(metavar="SIZE", help="What one run may allocate on the CPU: 4GB, 500MiB, ...")
    ] = None,
    retries: Annotated[
        int, typer.Option(min=0, max=1000, help="More tries of what failed because of the machine.")
    ] = 1,
    workers: Annotated[
        int | None,
        typer.Option(
            min=1, max=4096, help="Runs at a time, each on cores or a GPU of its own; default 1, or the suite's."
        ),
    ] = None,
    shared_clock: Annotated[
        bool, typer.Option("--shared-clock", help="Take times while other runs are measured, too.")
    ] = False,
    shard: Annotated[str, typer.Option(metavar="I/N", help="Run only the I-th of N parts of the suite.")] = "1/1",
    executor: Annotated[ExecutorName, typer.Option(help="Where runs are measured.")] = ExecutorName.LOCAL,
    address: Annotated[
        str | None, typer.Option(metavar="tcp://HOST:PORT", help="A Dask scheduler, for --executor dask.")
    ] = None,
    cluster: Annotated[ClusterName, typer.Option(help="What to start for --executor dask.")] = ClusterName.LOCAL,
    cluster_options: Annotated[
        list[str] | None,
        typer.Option("--cluster-option", metavar="KEY=VALUE", help="Of the cluster: queue, walltime, memory, ..."),
    ] = None,
    size: TaskSizeOption = None,
    overrides: SetOption = None,
    progress: ProgressOption = ProgressMode.AUTO,
) -> None:
    """Measure every run of SUITE that is not yet in the results folder, then print the table and write the report."""
    from odegrad.records.shard import Shard
    from odegrad.running.runner import SweepSettings, fitting_workers, run_suite
    from odegrad.suites.suite import key_values, load_suite

    with redirect_stdout(sys.stderr):  # a user's own file may print
        loaded = load_suite(suite, with_size(overrides, size), timeout)
    folder = results or Path("results") / loaded.name
    at_a_time = workers or fitting_workers(loaded, threads)
    settings = SweepSettings(
        device_name(device), rerun_failed, threads, timeout, _bytes(memory), retries, at_a_time, not shared_clock,
        Shard.parse(shard), _progress(progress),
    )  # fmt: skip
    connect = None
    if executor is ExecutorName.DASK:
        connect = _dask(address, cluster, key_values(cluster_options or (), "--cluster-option"), settings)
    elif address is not None or cluster_options:
        raise UsageError("--address, --cluster-option: expected --executor dask beside them; add it")
    outcome = run_suite(loaded, folder, ERRORS, settings, connect)
    _check_measured(outcome, folder)
    write_report(folder)
    _check_failed(outcome)


def paper(
    name: Annotated[PaperName, typer.Argument(metavar="PAPER", help="irdm, snopt, stiff-gradients or precision.")],
    size: Annotated[Size, typer.Option(help="Of every task.")] = Size.TINY,
    results: Annotated[Path | None, typer.Option(help="Results folder; default results/paper-NAME-SIZE.")] = None,
    workers: Annotated[int | None, typer.Option(min=1, max=4096, help="Runs at a time; default the suite's.")] = None,
    device: DeviceOption = Device.AUTO,
    progress: ProgressOption = ProgressMode.AUTO,
) -> None:
    """Measure what is missing of a PAPER's experiments, write the report, and say which of its claims hold."""
    from odegrad.reports.papers.table import text_rows
    from odegrad.running.runner import SweepSettings, fitting_workers, run_suite
    from odegrad.suites.papers import load_paper

    loaded = load_paper(str(name), str(size))
    folder = results or Path("results") / loaded.folder
    outcomes = []
    for suite in loaded.suites:
        settings = SweepSettings(
            device_name(device), workers=workers or fitting_workers(suite, 1), progress=_progress(progress)
        )
        outcomes.append(run_suite(suite, loaded.folder_of(suite, folder), ERRORS, settings))
        _check_measured(outcomes[-1], folder)
    sources = loaded.load(folder)
    verdicts = loaded.decide(sources)
    write_report(folder, verdicts=verdicts, exhibits=loaded.exhibits, sources=sources)
    print_rows(text_rows(verdicts), False, f"claims of {name}, tasks at size {size}")
    for verdict in verdicts:
        typer.echo(f"{verdict.claim.identifier}: {verdict.wording}. {verdict.claim.sentence}")
    _check_failed(functools.reduce(operator.add, outcomes))


def plan(
    suite: SuiteArgument,
    device: DeviceOption = Device.AUTO,
    predict: Annotated[bool, typer.Option(help="Look at each problem once to say what its runs will cost.")] = True,
    size: TaskSizeOption = None,
    overrides: SetOption = None,
    timeout: TimeoutOption = None,
    as_json: JsonOption = False,
) -> None:
    """Print the grid of SUITE with each run's predicted time and memory, and what will be refused and why.

    --json prints every run in the order of execution.
    """
    from odegrad.running.planning import forecast, plan_rows
    from odegrad.suites.suite import cell_of, load_suite

    with redirect_stdout(sys.stderr):
        loaded = load_suite(suite, with_size(overrides, size), timeout)
        where = device_name(device)
        trials, counting = loaded.trials(where), loaded.runs(where)
        expected = forecast(counting, loaded.folder, timeout) if predict else {}
    title = f"{len(trials)} trials and {len(counting)} runs" if trials else f"{len(counting)} runs"
    if not as_json:
        print_rows(plan_rows([*trials, *counting], expected), False, title)
        return
    open_yet = dict.fromkeys(("run_id", "gradient_options", "optimizer_options")) if trials else {}
    rows: list[dict[str, object]] = [{"run_id": run.run_id, **run.to_dict()} for run in trials]
    for run in counting:  # of a suite that tunes, the trials choose what is left open
        said = {f"predicted_{k}": v for k, v in asdict(expected[cell_of(run)]).items()} if predict else {}
        rows.append({"run_id": run.run_id, **run.to_dict(), **open_yet, **said})
    print_rows(rows, True, title)


def _progress(mode: ProgressMode) -> ProgressMode:
    """Return ``mode``; a table is refused where there is no terminal to draw it on."""
    if mode is ProgressMode.TABLE and not ERRORS.is_terminal:
        raise UsageError(
            "--progress table: expected a terminal on standard error, got a file or a pipe; use --progress plain"
        )
    return mode


def _check_measured(outcome: "SweepOutcome", folder: Path) -> None:
    """End the command if the sweep was interrupted or the machine failed."""
    if outcome.interrupted:
        _log.warning(
            "interrupted: %d of %d runs are finished and in %s; the same command again runs the others",
            outcome.finished, outcome.total, folder,
        )  # fmt: skip
        raise typer.Exit(ExitCode.INTERRUPTED)
    if outcome.infrastructure * 2 > outcome.measured:
        _log.error("%d of %d runs failed because of this machine", outcome.infrastructure, outcome.measured)
        raise typer.Exit(ExitCode.TRY_AGAIN)


def _check_failed(outcome: "SweepOutcome") -> None:
    """End the command with a code of its own if some runs are missing or failed."""
    missing = outcome.total - outcome.finished
    if missing:
        _log.error(
            "%d of %d runs are missing, because the machine failed; the same command again measures them",
            missing, outcome.total,
        )  # fmt: skip
        raise typer.Exit(ExitCode.TRY_AGAIN)
    if outcome.failed:
        _log.warning(
            "%d of %d runs failed; their rows say why, --rerun-failed measures them again",
            outcome.failed,
            outcome.total,
        )
        raise typer.Exit(ExitCode.FAILED_RUNS)


def _dask(
    address: str | None, cluster: ClusterName, options: dict[str, object], settings: "SweepSettings"
) -> "Connect":
    try:
        from odegrad.running import cluster as dask
    except ImportError as error:
        raise UsageError(
            f"--executor dask: expected the packages of odegrad[cluster] ({error}); pip install 'odegrad[cluster]'"
        ) from error
    if address is not None:
        return functools.partial(dask.at_address, address)
    if cluster is ClusterName.SLURM:
        return functools.partial(dask.on_slurm, settings.workers, settings.device, options)
    return functools.partial(dask.on_this_machine, settings.workers, settings.device)


def _bytes(text: str | None) -> int | None:
    from pydantic import ByteSize, TypeAdapter, ValidationError

    if text is None:
        return None
    try:
        return int(TypeAdapter(ByteSize).validate_python(text))
    except ValidationError as error:
        raise UsageError(f"--memory {text}: expected a number of bytes such as 4GB or 500MiB") from error
