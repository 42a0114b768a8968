"""The commands about what there is: ``list`` and ``check``."""

# ruff: noqa: PLC0415
# Commands import what they need, so that --help is quick and reading results needs no torch.

import json
import logging
import sys
from contextlib import redirect_stdout
from dataclasses import asdict
from typing import Annotated

import typer

from odegrad.commands.options import JsonOption, TimeoutOption
from odegrad.commands.printing import print_rows
from odegrad.errors import UnknownNameError, UsageError
from odegrad.exits import ExitCode

_log = logging.getLogger("odegrad")


def list_names(
    kind: Annotated[
        str | None,
        typer.Argument(metavar="[KIND]", help="methods, optimizers, regularisers, solvers, tasks or suites."),
    ] = None,
    details: Annotated[
        bool, typer.Option("--details", help="Costs, memory, options, sizes, targets; takes seconds, tasks are built.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """List methods, optimizers, regularisers, solvers, tasks and suites."""
    from odegrad.commands.listing import LEGENDS, LISTINGS

    if kind is not None and kind not in LISTINGS:
        raise UnknownNameError("kind", kind, LISTINGS)
    kinds = list(LISTINGS) if kind is None else [kind]
    if details or as_json:
        _print_details(kinds, as_json, kind is None)
        return
    for name in kinds:
        print_rows(LISTINGS[name](), False, name, wrap=True)
        if name in LEGENDS:
            typer.echo(LEGENDS[name])


def _print_details(kinds: list[str], as_json: bool, keyed: bool) -> None:
    """Print what each thing states about itself; as JSON ``keyed`` by kind."""
    from odegrad.commands.details import DETAILED_LEGENDS, DETAILED_LISTINGS, SHOWN, UNLOADABLE

    with redirect_stdout(sys.stderr):
        rows = {kind: DETAILED_LISTINGS[kind]() for kind in kinds}
    if as_json:
        typer.echo(json.dumps(rows if keyed else rows[kinds[0]], indent=2))
    else:
        for name, each in rows.items():
            print_rows([{column: row[column] for column in SHOWN[name]} for row in each], False, name, wrap=True)
            if name in DETAILED_LEGENDS:
                typer.echo(DETAILED_LEGENDS[name])
    broken = [row for each in rows.values() for row in each if str(row.get("summary")).startswith(UNLOADABLE)]
    for row in broken:
        _log.error("%s: %s", row["name"], row["summary"])
    if broken:
        raise typer.Exit(ExitCode.FAILED_CHECK)


def check(
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME]", help="A gradient method or a task, or file.py:Class of either.")
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="Check every method on the shared loop.")] = False,
    solver: Annotated[str | None, typer.Option(help="An adaptive solver; default dopri5, or alf for mali.")] = None,
    timeout: TimeoutOption = None,
    as_json: JsonOption = False,
) -> None:
    """Check that NAME keeps the contract of a gradient method or a task; print each figure with its threshold."""
    from odegrad.checks.conformance import check_guarded, shared_loop_methods

    if (name is None) != every:
        raise UsageError("NAME, --all: expected one of them; odegrad check adjoint, or odegrad check --all")
    rows: list[dict[str, object]] = []
    failed = 0
    for each in shared_loop_methods() if name is None else [name]:
        with redirect_stdout(sys.stderr):
            results = check_guarded(each, solver, timeout)
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
        raise typer.Exit(ExitCode.FAILED_CHECK)
