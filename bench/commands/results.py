"""The commands that read results: ``report`` and ``compare-results``."""

# ruff: noqa: PLC0415
# Commands import what they need, so that --help is quick and reading results needs no torch.

import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from odegrad.commands.options import AcrossOption, JsonOption, check_folders
from odegrad.commands.printing import output, print_rows
from odegrad.exits import ExitCode

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from odegrad.records.repair import FolderFault
    from odegrad.reports.papers.exhibits import Exhibit
    from odegrad.reports.papers.verdict import ClaimVerdict
    from odegrad.reports.summary import Results

_log = logging.getLogger("odegrad")


def report(
    results: Annotated[list[Path], typer.Argument(metavar="RESULTS...", help="One or several results folders.")],
    out: Annotated[Path | None, typer.Option(help="Where to write; default beside the records of the first.")] = None,
    across_machines: AcrossOption = False,
) -> None:
    """Print the table of RESULTS and write its figures and page."""
    check_folders(results)
    write_report(*results, out=out, across_machines=across_machines, as_paper=True)


def compare_results(
    before: Annotated[Path, typer.Argument(metavar="A", help="A results folder.")],
    after: Annotated[Path, typer.Argument(metavar="B", help="Another one, with the same runs measured again.")],
    out: Annotated[Path | None, typer.Option(help="Where to write table and page; default B/changes.")] = None,
    across_machines: AcrossOption = False,
    as_json: JsonOption = False,
) -> None:
    """Say what changed from A to B, run by run of the same content, with intervals; write it as table and page."""
    from odegrad.reports.frame import load
    from odegrad.reports.page.comparison import rows, write
    from odegrad.reports.tables.changes import changes

    check_folders([before, after])
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
    if not found.common:
        raise typer.Exit(ExitCode.USAGE)


def leaderboard(
    results: Annotated[list[Path], typer.Argument(metavar="RESULTS...", help="Results folders, one a submission.")],
    out: Annotated[Path, typer.Option(help="Where to write page and table.")] = Path("leaderboard"),
    as_json: JsonOption = False,
) -> None:
    """Rank the methods of many RESULTS per kind of task on one static page; what is not told apart shares ranks."""
    from odegrad.reports.leaderboard.page import table, write
    from odegrad.reports.leaderboard.submissions import read_submissions

    check_folders(results)
    found, written = write(read_submissions(results), out)
    if as_json:
        typer.echo(table(found).to_json(orient="records", double_precision=15))
    else:
        rows = [
            {
                "kind": each.kind,
                "quantity": each.quantity.title,
                **({"machine": each.machine} if any(one.machine for one in found) else {}),
                "says": each.sentence,
            }
            for each in found
        ]
        print_rows(rows, False, f"{len(results)} submission{'' if len(results) == 1 else 's'}", wrap=True)
    _log.info("wrote %s", written[-1])


results_app = typer.Typer(no_args_is_help=True, help="Look a results folder through, and mend it.")

FolderArgument = Annotated[Path, typer.Argument(metavar="RESULTS", help="A results folder.")]


@results_app.command("check", epilog="Example: odegrad results check results/quick")
def check_results(results: FolderArgument, as_json: JsonOption = False) -> None:
    """Name broken lines, duplicates and a lost suite.json of RESULTS; exit code 1 if something is broken."""
    from odegrad.records.repair import examine_folder

    check_folders([results])
    _tell(examine_folder(results), as_json, "nothing is wrong")


@results_app.command("repair", epilog="Example: odegrad results repair results/quick")
def repair_results(results: FolderArgument, as_json: JsonOption = False) -> None:
    """Take broken lines and duplicates out of RESULTS, keep the broken ones aside, and write a lost suite.json anew."""
    from odegrad.records.repair import examine_folder, repair_folder

    check_folders([results])
    mended, left = repair_folder(results), examine_folder(results)
    _tell(mended, as_json, "nothing was wrong", fail=False)
    if left:
        _log.error("%d things are still wrong: odegrad results check %s names them", len(left), results)
        raise typer.Exit(ExitCode.FAILED_CHECK)


def _tell(problems: "Sequence[FolderFault]", as_json: bool, fine: str, fail: bool = True) -> None:
    rows = [dict(problem.__dict__) for problem in problems]
    if rows or as_json:
        print_rows(rows, as_json, "what is wrong")
    else:
        typer.echo(fine)
    if fail and any(not problem.harmless for problem in problems):
        raise typer.Exit(ExitCode.FAILED_CHECK)


def write_report(
    *folders: Path,
    out: Path | None = None,
    across_machines: bool = False,
    verdicts: "Sequence[ClaimVerdict]" = (),
    exhibits: "Sequence[Exhibit]" = (),
    sources: "Mapping[str, Results] | None" = None,
    as_paper: bool = False,
) -> None:
    """Write the report of ``folders`` and print its table.

    ``as_paper``: take claims and exhibits from the folder, if it is one of a paper.
    """
    from odegrad.reports.frame import load
    from odegrad.reports.page import build
    from odegrad.reports.page.answers import answers
    from odegrad.reports.summary import Results
    from odegrad.reports.tables.table import print_table

    frame = load(*folders, across_machines=across_machines)
    if as_paper and len(folders) == 1:
        from odegrad.reports.papers.reading import read_paper

        read = read_paper(folders[0], frame)
        verdicts, exhibits, sources = read.verdicts, read.exhibits, read.sources
    written = build.write_report(frame, out or folders[0], verdicts, exhibits, sources)
    results = Results.of(frame)
    print_table(results, output())
    for task, answer in answers(results).items():
        output().print(f"{task}: {answer.take}", markup=False, highlight=False, soft_wrap=True)
    _log.info("wrote %s and %d other files into %s", written[-1], len(written) - 1, written[-1].parent)
