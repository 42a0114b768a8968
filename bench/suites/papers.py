"""A paper's experiments at one size: its suites, its claims, its figures and tables."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from odegrad.reports.frame import load
from odegrad.reports.papers.claim import Claim
from odegrad.reports.papers.exhibits import Exhibit
from odegrad.reports.papers.reading import declared, main_suite
from odegrad.reports.papers.verdict import ClaimVerdict, decide
from odegrad.reports.summary import Results
from odegrad.suites.suite import Suite, load_suite


@dataclass(frozen=True)
class Paper:
    """A paper's experiments at one size, what they are to decide, and what is shown of them."""

    suites: tuple[Suite, ...]
    """The first is the one that the claims are decided from; the others are sweeps for figures and tables."""
    claims: tuple[Claim, ...]
    exhibits: tuple[Exhibit, ...]
    folder: str
    """Name of its results folder unless another is given: sizes do not mix."""

    def folder_of(self, suite: Suite, results: Path) -> Path:
        """Return the folder of a suite's records: ``results`` of the first, folders of their names in it of others."""
        return results if suite.name == self.suites[0].name else results / suite.name

    def load(self, results: Path) -> dict[str, Results]:
        """Return the results of every suite by its name, from the paper's folder ``results``.

        Raises
        ------
        ResultsError
            If records cannot be read.
        """
        return {suite.name: Results.of(load(self.folder_of(suite, results))) for suite in self.suites}

    def decide(self, sources: Mapping[str, Results]) -> Sequence[ClaimVerdict]:
        """Return the verdicts on its claims from its results, as ``load`` returns them."""
        return [decide(claim, sources[claim.suite or self.suites[0].name]) for claim in self.claims]


def load_paper(name: str, size: str) -> Paper:
    """Return the paper ``name``, a key of ``CLAIMS``, with every task at ``size``.

    The first suite of a paper whose own tasks need a download, and are too large for anything but its own size, is
    another one at size ``paper``.

    Raises
    ------
    SuiteError
        If a task does not have the size.
    """
    main = main_suite(name, size)
    claims, exhibits = declared(name, main)
    names = dict.fromkeys([main, *(part.suite for part in (*claims, *exhibits) if part.suite)])
    suites = tuple(load_suite(suite, [f'size="{size}"']) for suite in names)
    return Paper(suites, claims, exhibits, f"paper-{name}-{size}")
