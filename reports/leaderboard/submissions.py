"""What was submitted: result sets by name, what each ran with, and their runs in one frame."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from odegrad.errors import UsageError
from odegrad.records.columns import PARTS
from odegrad.records.record import Status
from odegrad.reports.comparing import time_to_target
from odegrad.reports.frame import load
from odegrad.reports.machines import HARDWARE, disturbed, hardware
from odegrad.reports.names import joined, kind_of, short
from odegrad.reports.page.answers import ACCURATE, VERDICTS
from odegrad.reports.page.findings import outcome
from odegrad.reports.summary import cells
from odegrad.reports.units import significant

SOFTWARE = ("odegrad", "commit", "torch", "torchdiffeq", "numpy", "python", "os", "cuda")
"""What of a record's machine says which software ran."""


@dataclass(frozen=True)
class Submission:
    """One result set."""

    name: str
    frame: pd.DataFrame
    """Records from ``odegrad.reports.frame.load``, with their times."""

    def facts(self) -> dict[str, str]:
        """Return what it ran with: runs, tasks, methods, seeds, settings, machine, software, disturbances."""
        runs = cells(self.frame)
        libraries = {
            f"{row.library} {row.library_version}".strip()
            for row in runs[["library", "library_version"]].drop_duplicates().itertuples()
            if isinstance(row.library, str) and row.library
        }
        tolerances = runs[["rtol", "atol"]].drop_duplicates().sort_values(["rtol", "atol"]).to_numpy()
        said = {
            "suite": joined(_each(runs, "suite")),
            "runs": outcome(self.frame),
            "tasks": joined(sorted({f"{short(row.task)} {row.size}" for row in runs.itertuples()})),
            "methods": joined(dict.fromkeys(map(short, runs["method"]))),
            "seeds": str(runs["seed"].nunique()),
            "solvers": joined(_each(runs, "solver")),
            "tolerances": joined(f"{significant(r, 1)} / {significant(a, 1)}" for r, a in tolerances),
            "computed on": joined(f"{d} {t}" for d, t in runs.groupby(["device", "dtype"]).groups),
            "hardware": "; ".join(dict.fromkeys(map(hardware_words, runs["machine"]))),
            "software": "; ".join(dict.fromkeys(map(_software, runs["machine"]))),
            "libraries": joined(sorted(libraries)),
            "times": disturbed(runs),
        }
        return {name: text for name, text in said.items() if text}


def read_submissions(folders: Sequence[Path]) -> list[Submission]:
    """Return the result sets of ``folders``; each is called like its folder, or like its path where two are alike.

    Raises
    ------
    UsageError
        If a folder is given twice.
    ResultsError
        If there is no folder, or the records of one cannot be read.
    """
    places = [folder.resolve() for folder in folders]
    twice = next((folder for i, folder in enumerate(folders) if places[i] in places[:i]), None)
    if twice is not None:
        raise UsageError(f"results folder {twice}: expected each folder once, got it twice; name it once")
    names = [place.name for place in places]
    return [
        Submission(name if names.count(name) == 1 else str(folder), load(folder, across_machines=True))
        for name, folder in zip(names, folders, strict=True)
    ]


def contested(submissions: Sequence[Submission]) -> pd.DataFrame:
    """Return every run that counts, of all submissions, with what the ranking needs beside the columns of a record.

    Returns
    -------
    pandas.DataFrame
        ``submission`` (its name), ``kind`` of the task, ``hardware`` in words, ``iteration`` (seconds of one),
        ``calls`` (f calls of one, forward and backward), ``target_seconds`` (infinite where it was not reached), and
        ``accurate``: whether nothing that was measured says otherwise of the run's gradients.
    """
    frames = [each.frame.assign(submission=each.name) for each in submissions]
    runs = time_to_target(pd.concat(frames, ignore_index=True))
    doubted = [runs[column].notna() & (runs[column] != ACCURATE) for column in VERDICTS]
    return runs.assign(
        kind=runs["task"].map(kind_of),
        hardware=[hardware_words(machine) for machine in runs["machine"]],
        iteration=runs[list(PARTS)].astype("float64").sum(axis=1, skipna=False),
        calls=runs["nfe_forward"].astype("float64") + runs["nfe_backward"].astype("float64"),
        accurate=~np.logical_or.reduce([each.to_numpy(dtype=bool) for each in doubted]),
    )


def censored(runs: pd.DataFrame, column: str, *, accurate_only: bool) -> pd.Series:
    """Return a column of ``contested`` as costs: infinite where a run failed, NaN where it was not measured.

    ``accurate_only``: infinite as well where its gradient is not accurate; a cheap wrong gradient is no achievement.
    """
    good = runs["status"] == Status.OK
    if accurate_only:
        good &= runs["accurate"]
    return runs[column].astype("float64").where(good, math.inf)


def hardware_words(machine: object) -> str:
    """Return what decides the times of a record's machine in words."""
    found = hardware(machine)
    if found is None:
        return "a machine that is not recorded"
    pairs = zip(HARDWARE, found, strict=True)
    return ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in pairs if value is not None)


def _software(machine: object) -> str:
    known = machine if isinstance(machine, dict) else {}
    return ", ".join(f"{name} {known[name]}" for name in SOFTWARE if known.get(name) is not None)


def _each(runs: pd.DataFrame, column: str) -> list[str]:
    return [str(value) for value in runs[column].dropna().unique()]
