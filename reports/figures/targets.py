"""How long each method takes to a target, and over all problems the share solved within a factor of the best."""

import math
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from odegrad.reports import units
from odegrad.reports.canvas import dots, style
from odegrad.reports.canvas.panels import in_words, labels_of, variant_number
from odegrad.reports.comparing import BLOCK, costs, performance_profile, time_to_target
from odegrad.reports.names import sort_key
from odegrad.reports.statistics import median
from odegrad.reports.summary import KEY, Results, Source, rows_of
from odegrad.reports.tables.table import label

TITLE = "Time to the target"
PROFILES_TITLE = "Performance profiles"
_QUANTITIES = (
    dots.Quantity("target_seconds", "training time to the target", units.seconds, "not reached"),
    dots.Quantity("target_iterations", "iterations to the target", units.count, "not reached"),
)
PROFILES = {
    "target_seconds": "training time to the target",
    "nfe": "f calls of an iteration",
    "peak_bytes": "peak bytes",
}
"""Costs of which profiles are drawn, and what the panel is called."""
MAX_STEPS = 500
"""Steps of a profile that are drawn."""


def table_of(frame: Source) -> pd.DataFrame:
    """Return a row a task, method and variant: median seconds and iterations to the target, ``n_reached`` and ``n``.

    A run that failed or never reached the target counts as infinity; tasks without a target are left out.
    """
    return Results.of(frame).once(_table)


def _table(frame: Results) -> pd.DataFrame:
    runs = time_to_target(frame)
    runs = runs[[*KEY, "target", *(q.column for q in _QUANTITIES)]]
    rows = [
        dict(zip(KEY, key, strict=True))
        | {q.column: median(group[q.column]) for q in _QUANTITIES}
        | {"n_reached": int((group["target_seconds"] < math.inf).sum()), "n": len(group)}
        for key, group in runs[runs["target"].notna()].groupby(KEY)
    ]
    rows.sort(key=lambda row: (row["task"], sort_key(row["method"], row["variant"])))
    return pd.DataFrame(rows, columns=[*KEY, *(q.column for q in _QUANTITIES), "n_reached", "n"])


def draw(frame: Source, columns: int = 2) -> Figure:
    """Return the figure: a row a task and a dot a method, medians over seeds; never reached lies at the right edge."""
    table = table_of(frame)
    with style.applied():
        if table.empty or not (table["target_seconds"] < math.inf).any():
            return style.nothing_to_draw(columns, "a target that it reached")
        return dots.draw(table, _QUANTITIES, columns)


def describe(frame: Source) -> str:
    """Return the figure in words, for readers who cannot see it."""
    return in_words(f"{TITLE}, medians over seeds", table_of(frame), _tell, "No task has a target")


def _tell(row: Any) -> str:
    reached = units.seconds(row.target_seconds) if row.target_seconds < math.inf else "not reached"
    return f"{label(row)} {reached} ({row.n_reached} of {row.n} runs)"


def profiles_of(frame: Source) -> dict[str, pd.DataFrame]:
    """Return for each of ``PROFILES`` the shares of all problems solved, a row a ratio and a column a method.

    A problem is a task, solver, tolerances and seed that every method tried; a failed run is infinitely dear.
    """
    return Results.of(frame).once(_profiles)


def _profiles(frame: Results) -> dict[str, pd.DataFrame]:
    runs = time_to_target(frame)
    runs = runs.assign(nfe=runs["nfe_forward"].astype("float64") + runs["nfe_backward"].astype("float64"))
    ordered = {label(row): (row.method, row.variant) for row in _ordered(runs)}
    names = {key: name for name, key in ordered.items()}
    runs["name"] = [names[key] for key in zip(runs["method"], runs["variant"], strict=True)]
    profiles = {}
    for column in PROFILES:
        table = (
            runs[[*BLOCK, "name"]]
            .assign(cost=costs(runs, column))
            .pivot_table(index=BLOCK, columns="name", values="cost", aggfunc="median")
        )
        table = table.dropna().reindex(columns=[name for name in ordered if name in table])
        profiles[column] = performance_profile(table)[1]
    return profiles


def _ordered(runs: pd.DataFrame) -> list[Any]:
    distinct = runs[["method", "variant"]].drop_duplicates()
    return sorted(rows_of(distinct), key=lambda row: sort_key(str(row.method), str(row.variant)))


def draw_profiles(frame: Source, columns: int = 2) -> Figure:
    """Return the figure: the share of problems that a method solves within a factor of the best (Dolan and More, 2002).

    Parameters and what is drawn as in ``profiles_of``; up and to the left is better.
    """
    runs = profiles_of(frame)
    with style.applied():
        if not any(shares.shape[1] > 1 and (shares > 0).any(axis=None) for shares in runs.values()):
            return style.nothing_to_draw(columns, "a problem with two methods, one of which solved it")
        labels = labels_of(Results.of(frame).cells)
        figure, grid = style.grid(1, len(runs), columns, height=2.6)
        for axis, (column, shares) in zip(grid[0], runs.items(), strict=True):
            _profile(axis, shares, labels)
            axis.set_title(PROFILES[column], fontsize=8.0)
        grid[0][0].set_ylabel("share of problems solved")
        style.legend(figure, labels, columns)
        return figure


def describe_profiles(frame: Source) -> str:
    """Return the profiles in words: who is the best how often, and how much each solves at all."""
    parts = []
    for column, shares in profiles_of(frame).items():
        if len(shares):
            told = [f"{n} {shares[n].iloc[0]:.0%} first, {shares[n].iloc[-1]:.0%} at all" for n in shares]
            parts.append(f"{PROFILES[column]}: {'; '.join(told)}")
    return f"{PROFILES_TITLE}, shares of all problems. {'. '.join(parts) or 'No problem with two methods'}."


def _profile(axis: Axes, shares: pd.DataFrame, labels: list[tuple[str, str]]) -> None:
    axis.set(xlabel="within this factor of the best", ylim=(-0.03, 1.03), xscale="log")
    if shares.empty:
        axis.text(0.5, 0.5, "not measured", transform=axis.transAxes, ha="center")
        return
    edge = max(2.0, 1.2 * float(shares.index[-1]))
    if len(shares) > MAX_STEPS:  # equally far apart in the list of all ratios; the eye sees no more
        shares = shares.iloc[np.unique(np.linspace(0, len(shares) - 1, MAX_STEPS).astype(int))]
    for method, variant in labels:
        name = label(pd.Series({"method": method, "variant": variant}))
        if name in shares:
            drawn = style.line_style(method, variant_number(labels, method, variant))
            x, y = [*shares.index, edge], [*shares[name], shares[name].iloc[-1]]
            axis.plot(x, y, drawstyle="steps-post", gid="profile", markevery=max(1, len(x) // 5), **drawn)
    style.log_axis(axis.xaxis, pd.Series([1.0, edge]), "within this factor of the best", lambda value: f"{value:g}")
    axis.set_xlim(0.97, edge)
