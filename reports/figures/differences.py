"""How far the gradients of any two methods lie apart: a matrix a task, from the sketches in the records."""

import math

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage

from odegrad.reports import units
from odegrad.reports.comparing import BLOCK, Floats
from odegrad.reports.figures import style
from odegrad.reports.names import joined, short, sort_key
from odegrad.reports.summary import Results, Source, rows_of

TITLE = "Differences between the gradients of any two methods"
SHADES = "cividis"
"""Readable to colour-blind readers, and darker is nearer in grey too."""
LEAST = 1e-16
"""Relative differences below are drawn at this: they are rounding."""
LEAST_CELL = 0.14
"""Inches of a cell that a number fits into."""
MOST_METHODS = 30
"""Methods of one matrix; further ones, by their order, are left out and counted."""
_COLUMNS = ["task", "method", "variant", "gradient_sketch", "gradient_norm", "gradient_digest"]


def matrices_of(frame: Source) -> dict[str, pd.DataFrame]:
    """Return for each task the relative differences, a row and a column a method: the median over blocks.

    The difference of two gradients is relative to the mean of their norms, from sketches: 9 % off (one standard
    deviation). It is exactly 0 where both have the same bits; NaN where no block holds both.
    """
    ok = Results.of(frame).ok
    if "gradient_sketch" not in ok:
        return {}
    held = np.array([isinstance(each, list) for each in ok["gradient_sketch"]], dtype=bool)
    known = ok[held & ok["gradient_norm"].notna()]
    known = known[[*dict.fromkeys([*_COLUMNS, *BLOCK])]]
    matrices = {}
    for task, rows in known.groupby("task", sort=False):
        blocks = [_block(part) for _, part in rows.groupby(BLOCK[1:], sort=False)]
        names = sorted(set().union(*blocks), key=lambda name: (sort_key(name.partition(" (")[0]), name))
        stacked = [block.reindex(index=names, columns=names).to_numpy(dtype=float) for block in blocks]
        if len(names) > 1:
            matrices[str(task)] = pd.DataFrame(_medians(np.stack(stacked)), index=names, columns=names)
    return matrices


def _block(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the differences within one block; a variant is named only where a method has several there."""
    several = rows["method"].duplicated(keep=False)
    names = [
        f"{short(str(row.method))} ({row.variant})" if more and row.variant else short(str(row.method))
        for row, more in zip(rows_of(rows), several, strict=True)
    ]
    sketches = np.array([list(each) for each in rows["gradient_sketch"]], dtype=float)
    norms = rows["gradient_norm"].to_numpy(dtype=float)
    apart = np.linalg.norm(sketches[:, None, :] - sketches[None, :, :], axis=2)
    with np.errstate(divide="ignore", invalid="ignore"):
        relative = np.where(apart == 0.0, 0.0, apart / (0.5 * (norms[:, None] + norms[None, :])))
    digests = rows["gradient_digest"].fillna("").astype(str).to_numpy(dtype=str)
    same = (digests[:, None] == digests[None, :]) & (digests != "")[:, None]
    table = pd.DataFrame(np.where(same, 0.0, relative), index=names, columns=names)
    return table.loc[~table.index.duplicated(), ~table.columns.duplicated()]


def _medians(values: Floats) -> Floats:
    """Return the medians over the first axis of those that are there; NaN where none is."""
    there = ~np.isnan(values).all(axis=0)
    out = np.full(values.shape[1:], math.nan)
    out[there] = np.nanmedian(values[:, there], axis=0)
    return out


def draw(frame: Source, columns: int = 2) -> Figure:
    """Return the figure: a matrix a task, each cell the power of ten of the relative difference of two gradients.

    Parameters
    ----------
    frame
        Records from ``odegrad.reports.frame.load``, at the initial parameters, in float64.
    columns
        1 or 2: columns of a page that the figure spans.

    Returns
    -------
    matplotlib.figure.Figure
        Images hold ``log10`` of the differences, no less than that of ``LEAST``; ``=`` stands where the bits agree.
    """
    matrices = {task: table.iloc[:MOST_METHODS, :MOST_METHODS] for task, table in matrices_of(frame).items()}
    with style.applied():
        if not matrices:
            return style.nothing_to_draw(columns, "gradients of two methods in one block")
        largest = max(len(table) for table in matrices.values())
        per_row = 2 if columns == 2 and len(matrices) > 1 and largest <= MOST_METHODS // 2 else 1
        # what names and scale leave of the width, in inches
        widest = 1.45 if columns == 1 else 1.9 if per_row == 2 else 5.0
        side = min(0.21 * largest, widest) + 1.2
        figure, grid = style.grid(-(-len(matrices) // per_row), per_row, columns, height=side)
        axes = [axis for row in grid for axis in row]
        logs = {task: np.log10(np.maximum(table.to_numpy(dtype=float), LEAST)) for task, table in matrices.items()}
        apart = np.concatenate([values[matrices[task].to_numpy() > 0] for task, values in logs.items()])
        low, high = (float(apart.min()), float(apart.max())) if apart.size else (-16.0, 0.0)
        for axis, (task, table) in zip(axes, matrices.items(), strict=False):
            written = widest / len(table) > LEAST_CELL
            image = _matrix(
                axis, table, logs[task], written, (math.floor(low), max(math.ceil(high), math.floor(low) + 1))
            )
            axis.set_title(style.drawable(task))
        for axis in axes[len(matrices) :]:
            axis.remove()
        bar = figure.colorbar(image, ax=axes[: len(matrices)], shrink=0.6)
        bar.set_label("log10 of the relative difference")
        return figure


def _matrix(axis: Axes, table: pd.DataFrame, logs: Floats, written: bool, ends: tuple[float, float]) -> AxesImage:
    """Draw one matrix; the powers are written into its cells if they have room for it."""
    same = table.to_numpy() == 0.0
    image = axis.imshow(np.ma.masked_where(same | np.isnan(logs), logs), cmap=SHADES, vmin=ends[0], vmax=ends[1])
    names = [style.drawable(name) for name in table.index]
    axis.set_xticks(range(len(names)), names, rotation=90)
    axis.set_yticks(range(len(names)), names)
    axis.grid(visible=False)
    for row, column in zip(*np.nonzero(same), strict=True):
        axis.text(column, row, "=", ha="center", va="center", fontsize=7, color=style.GREY)
    for row, column in zip(*np.nonzero(~same & ~np.isnan(logs)), strict=True) if written else ():
        dark = logs[row, column] < 0.5 * (ends[0] + ends[1])
        axis.text(
            column, row, f"{logs[row, column]:.0f}", ha="center", va="center", fontsize=6,
            color="white" if dark else style.BLACK,
        )  # fmt: skip
    return image


def describe(frame: Source) -> str:
    """Return the figure in words: for each task which gradients agree to the bit, and the farthest two."""
    parts = []
    for task, table in matrices_of(frame).items():
        values = table.to_numpy(dtype=float)
        upper = [(values[i, j], i, j) for i in range(len(table)) for j in range(i + 1, len(table))]
        known = [each for each in upper if not math.isnan(each[0])]
        equal = [f"{table.index[i]} = {table.index[j]}" for value, i, j in known if value == 0.0]
        if known:
            value, i, j = max(known)
            told = f"the same to the bit: {joined(equal) if equal else 'none'}"
            parts.append(f"{task}: farthest {table.index[i]} and {table.index[j]}, {units.error(value)}; {told}")
    note = "relative to the mean of the two norms, at the initial parameters, from sketches that are 9 % off"
    return f"{TITLE}, {note}. {'. '.join(parts) or 'No two gradients in one block'}."
