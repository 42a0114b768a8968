"""What an iteration and its memory cost relative to a first-order method, task by task, as the SNOpt paper tells it."""

import math

import pandas as pd

from odegrad.reports.comparing import cost_ratios, paired_costs
from odegrad.reports.statistics import finite, median
from odegrad.reports.summary import Results, Source

BASELINE = "adam"
SNOPT = "snopt"
COMPARED = ("sgd", SNOPT)
COSTS = {"iteration_seconds": "train_seconds", "peak_bytes": "peak_bytes"}
"""Cost -> the column of a record that it is made of: seconds of a training, a share of them an iteration."""


def table_of(frame: Source) -> pd.DataFrame:
    """Return a row a task: what ``BASELINE`` costs, and the others' ratio to it in the same blocks.

    Columns ``task``, for each of ``COSTS`` ``COST_adam`` and, for each of ``COMPARED``, ``COST_METHOD``,
    ``COST_METHOD_low``, ``COST_METHOD_high``: median, least and largest ratio over the blocks; and ``pairs``. Training
    seconds hold the refreshes; a failed run costs infinity, and NaN stands where nothing was measured.
    """
    cells = Results.of(frame).cells
    seconds = cells["train_seconds"].astype("float64") / cells["iterations"].astype("float64")
    cells = cells.assign(iteration_seconds=seconds)
    tasks = [str(task) for task in dict.fromkeys(cells["task"][cells["method"] == BASELINE])]
    rows = [{"task": task} | _row(cells[cells["task"] == task]) for task in tasks]
    return pd.DataFrame(rows, columns=["task", *columns()])


def memory_of(frame: Source) -> pd.DataFrame:
    """Return a row a task and number of accepted steps: ``task, steps, peak_bytes_adam, peak_bytes_snopt, ratio``.

    Medians over the runs of each method that ended ``ok``; NaN where there is none.
    """
    ok = Results.of(frame).ok
    mine = ok[ok["method"].isin([BASELINE, SNOPT])]
    names = ("task", "method", "accepted_steps", "peak_bytes")
    rows = pd.DataFrame({n: mine[n].astype("float64" if n in names[2:] else str) for n in names})
    table = rows.rename(columns={"accepted_steps": "steps"}).pivot_table(
        index=["task", "steps"], columns="method", values="peak_bytes", aggfunc="median"
    )
    table = table.reindex(columns=[BASELINE, SNOPT])
    ratio = table[SNOPT] / table[BASELINE]
    return table.rename(columns="peak_bytes_{}".format).assign(ratio=ratio).reset_index()


def columns() -> list[str]:
    """Return the names of the columns behind the task."""
    names = []
    for cost in COSTS:
        names.append(f"{cost}_{BASELINE}")
        names += [f"{cost}_{method}{end}" for method in COMPARED for end in ("", "_low", "_high")]
    return [*names, "pairs"]


def _row(cells: pd.DataFrame) -> dict[str, float]:
    row: dict[str, float] = {"pairs": 0}
    for cost in COSTS:
        for method in COMPARED:
            pairs = paired_costs(cells, cost, method, BASELINE)
            ratios = finite(cost_ratios(pairs))
            row[f"{cost}_{method}"] = median(ratios)
            row[f"{cost}_{method}_low"] = float(ratios.min()) if ratios.size else math.nan
            row[f"{cost}_{method}_high"] = float(ratios.max()) if ratios.size else math.nan
            row["pairs"] = max(row["pairs"], len(pairs))
        mine = cells[(cells["method"] == BASELINE) & (cells["status"] == "ok")]
        row[f"{cost}_{BASELINE}"] = median(mine[cost].astype("float64"))
    return row
