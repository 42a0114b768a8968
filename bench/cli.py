"""The command line: ``odegrad COMMAND``; ``odegrad --help`` names the commands.

Results go to standard output, progress and messages to standard error. Exit codes: 0 fine, 1 a check failed, 2 wrong
usage, 3 some runs failed, 75 the machine failed (try again), 130 interrupted.
"""

# ruff: noqa: PLC0415
# Commands import what they need, so that --help is quick and reading results needs no torch.

import json
import logging
import signal
import sys
from contextlib import redirect_stdout
from dataclasses import asdict
from enum import StrEnum
from functools import partial
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.logging import RichHandler

from odegrad.errors import InfrastructureError, OdegradError, UsageError
from odegrad.gate_cli import gate
from odegrad.printing import output, print_rows

if TYPE_CHECKING:
    from collections.abc import Sequence

    from odegrad.reports.papers.verdict import Verdict
    from odegrad.runner import Connect, Outcome, Settings

FAILED_CHECK, USAGE, FAILED_RUNS, TRY_AGAIN, INTERRUPTED = 1, 2, 3, 75, 130
FIGURE_KINDS = (".png", ".svg", ".pdf")

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)
_log = logging.getLogger("odegrad")
_errors = Console(stderr=True)


class Kind(StrEnum):
    """What ``odegrad list`` lists."""

    METHODS = "methods"
    OPTIMIZERS = "optimizers"
    SOLVERS = "solvers"
    TASKS = "tasks"
    SUITES = "suites"


class ExecutorName(StrEnum):
    """Where runs are measured."""

    LOCAL = "local"
    DASK = "dask"


class PaperName(StrEnum):
    """A paper whose experiments are made again."""

    IRDM = "irdm"
    SNOPT = "snopt"


class Size(StrEnum):
    """How large a paper's tasks are."""

    TINY = "tiny"
    DEFAULT = "default"
    PAPER = "paper"


class ClusterName(StrEnum):
    """What Dask runs on, if it does not run yet."""

    LOCAL = "local"
    SLURM = "slurm"


class Device(StrEnum):
    """Where runs compute."""

    AUTO = "auto"
    CPU = "cpu"
    CUDA = "cuda"


