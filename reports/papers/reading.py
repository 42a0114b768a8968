"""The papers whose experiments odegrad makes again, and what a folder with their records says."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pandas as pd

from odegrad.reports.frame import load
from odegrad.reports.papers import irdm, precision, snopt, stiff_gradients
from odegrad.reports.papers.claim import Claim
from odegrad.reports.papers.exhibits import Exhibit
from odegrad.reports.papers.shown import EXHIBITS
from odegrad.reports.papers.verdict import ClaimVerdict, decide
from odegrad.reports.summary import Results

CLAIMS: Mapping[str, tuple[Claim, ...]] = {
    irdm.IRDM: irdm.IRDM_CLAIMS,
    snopt.SNOPT_PAPER: snopt.SNOPT_CLAIMS,
    stiff_gradients.STIFF_GRADIENTS: stiff_gradients.STIFF_GRADIENTS_CLAIMS,
    precision.PRECISION: precision.PRECISION_CLAIMS,
}
"""A paper's short name -> what it claims."""

OWN_TASKS = {(snopt.SNOPT_PAPER, "paper"): ("paper-snopt-nine", snopt.NINE)}
"""A paper and a size -> the suite of the paper's own tasks, and these, where they are not those of the other sizes."""


@dataclass(frozen=True)
class Read:
    """What a paper's folder holds without a run more."""

    verdicts: Sequence[ClaimVerdict] = ()
    exhibits: Sequence[Exhibit] = ()
    sources: Mapping[str, Results] = field(default_factory=dict)


def read_paper(folder: Path, records: pd.DataFrame) -> Read:
    """Return verdicts and exhibits from the folder of a paper's first suite, whose records are ``records``.

    Claims and exhibits of a sweep whose folder is not there are left out; nothing is returned for any other folder.

    Raises
    ------
    ResultsError
        If a sweep's records cannot be read.
    """
    papers = {main_suite(name, size): name for name in CLAIMS for size in ("", "paper")}
    suites = list(records["suite"].dropna().unique())
    if len(suites) != 1 or suites[0] not in papers:
        return Read()
    claims, exhibits = declared(papers[suites[0]], suites[0])
    sources = {suites[0]: Results.of(records)}
    for name in dict.fromkeys(part.suite for part in (*claims, *exhibits)):
        if name and name not in sources and (folder / name).is_dir():
            sources[name] = Results.of(load(folder / name))
    there = [claim for claim in claims if (claim.suite or suites[0]) in sources]
    return Read([decide(claim, sources[claim.suite or suites[0]]) for claim in there], exhibits, sources)


def main_suite(name: str, size: str) -> str:
    """Return the name of the suite that most claims of a paper are decided from at a size."""
    return OWN_TASKS[name, size][0] if (name, size) in OWN_TASKS else f"paper-{name}"


def declared(name: str, main: str) -> tuple[tuple[Claim, ...], tuple[Exhibit, ...]]:
    """Return claims and exhibits with those of the first suite said of ``main`` and its tasks."""
    claims, exhibits = CLAIMS[name], tuple(EXHIBITS[name])
    for own, tasks in OWN_TASKS.values():
        if own == main:
            claims = tuple(claim if claim.suite else replace(claim, tasks=tasks) for claim in claims)
            exhibits = tuple(replace(each, suite=own) if each.suite == f"paper-{name}" else each for each in exhibits)
    return claims, exhibits
