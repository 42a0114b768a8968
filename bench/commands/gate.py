"""The command ``odegrad gate``."""

# ruff: noqa: PLC0415
# The command imports what it needs, so that --help is quick.

import json
import logging
import os
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from odegrad.commands.printing import print_rows
from odegrad.errors import UsageError
from odegrad.exits import ExitCode
from odegrad.records.replacing import replace_file

if TYPE_CHECKING:
    from odegrad.gate.verdict import GateVerdict

_log = logging.getLogger("odegrad")


def gate(
    suite: Annotated[str, typer.Argument(metavar="SUITE", help="gate, another suite, or a path to a .toml file.")],
    baseline: Annotated[Path | None, typer.Option(help="The baseline: what was accepted last.")] = None,
    base: Annotated[str, typer.Option(metavar="REV", help="Time against this git revision instead.")] = "",
    base_python: Annotated[
        str, typer.Option(metavar="PATH", help="Time against the odegrad of this interpreter instead.")
    ] = "",
    budget: Annotated[float, typer.Option(min=1, max=1e9, help="Seconds of timing, until all is decided.")] = 300.0,
    update: Annotated[bool, typer.Option("--update", help="Accept what is measured now; needs --reason.")] = False,
    reason: Annotated[str, typer.Option(metavar="TEXT", help="Why it is accepted; the baseline keeps it.")] = "",
    junit: Annotated[Path | None, typer.Option(help="Write JUnit XML.")] = None,
    markdown: Annotated[Path | None, typer.Option(help="Append a Markdown summary to this file.")] = None,
    github: Annotated[bool, typer.Option("--github", help="Print annotations for GitHub Actions.")] = False,
    workers: Annotated[int | None, typer.Option(min=1, max=4096, help="Runs at a time; default: one a core.")] = None,
    threads: Annotated[int, typer.Option(min=1, max=4096, help="Threads of one tensor operation.")] = 1,
    timeout: Annotated[float | None, typer.Option(min=0, max=1e9, help="Seconds that one run may take.")] = None,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override the suite: seeds, include, ...")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Hold SUITE against a baseline, or its times against another revision: 0 fine, 1 not, 4 undecided, 75 try again.

    Every run is measured twice in fresh processes; what the two agree on must be equal to the baseline on the same
    machine class and versions, and within the baseline's bands elsewhere. A win fails as well until it is accepted.

    Times are compared in pairs of fresh processes on one core; only what is slower in two independent batches fails.
    """
    from odegrad.gate.command import GateOptions, run_gate
    from odegrad.gate.time_command import TimeOptions, run_time_gate

    if sum(map(bool, (baseline, base, base_python))) != 1:
        raise UsageError("--baseline FILE, --base REV, --base-python PATH: expected one of them")
    if baseline is None and (update or reason):
        raise UsageError("--update, --reason: expected --baseline beside them; times have no baseline")
    for option, path in (("--junit", junit), ("--markdown", markdown)):
        if path is not None and not path.parent.is_dir():
            raise UsageError(f"{option} {path}: there is no folder {path.parent}; make it, or give another file")
    settings = tuple(overrides or ())
    try:
        if baseline is None:
            verdict = run_time_gate(TimeOptions(suite, base, base_python, budget, settings, threads))
        else:
            options = GateOptions(suite, baseline, settings, update, reason, workers, threads, timeout)
            verdict = run_gate(options, Console(stderr=True))
    except KeyboardInterrupt:
        _log.warning("interrupted: nothing was judged or written")
        raise typer.Exit(ExitCode.INTERRUPTED) from None
    _show(verdict, suite, baseline or Path(suite), junit, markdown, github=github, as_json=as_json, update=update)
    if not update and verdict.code:
        raise typer.Exit(verdict.code)


def _show(
    verdict: "GateVerdict", suite: str, baseline: Path, junit: Path | None, markdown: Path | None, *,
    github: bool, as_json: bool, update: bool,
) -> None:  # fmt: skip
    """Print the verdict, and write it in the forms that were asked for."""
    from odegrad.gate import formats

    rows = [finding.row() for finding in verdict.findings]
    if as_json:
        found = [asdict(finding) for finding in verdict.findings]
        typer.echo(json.dumps({"code": verdict.code, "findings": found, "sentences": verdict.sentences()}, indent=2))
    else:
        if rows:
            print_rows(
                rows,
                False,
                "accepted"
                if update
                else "times of head / base"
                if verdict.timed
                else "not as in the baseline, or not judged",
            )
        if not update:
            for line in verdict.sentences():
                typer.echo(line)
    if github:
        for line in formats.github(verdict, str(baseline)):
            typer.echo(line)
    _write(junit, lambda: formats.junit(verdict, suite), "w")
    _write(markdown, lambda: formats.markdown(verdict, suite), "a")
    sys.stdout.flush()


def _write(path: Path | None, text: Callable[[], str], mode: str) -> None:
    """Write or append; a verdict that cannot be written is an error, because nobody would see it."""
    if path is None:
        return
    try:
        if mode == "w" and (path.is_file() or not path.exists()):
            replace_file(path, text())
            return
        with path.open(mode, encoding="utf-8") as file:
            file.write(text())
    except OSError as error:
        raise UsageError(f"{os.fspath(path)}: cannot be written: {error}; give another file") from error
