"""The commands that look at one model: ``advise``, ``compare`` and ``diagnose``."""

# ruff: noqa: PLC0415
# Commands import what they need, so that --help is quick and reading results needs no torch.

import json
import logging
import sys
import textwrap
import time
from collections.abc import Sequence
from contextlib import redirect_stdout
from typing import Annotated

import typer

from odegrad.commands.options import FigureOption, JsonOption, TimeoutOption, check_figure
from odegrad.commands.printing import print_rows
from odegrad.errors import UsageError
from odegrad.exits import UNFINISHED, ExitCode

_log = logging.getLogger("odegrad")

LINE_WIDTH = 120
"""Characters of a line of prose on a terminal."""

ModelArgument = Annotated[
    str, typer.Argument(metavar="MODEL", help="file.py:function that returns (func, y0, t) or (func, y0, t, loss).")
]
RtolOption = Annotated[float, typer.Option(help="Relative tolerance.")]
AtolOption = Annotated[float, typer.Option(help="Absolute tolerance.")]
RoundsOption = Annotated[
    int, typer.Option(min=1, max=1_000_000, help="Timed rounds of the fastest methods, at the least.")
]
BudgetOption = Annotated[
    float,
    typer.Option(min=0, metavar="SECONDS", help="End about then with what is known; 0 for as long as it takes."),
]
BUDGET = 120.0
"""Seconds that an answer may take by default."""


class _Progress:
    """Tells each stage on standard error as it comes, with the seconds since the command began."""

    def __init__(self, what: str, budget: float) -> None:
        self._started = time.perf_counter()
        self(f"reading {what}" + (f", for at most about {budget:g} s (--budget)" if budget else ""))

    def __call__(self, line: str) -> None:
        _log.info("%4.0f s  %s", time.perf_counter() - self._started, line)


def _echo(lines: Sequence[str]) -> None:
    """Print sentences as lines of prose."""
    for line in lines:
        typer.echo(textwrap.fill(line, LINE_WIDTH, break_long_words=False, break_on_hyphens=False))


def _end_failed(verdicts: Sequence[str]) -> None:
    """End the command with a code of its own if a method failed."""
    failed = [verdict for verdict in verdicts if verdict.startswith("failed")]
    if failed:
        _log.warning("%d of %d methods failed; their verdicts say why", len(failed), len(verdicts))
        raise typer.Exit(ExitCode.FAILED_RUNS)


def _end_undecided(notes: Sequence[str], verdicts: Sequence[str]) -> None:
    """End the command with a code of its own if a verdict could not be given, or there was no time for one."""
    from odegrad.reference.accuracy import UNDECIDED

    if any(UNFINISHED in note for note in notes) or any(verdict.startswith(UNDECIDED) for verdict in verdicts):
        raise typer.Exit(ExitCode.UNDECIDED)


def advise(
    model: ModelArgument,
    rtol: RtolOption = 1e-5,
    atol: AtolOption = 1e-6,
    rounds: RoundsOption = 7,
    budget: BudgetOption = BUDGET,
    figure: FigureOption = None,
    timeout: TimeoutOption = None,
    as_json: JsonOption = False,
) -> None:
    """Say in a few lines which gradient method to take for a MODEL of your own, and what its dynamics are like."""
    check_figure(figure)
    tell = _Progress(model, budget)
    from odegrad.advice.advised import advise_users

    settings = {"rtol": rtol, "atol": atol, "rounds": rounds, "budget": budget or None}
    found = advise_users(model, settings, figure, timeout, tell)
    if as_json:
        said = {"advice": found.table.advice, "dynamics": found.dynamics, "notes": found.notes}
        typer.echo(json.dumps(said | {"methods": found.shown()}, indent=2))
    else:
        print_rows(found.shown(), False, f"what nothing beats in time and memory on {model}, dopri5 at rtol {rtol:g}")
        _echo(found.sentences())
    if figure is not None:
        _log.info("wrote %s", figure)
    _end_failed(found.table["verdict"])
    _end_undecided(found.notes, found.table["verdict"])