SuiteArgument = Annotated[
    str, typer.Argument(metavar="SUITE", help="A suite that comes with odegrad, or a path to a .toml file.")
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override the suite: seeds, iterations, rtol, ..."),
]
DeviceOption = Annotated[Device, typer.Option(help="auto: a CUDA device if there is one.")]
AcrossOption = Annotated[
    bool, typer.Option("--across-machines", help="Keep times of unlike machines; they do not compare.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.callback(
    epilog="\n\n".join(
        (
            "Examples:",
            "odegrad run quick",
            "odegrad run my_suite.toml --results out --set 'seeds=[0, 1]'",
            "odegrad report results/quick",
            "odegrad paper irdm",
            "odegrad list methods",
            "odegrad check my_method.py:MyMethod",
            "odegrad compare my_model.py:build",
            "odegrad diagnose my_model.py:build",
            "odegrad doctor",
            "odegrad gate gate --baseline gate.json",
        )
    )
)
def configure(verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log more.")] = False) -> None:
    """Compare the ways to train Neural ODEs: exactness, function evaluations, memory, time, accuracy."""
    live = _errors.is_terminal
    _log.handlers = [RichHandler(console=_errors, show_path=False) if live else logging.StreamHandler(sys.stderr)]
    _log.setLevel(logging.DEBUG if verbose else logging.INFO)


@app.command(epilog="Example: odegrad run quick --results results/quick; the same command again continues.")
def run(
    suite: SuiteArgument,
    results: Annotated[Path | None, typer.Option(help="Results folder; default results/NAME.")] = None,
    device: DeviceOption = Device.AUTO,
    rerun_failed: Annotated[bool, typer.Option("--rerun-failed", help="Measure failed runs again.")] = False,
    threads: Annotated[int, typer.Option(min=1, help="Threads of one tensor operation.")] = 1,
    timeout: Annotated[float | None, typer.Option(min=0, help="Seconds that one run may take.")] = None,
    memory: Annotated[
        str | None, typer.Option(metavar="SIZE", help="What one run may allocate on the CPU: 4GB, 500MiB, ...")
    ] = None,
    retries: Annotated[int, typer.Option(min=0, help="More tries of what failed because of the machine.")] = 1,
    workers: Annotated[
        int | None,
        typer.Option(min=1, help="Runs at a time, each on cores or a GPU of its own; default 1, or the suite's."),
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
    overrides: SetOption = None,
) -> None:
    """Measure every run of SUITE that is not yet in the results folder, then print the table and write the report."""
    from odegrad.runner import Settings, fitting_workers, run_suite
    from odegrad.shard import Shard
    from odegrad.suite import key_values, load_suite

    signal.signal(signal.SIGTERM, _interrupt)
    with redirect_stdout(sys.stderr):  # a user's own file may print
        loaded = load_suite(suite, overrides or ())
    folder = results or Path("results") / loaded.name
    at_a_time = workers or fitting_workers(loaded, threads)
    settings = Settings(
        _device(device), rerun_failed, threads, timeout, _bytes(memory), retries, at_a_time, not shared_clock,
        Shard.parse(shard),
    )  # fmt: skip
    connect = None
    if executor is ExecutorName.DASK:
        connect = _dask(address, cluster, key_values(cluster_options or (), "--cluster-option"), settings)
    elif address is not None or cluster_options:
        raise UsageError("--address, --cluster-option: expected --executor dask beside them; add it")
    outcome = run_suite(loaded, folder, _errors, settings, connect)
    _check_measured(outcome, folder)
    _report(folder)
    _check_failed(outcome)


@app.command(epilog="Example: odegrad paper irdm --size tiny; the same command again continues.")
def paper(
    name: Annotated[PaperName, typer.Argument(metavar="PAPER", help="irdm or snopt.")],
    size: Annotated[Size, typer.Option(help="Of every task.")] = Size.TINY,
    results: Annotated[Path | None, typer.Option(help="Results folder; default results/paper-NAME-SIZE.")] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Runs at a time; default the suite's.")] = None,
    device: DeviceOption = Device.AUTO,
) -> None:
    """Measure what is missing of a PAPER's experiments, write the report, and say which of its claims hold."""
    from odegrad.papers import load_paper
    from odegrad.reports.papers.table import text_rows
    from odegrad.runner import Settings, fitting_workers, run_suite

    signal.signal(signal.SIGTERM, _interrupt)
    loaded = load_paper(str(name), str(size))
    folder = results or Path("results") / loaded.folder
    settings = Settings(_device(device), workers=workers or fitting_workers(loaded.suite, 1))
    outcome = run_suite(loaded.suite, folder, _errors, settings)
    _check_measured(outcome, folder)
    verdicts = loaded.decide(folder)
    _report(folder, verdicts=verdicts)
    print_rows(text_rows(verdicts), False, f"claims of {name}, tasks at size {size}")
    for verdict in verdicts:
        typer.echo(f"{verdict.claim.identifier}: {verdict.overall.answer}. {verdict.claim.sentence}")
    _check_failed(outcome)


def _check_measured(outcome: "Outcome", folder: Path) -> None:
    """End the command if the sweep was interrupted or the machine failed."""
    if outcome.interrupted:
        _log.warning(
            "interrupted: %d of %d runs are finished and in %s; the same command again runs the others",
            outcome.finished, outcome.total, folder,
        )  # fmt: skip
        raise typer.Exit(INTERRUPTED)
    if outcome.infrastructure * 2 > outcome.measured:
        _log.error("%d of %d runs failed because of this machine", outcome.infrastructure, outcome.measured)
        raise typer.Exit(TRY_AGAIN)


def _check_failed(outcome: "Outcome") -> None:
    """End the command with a code of its own if some runs failed."""
    if outcome.failed:
        _log.warning(
            "%d of %d runs failed; their rows say why, --rerun-failed measures them again",
            outcome.failed,
            outcome.total,
        )
        raise typer.Exit(FAILED_RUNS)


@app.command(epilog="Example: odegrad plan quick --set 'tolerances=[1e-3, 1e-6]'")
def plan(
    suite: SuiteArgument,
    device: DeviceOption = Device.AUTO,
    predict: Annotated[bool, typer.Option(help="Look at each problem once to say what its runs will cost.")] = True,
    overrides: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """Print the grid of SUITE with each run's predicted time and memory, and what will be refused and why.

    --json prints every run in the order of execution.
    """
    from odegrad.planning import forecast, plan_rows
    from odegrad.suite import cell_of, load_suite

    with redirect_stdout(sys.stderr):
        loaded = load_suite(suite, overrides or ())
        where = _device(device)
        trials, counting = loaded.trials(where), loaded.runs(where)
        expected = forecast(counting, loaded.folder) if predict else {}
    title = f"{len(trials)} trials and {len(counting)} runs" if trials else f"{len(counting)} runs"
    if not as_json:
        print_rows(plan_rows([*trials, *counting], expected), False, title)
        return
    open_yet = dict.fromkeys(("run_id", "gradient_options", "optimizer_options")) if trials else {}
    rows: list[dict[str, Any]] = [{"run_id": run.run_id, **run.to_dict()} for run in trials]
    for run in counting:  # of a suite that tunes, the trials choose what is left open
        said = {f"predicted_{k}": v for k, v in asdict(expected[cell_of(run)]).items()} if predict else {}
        rows.append({"run_id": run.run_id, **run.to_dict(), **open_yet, **said})
    print_rows(rows, True, title)


@app.command()
def report(
    results: Annotated[list[Path], typer.Argument(metavar="RESULTS...", help="One or several results folders.")],
    out: Annotated[Path | None, typer.Option(help="Where to write; default beside the records of the first.")] = None,
    across_machines: AcrossOption = False,
) -> None:
    """Print the table of RESULTS and write its figures and page."""
    _check_folders(results)
    _report(*results, out=out, across_machines=across_machines)


@app.command("compare-results", epilog="Example: odegrad compare-results results/before results/after")
def compare_results(
    before: Annotated[Path, typer.Argument(metavar="A", help="A results folder.")],
    after: Annotated[Path, typer.Argument(metavar="B", help="Another one, with the same runs measured again.")],
    out: Annotated[Path | None, typer.Option(help="Where to write table and page; default B/changes.")] = None,
    across_machines: AcrossOption = False,
    as_json: JsonOption = False,
) -> None:
    """Say what changed from A to B, run by run of the same content, with intervals; write it as table and page."""
    from odegrad.reports.changes import changes
    from odegrad.reports.frame import load
    from odegrad.reports.page.comparison import rows, write

    _check_folders([before, after])
    old, new = (load(folder, across_machines=across_machines) for folder in (before, after))
    found = changes(old, new, across_machines)
    if as_json:
        table = json.loads(found.table.to_json(orient="records", double_precision=15))
        typer.echo(json.dumps({"said": found.sentences(), "changes": table}, indent=2))
    else:
        print_rows(rows(found.table), False, "what changed; change is after / before, of the metric after - before")
        for line in found.sentences():
            typer.echo(line)
    written = write(found, str(before), str(after), out or after / "changes")
    _log.info("wrote %s", written[-1])


@app.command("list")
def list_names(
    kind: Annotated[
        Kind | None,
        typer.Argument(metavar="[KIND]", help="methods, optimizers, solvers, tasks or suites; everything if left out."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """List methods, optimizers, solvers, tasks and suites."""
    from odegrad.listing import LEGENDS, LISTINGS, SHOWN

    kinds = list(Kind) if kind is None else [kind]
    rows = {str(k): LISTINGS[str(k)]() for k in kinds}
    if as_json:
        typer.echo(json.dumps(rows if kind is None else rows[str(kind)], indent=2))
        return
    for name, each in rows.items():
        print_rows([{column: row[column] for column in SHOWN[name]} for row in each], False, name)
        if name in LEGENDS:
            typer.echo(LEGENDS[name])


@app.command(
    epilog="Examples: odegrad check adjoint | odegrad check my_method.py:MyMethod | odegrad check my_task.py:MyTask | "
    "odegrad check --all"
)
def check(
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME]", help="A gradient method or a task, or file.py:Class of either.")
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="Check every method on the shared loop.")] = False,
    solver: Annotated[str | None, typer.Option(help="An adaptive solver; default dopri5, or alf for mali.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Check that NAME keeps the contract of a gradient method or a task; print each figure with its threshold."""
    from odegrad.check import check as check_one
    from odegrad.check import shared_loop_methods

    if (name is None) != every:
        raise UsageError("NAME, --all: expected one of them; odegrad check adjoint, or odegrad check --all")
    rows: list[dict[str, Any]] = []
    failed = 0
    for each in shared_loop_methods() if name is None else [name]:
        with redirect_stdout(sys.stderr):
            results = list(check_one(each, solver))
        mine = [{"name": each, **asdict(r)} for r in results]
        failed += sum(not r.passed for r in results)
        rows += mine
        if not as_json:
            passed = sum(r.passed for r in results)
            shown = [{k: v for k, v in row.items() if k != "name"} for row in mine]
            print_rows(shown, False, f"{each}: {passed} of {len(results)} checks passed")
    if as_json:
        print_rows(rows, True, "")
    elif every:
        typer.echo(f"{len(rows) - failed} of {len(rows)} checks passed")
    if failed:
        raise typer.Exit(FAILED_CHECK)


@app.command(
    epilog="Example: odegrad compare my_model.py:build --gradients naive,adjoint,interpolation --figure out.png"
)
def compare(
    model: Annotated[
        str,
        typer.Argument(metavar="MODEL", help="file.py:function that returns (func, y0, t) or (func, y0, t, loss)."),
    ],
    gradients: Annotated[
        str | None, typer.Option(help="Gradient methods, separated by commas; default all but forward_sensitivity.")
    ] = None,
    solver: Annotated[str, typer.Option(help="One of odegrad list solvers.")] = "dopri5",
    rtol: Annotated[float, typer.Option(help="Relative tolerance.")] = 1e-5,
    atol: Annotated[float, typer.Option(help="Absolute tolerance.")] = 1e-6,
    rounds: Annotated[int, typer.Option(min=1, help="Timed rounds of every method.")] = 5,
    figure: Annotated[Path | None, typer.Option(help="Write the figure: .png, .svg or .pdf.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Compare gradient methods on a MODEL of your own and say which one to take."""
    from odegrad.comparison import compare_gradients
    from odegrad.models import load_model

    _check_figure(figure)
    with redirect_stdout(sys.stderr):
        built = load_model(model)
        table = compare_gradients(
            built.field, built.y0, built.ts, loss=built.loss, method=solver, rtol=rtol, atol=atol, rounds=rounds,
            gradients=None if gradients is None else [name.strip() for name in gradients.split(",")],
        )  # fmt: skip
    if as_json:
        rows = json.loads(table.to_json(orient="records", double_precision=15))
        typer.echo(json.dumps({"advice": table.advice, "methods": rows}, indent=2))
    else:
        print_rows(table.printed(), False, f"gradient methods on {model}, {solver} at rtol {rtol:g}, atol {atol:g}")
        for line in [*table.reasons(), table.advice]:
            typer.echo(line)
    if figure is not None:
        table.plot().savefig(figure)
        _log.info("wrote %s", figure)


@app.command(
    epilog="Examples: odegrad diagnose circles --train 80 | odegrad diagnose my_model.py:build --figure out.png | "
    "odegrad diagnose --law --figure law.png"
)
def diagnose(
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME]", help="A task, or file.py:Task, or file.py:function as in compare.")
    ] = None,
    law: Annotated[bool, typer.Option("--law", help="Show the log-norm law on contracting problems.")] = False,
    size: Annotated[str, typer.Option(help="A task's size.")] = "tiny",
    seed: Annotated[int, typer.Option(min=0, help="A task's seed.")] = 0,
    train: Annotated[int, typer.Option(min=0, help="Train a task for so many iterations first.")] = 0,
    gradients: Annotated[str | None, typer.Option(help="Gradient methods, separated by commas.")] = None,
    rtol: Annotated[float, typer.Option(help="Relative tolerance.")] = 1e-5,
    atol: Annotated[float, typer.Option(help="Absolute tolerance.")] = 1e-6,
    error: Annotated[float, typer.Option(help="Largest relative gradient error that counts as safe.")] = 1e-2,
    figure: Annotated[Path | None, typer.Option(help="Write the figure: .png, .svg or .pdf.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Say why gradient methods fail on a task or a model: logarithmic norms, predicted errors, a verdict."""
    from odegrad.examine import examine, write_figure
    from odegrad.examine import law as law_of
    from odegrad.reports.figures.log_norm import draw_law

    if (name is None) != law:
        raise UsageError("NAME, --law: expected one of them; odegrad diagnose circles, or odegrad diagnose --law")
    _check_figure(figure)
    chosen = None if gradients is None else [each.strip() for each in gradients.split(",")]
    if name is None:
        table = law_of(*([] if chosen is None else [tuple(chosen)]))
        rows = json.loads(table.to_json(orient="records", double_precision=15))
        print_rows(rows, as_json, "gradient errors on y' = A y with eigenvalues -1 and -mu_2(-A), T = 1, rtol 1e-6")
        if figure is not None:
            write_figure(draw_law(table), figure)
        return
    with redirect_stdout(sys.stderr):
        found = examine(
            name, size=size, seed=seed, train=train, rtol=rtol, atol=atol, wanted=error, methods=chosen
        )  # fmt: skip
    if as_json:
        typer.echo(json.dumps(found.to_dict(), indent=2))
    else:
        for title, rows in found.tables():
            print_rows(rows, False, title)
        for line in found.sentences():
            typer.echo(line)
    if figure is not None:
        write_figure(found.figure(), figure)
        _log.info("wrote %s", figure)


@app.command(epilog="Example: odegrad doctor --pairs 100")
def doctor(
    pairs: Annotated[int, typer.Option(min=5, help="Timed pairs of a fixed kernel and itself.")] = 30,
    as_json: JsonOption = False,
) -> None:
    """Say what on this machine makes timings untrustworthy, and which slow-downs could be trusted right now."""
    from odegrad.doctor import examine_machine

    found = examine_machine(pairs)
    if as_json:
        typer.echo(json.dumps(found.to_dict(), indent=2))
    else:
        print_rows(found.rows(), False, "what makes timings untrustworthy here")


app.command(
    epilog="Examples: odegrad gate gate --baseline gate.json --update --reason 'first baseline' | "
    "odegrad gate gate --baseline gate.json --junit gate.xml"
)(gate)


def _check_figure(figure: Path | None) -> None:
    if figure is not None and not figure.parent.is_dir():
        raise UsageError(f"--figure {figure}: there is no folder {figure.parent}; make it, or give another one")
    if figure is not None and figure.suffix not in FIGURE_KINDS:
        raise UsageError(f"--figure {figure}: expected a name that ends in one of {', '.join(FIGURE_KINDS)}")


def _device(device: Device) -> str:
    import torch

    there = torch.cuda.is_available()
    if device is Device.CUDA and not there:
        raise UsageError("--device cuda: expected a CUDA device that torch can use, got none; use --device cpu")
    return str(Device.CUDA if there else Device.CPU) if device is Device.AUTO else str(device)


def _dask(address: str | None, cluster: ClusterName, options: dict[str, Any], settings: "Settings") -> "Connect":
    try:
        from odegrad.executors import cluster as dask
    except ImportError as error:
        raise UsageError(
            f"--executor dask: expected the packages of odegrad[cluster] ({error}); pip install 'odegrad[cluster]'"
        ) from error
    if address is not None:
        return partial(dask.at_address, address)
    if cluster is ClusterName.SLURM:
        return partial(dask.on_slurm, settings.workers, settings.device, options)
    return partial(dask.on_this_machine, settings.workers, settings.device)


def _bytes(text: str | None) -> int | None:
    from pydantic import ByteSize, TypeAdapter, ValidationError

    if text is None:
        return None
    try:
        return int(TypeAdapter(ByteSize).validate_python(text))
    except ValidationError as error:
        raise UsageError(f"--memory {text}: expected a number of bytes such as 4GB or 500MiB") from error


def _interrupt(_number: int, _frame: FrameType | None) -> NoReturn:
    """Treat a polite end (a cluster's preemption) like Ctrl-C."""
    raise KeyboardInterrupt


def _check_folders(folders: list[Path]) -> None:
    for folder in folders:
        if not folder.is_dir():
            raise UsageError(f"results folder {folder}: there is no such folder; give one that `odegrad run` wrote")


def _report(
    *folders: Path, out: Path | None = None, across_machines: bool = False, verdicts: "Sequence[Verdict]" = ()
) -> None:
    from odegrad.reports.build import build_report
    from odegrad.reports.frame import load
    from odegrad.reports.tables import print_table

    written = build_report(*folders, out=out, across_machines=across_machines, verdicts=verdicts)
    print_table(load(*folders, across_machines=across_machines), output())
    _log.info("wrote %s and %d other files into %s", written[-1], len(written) - 1, written[-1].parent)


def main() -> None:
    """Run the command line; an error that odegrad raises on purpose is one message and an exit code."""
    try:
        app()
    except OdegradError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(USAGE if isinstance(error, UsageError) else TRY_AGAIN if isinstance(error, InfrastructureError) else 1)


if __name__ == "__main__":
    main()
