"""From a results folder to everything that people read: Parquet, figures, tables and one page."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from odegrad.errors import ResultsError
from odegrad.records.replacing import replace_file
from odegrad.reports import trace
from odegrad.reports.contrasts import contrasts
from odegrad.reports.figures.drawing import begin_drawing, write_figures
from odegrad.reports.frame import load, to_parquet
from odegrad.reports.page.libraries import libraries_table
from odegrad.reports.page.render import page
from odegrad.reports.papers import table as claims_text
from odegrad.reports.papers.exhibits import Exhibit, write_exhibits
from odegrad.reports.papers.verdict import ClaimVerdict
from odegrad.reports.summary import Results
from odegrad.reports.tables.across import across
from odegrad.reports.tables.optimizers import optimizers
from odegrad.reports.tables.table import csv_text, to_csv, to_latex, to_markdown
from odegrad.reports.tables.tuning import trials


def build_report(
    *results: Path,
    out: Path | None = None,
    across_machines: bool = False,
    verdicts: Sequence[ClaimVerdict] = (),
    exhibits: Sequence[Exhibit] = (),
    sources: Mapping[str, Results] | None = None,
) -> list[Path]:
    """Write the report of one or several results folders and return the files.

    Parameters
    ----------
    results
        Folders that ``odegrad run`` wrote.
    out
        Where to write; by default beside the records of the first. Earlier files of a report are replaced.
    across_machines
        As ``odegrad.reports.frame.load`` takes it.
    verdicts
        On the claims of a paper, from the same records.
    exhibits, sources
        Figures and tables of a paper, and the results of its suites by name.

    Returns
    -------
    list of pathlib.Path
        ``records.parquet``, ``trace.parquet`` (the training in long form), ``figures/*``,
        ``tables/summary.{md,csv,tex}``, ``tables/{across,optimizers,tuning}.csv``, with several libraries in a sweep
        ``tables/libraries.csv``, with verdicts ``tables/claims.{md,csv,tex}``, the files of the exhibits and, last,
        ``report.html``.

    Raises
    ------
    ResultsError
        If the records cannot be read or ``out`` cannot be written.
    """
    folder = Path(out) if out is not None else Path(results[0])
    return write_report(load(*results, across_machines=across_machines), folder, verdicts, exhibits, sources)


def write_report(
    frame: pd.DataFrame,
    folder: Path,
    verdicts: Sequence[ClaimVerdict] = (),
    exhibits: Sequence[Exhibit] = (),
    sources: Mapping[str, Results] | None = None,
) -> list[Path]:
    """Write the report of ``frame``, records from ``odegrad.reports.frame.load``, as ``build_report`` does."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        results_of = Results.of(frame)
        drawing = begin_drawing(results_of)  # other processes draw while this one writes
        records = folder / "records.parquet"
        to_parquet(frame, records)
        points = folder / "trace.parquet"
        trace.write(frame, points)
        shown = write_exhibits(exhibits, sources or {}, folder)
        tables = folder / "tables"
        tables.mkdir(exist_ok=True)
        texts = {
            tables / "summary.md": to_markdown(results_of),
            tables / "summary.csv": to_csv(results_of),
            tables / "summary.tex": to_latex(results_of),
            tables / "across.csv": csv_text(across(results_of)),
            tables / "optimizers.csv": csv_text(optimizers(results_of)),
            tables / "tuning.csv": csv_text(trials(frame)),
        }
        if found := contrasts(results_of):
            texts[tables / "libraries.csv"] = csv_text(libraries_table(found))
        if verdicts:
            texts[tables / "claims.md"] = claims_text.to_markdown(verdicts)
            texts[tables / "claims.tex"] = claims_text.to_latex(verdicts)
            texts[tables / "claims.csv"] = claims_text.to_csv(verdicts)
        files, figures = write_figures(drawing, folder / "figures")
        texts[folder / "report.html"] = page(results_of, figures, verdicts, shown)
        for path, text in texts.items():
            replace_file(path, text)
    except OSError as error:
        raise ResultsError(
            f"report folder {folder}: expected a folder that can be written, got {type(error).__name__} "
            f"({error.strerror}); free it or give another one"
        ) from error
    return [records, points, *files, *shown.files, *texts]
