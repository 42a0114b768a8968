"""The commands ``odegrad history add`` and ``odegrad history report``."""

# ruff: noqa: PLC0415
# Commands import what they need, so that --help is quick.

import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from odegrad.commands.options import JsonOption, check_folders
from odegrad.commands.printing import print_rows
from odegrad.errors import UsageError

if TYPE_CHECKING:
    from odegrad.history.store import HistoryStore

_log = logging.getLogger("odegrad")

history = typer.Typer(no_args_is_help=True, help="Keep results over commits, and say where they moved.")

HistoryOption = Annotated[Path | None, typer.Option("--history", help="A folder of JSON lines, one file a commit.")]
BranchOption = Annotated[
    str, typer.Option(metavar="NAME", help="A git branch of such files instead; no working tree is touched.")
]


@history.command("add", epilog="Example: odegrad history add results/gate-time --history history")
def add(
    results: Annotated[Path, typer.Argument(metavar="RESULTS", help="A results folder that odegrad run wrote.")],
    folder: HistoryOption = None,
    branch: BranchOption = "",
    commit: Annotated[
        str, typer.Option(metavar="SHA", help="What was measured; default HEAD, whose files must be unchanged.")
    ] = "",
    date: Annotated[str, typer.Option(metavar="ISO", help="Of the commit; default its committer's date.")] = "",
    release: Annotated[str, typer.Option(metavar="NAME", help="The commit is this release.")] = "",
) -> None:
    """Add RESULTS to a history as those of a commit; the same commit, run and machine again replaces what was there."""
    from odegrad.history.commits import find_commit
    from odegrad.history.store import add as add_to

    store = _store(folder, branch)
    check_folders([results])
    found = find_commit(Path(), commit, date, folder)
    typer.echo(add_to(results, store, found, release.strip() or None).sentence())


@history.command("report", epilog="Example: odegrad history report --history history --out trend")
def report(
    folder: HistoryOption = None,
    branch: BranchOption = "",
    out: Annotated[Path | None, typer.Option(help="Where to write the page; default history-report.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Say where figures moved over commits, and what is away from the last release; write it as a page.

    Any change of an exact figure is a step; steps of times are told from noise.
    """
    try:
        from odegrad.history.trends import trends
    except ImportError as error:
        raise UsageError(
            f"history report: expected the packages of odegrad[history] ({error}); pip install 'odegrad[history]'"
        ) from error
    from odegrad.history.store import read
    from odegrad.reports.page.history import repeats, rows, write
    from odegrad.reports.trends import to_dict

    store = _store(folder, branch)
    found = trends(read(store), _suite_path)
    written = write(found, store.option, out or Path("history-report"))
    if as_json:
        typer.echo(json.dumps(to_dict(found), indent=2))
    else:
        if found.steps:
            print_rows(rows(found, found.steps), False, "where figures moved, the latest first")
        if found.drifts:
            print_rows(rows(found, found.drifts), False, "away from the last release")
        for line in [*found.sentences(), *repeats(found)]:
            typer.echo(line)
    _log.info("wrote %s", written[-1])


def _store(folder: Path | None, branch: str) -> "HistoryStore":
    from odegrad.history.branch import BranchStore
    from odegrad.history.folder import FolderStore
    from odegrad.history.git import Repository

    if (folder is None) != bool(branch):
        raise UsageError("--history PATH, --branch NAME: expected one of them")
    return BranchStore(Repository(Path()), branch) if folder is None else FolderStore(folder)


def _suite_path(name: str) -> str:
    """Return what the command line calls a suite: a file of its name in the working folder wins."""
    return f"{name}.toml" if Path(f"{name}.toml").is_file() else name
