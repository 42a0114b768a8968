"""The papers whose experiments odegrad makes again: for each its suite and its claims."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from odegrad.reports.frame import load
from odegrad.reports.papers import irdm, snopt
from odegrad.reports.papers.claim import Claim
from odegrad.reports.papers.verdict import Verdict, decide
from odegrad.reports.summary import Results
from odegrad.suite import Suite, load_suite

CLAIMS: Mapping[str, tuple[Claim, ...]] = {irdm.PAPER: irdm.CLAIMS, snopt.PAPER: snopt.CLAIMS}
"""A paper's short name -> what it claims."""


@dataclass(frozen=True)
class Paper:
    """A paper's experiments at one size, and what they are to decide."""

    suite: Suite
    claims: tuple[Claim, ...]
    folder: str
    """Name of its results folder unless another is given: sizes do not mix."""

    def decide(self, results: Path) -> list[Verdict]:
        """Return the verdicts on its claims from the records in the folder ``results``.

        Raises
        ------
        ResultsError
            If the records cannot be read.
        """
        records = Results.of(load(results))
        return [decide(claim, records) for claim in self.claims]


def load_paper(name: str, size: str) -> Paper:
    """Return the paper ``name``, a key of ``CLAIMS``, with every task at ``size``.

    Raises
    ------
    SuiteError
        If a task does not have the size.
    """
    suite = load_suite(f"paper-{name}", [f'size="{size}"'])
    return Paper(suite, CLAIMS[name], f"{suite.name}-{size}")