def compare(
    model: ModelArgument,
    gradients: Annotated[
        str | None,
        typer.Option(
            help="Gradient methods, separated by commas; default all whose cost does not grow with the parameters."
        ),
    ] = None,
    solver: Annotated[str, typer.Option(help="One of odegrad list solvers.")] = "dopri5",
    rtol: RtolOption = 1e-5,
    atol: AtolOption = 1e-6,
    batch: Annotated[
        str, typer.Option(help="joint: samples share their steps; per_sample: each has its own.")
    ] = "joint",
    precision: Annotated[
        str, typer.Option(help="bfloat16 or float16: the field alone computes in it; default the model's own type.")
    ] = "",
    rounds: RoundsOption = 7,
    budget: BudgetOption = BUDGET,
    figure: FigureOption = None,
    timeout: TimeoutOption = None,
    as_json: JsonOption = False,
) -> None:
    """Compare gradient methods on a MODEL of your own and say which one to take."""
    check_figure(figure)
    tell = _Progress(model, budget)
    from odegrad.advice.of_users import compare_users, write_plain

    chosen = None if gradients is None else [name.strip() for name in gradients.split(",")]
    usual = {"batch": "joint", "precision": ""}
    options = {k: v for k, v in {"batch": batch, "precision": precision}.items() if v != usual[k]}
    settings = {"method": solver, "rtol": rtol, "atol": atol, "rounds": rounds, "gradients": chosen, "options": options}
    table = compare_users(model, settings | {"budget": budget or None}, timeout, tell)
    if as_json:
        rows = json.loads(table.to_json(orient="records", double_precision=15))
        typer.echo(json.dumps({"advice": table.advice, "notes": table.notes, "methods": rows}, indent=2))
    else:
        print_rows(table.printed(), False, f"gradient methods on {model}, {solver} at rtol {rtol:g}, atol {atol:g}")
        _echo([*table.reasons(), *table.notes, table.advice])
    if figure is not None:
        write_plain(table.plot(), figure)
        _log.info("wrote %s", figure)
    _end_failed(table["verdict"])
    _end_undecided(table.notes, table["verdict"])


def diagnose(
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME]", help="A task, or file.py:Task, or file.py:function as in compare.")
    ] = None,
    law: Annotated[bool, typer.Option("--law", help="Show the log-norm law on contracting problems.")] = False,
    size: Annotated[str, typer.Option(help="A task's size.")] = "tiny",
    seed: Annotated[int, typer.Option(min=0, max=2**63 - 1, help="A task's seed.")] = 0,
    train: Annotated[int, typer.Option(min=0, max=10**9, help="Train a task for so many iterations first.")] = 0,
    gradients: Annotated[str | None, typer.Option(help="Gradient methods, separated by commas.")] = None,
    rtol: RtolOption = 1e-5,
    atol: AtolOption = 1e-6,
    error: Annotated[float, typer.Option(help="Largest relative gradient error that counts as safe.")] = 1e-2,
    budget: BudgetOption = BUDGET,
    figure: FigureOption = None,
    timeout: TimeoutOption = None,
    as_json: JsonOption = False,
) -> None:
    """Say why gradient methods fail on a task or a model: logarithmic norms, predicted errors, a verdict."""
    if (name is None) != law:
        raise UsageError("NAME, --law: expected one of them; odegrad diagnose circles, or odegrad diagnose --law")
    check_figure(figure)
    tell = _Progress(name or "the law", budget if name else 0.0)
    from odegrad.advice.examine import law as law_of
    from odegrad.advice.examine import write_figure
    from odegrad.advice.of_users import examined
    from odegrad.reports.figures.log_norm import draw_law

    chosen = None if gradients is None else [each.strip() for each in gradients.split(",")]
    if name is None:
        table = law_of(*([] if chosen is None else [tuple(chosen)]))
        rows = json.loads(table.to_json(orient="records", double_precision=15))
        print_rows(rows, as_json, "gradient errors on y' = A y with eigenvalues -1 and -mu_2(-A), T = 1, rtol 1e-6")
        if figure is not None:
            write_figure(draw_law(table), figure)
        return
    settings = {
        "size": size, "seed": seed, "train": train, "rtol": rtol, "atol": atol, "wanted": error, "methods": chosen,
        "budget": budget or None,
    }  # fmt: skip
    with redirect_stdout(sys.stderr):
        found = examined(name, settings, None if figure is None else str(figure.absolute()), timeout, tell)
    if as_json:
        typer.echo(json.dumps(found["plain"], indent=2))
    else:
        for title, rows in found["tables"]:
            print_rows(rows, False, title)
        for line in found["sentences"]:
            typer.echo(line)
    if figure is not None:
        _log.info("wrote %s", figure)
    _end_undecided(found["plain"]["notes"], [row["verdict"] for row in found["plain"]["methods"]])
