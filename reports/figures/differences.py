"""How far the gradients of any two methods lie apart: a matrix a task, from the sketches in the records."""

import math

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage

from odegrad.reports import units
from odegrad.reports.canvas import style
from odegrad.reports.comparing import BLOCK
from odegrad.reports.names import joined, short, sort_key
from odegrad.reports.statistics import Floats, median
from odegrad.reports.summary import Results, Source

TITLE = "Differences between the gradients of any two methods"
SHADES = "cividis"
"""Readable to colour-blind readers, and darker is nearer in grey too."""
MIN_DIFFERENCE = 1e-16
"""Relative differences below are drawn at this: they are rounding."""
MIN_CELL_INCHES = 0.14
"""Inches of a cell that a number fits into."""
MAX_METHODS = 30
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
    held = np.array([isinstance(each, np.ndarray) for each in ok["gradient_sketch"]], dtype=bool)
    known = ok[held & ok["gradient_norm"].notna()]
    known = known[[*dict.fromkeys([*_COLUMNS, *BLOCK])]].reset_index(drop=True)
    block = known.groupby(BLOCK, sort=False, dropna=False).ngroup()
    known = known.assign(block=block, name=_names(known, block)).drop_duplicates(["block", "name"])
    matrices = {}
    for task, rows in known.groupby("task", sort=False):
        names = sorted(set(rows["name"]), key=lambda name: sort_key(*name.partition(" (")[::2]))
        if len(names) > 1:
            matrices[str(task)] = pd.DataFrame(_medians(rows, names), index=names, columns=names)
    return matrices


def _names(rows: pd.DataFrame, block: pd.Series) -> list[str]:
    """Return each row's method; with its variant where the method has several in the same block."""
    several = pd.DataFrame({"block": block, "method": rows["method"]}).duplicated(keep=False)
    texts = rows["method"].astype(str).map(short)
    variants = rows["variant"].fillna("").astype(str)
    return [
        f"{text} ({variant})" if more and variant else text
        for text, variant, more in zip(texts, variants, several, strict=True)
    ]


def _medians(rows: pd.DataFrame, names: list[str]) -> Floats:
    """Return the median over blocks of every pair's relative difference, ``[names, names]``; NaN where none has both.

    ``rows`` are of one task, with ``block`` and ``name``.
    """
    blocks, places = pd.factorize(rows["block"])[0], pd.Index(names).get_indexer(rows["name"])
    shape = (blocks.max() + 1, len(names))
    sketches = np.full((*shape, len(rows["gradient_sketch"].iloc[0])), math.nan)
    norms, bits = np.full(shape, math.nan), np.full(shape, -1)
    sketches[blocks, places] = np.array(rows["gradient_sketch"].tolist(), dtype=float)
    norms[blocks, places] = rows["gradient_norm"].to_numpy(dtype=float)
    bits[blocks, places] = pd.factorize(rows["gradient_digest"])[0]  # -1 where there is none
    out = np.full((len(names), len(names)), math.nan)
    for i in range(len(names)):
        for j in range(i, len(names)):
            apart = np.linalg.norm(sketches[:, i] - sketches[:, j], axis=1)
            size = 0.5 * (norms[:, i] + norms[:, j])
            relative = np.where(apart == 0.0, 0.0, apart / np.where(size > 0.0, size, 1.0))
            relative[(bits[:, i] == bits[:, j]) & (bits[:, i] >= 0)] = 0.0
            out[i, j] = out[j, i] = median(relative)
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
        Images hold ``log10`` of the differences, no less than that of ``MIN_DIFFERENCE``; ``=`` stands where the bits
        agree.
    """
    matrices = {task: table.iloc[:MAX_METHODS, :MAX_METHODS] for task, table in matrices_of(frame).items()}
    with style.applied():
        if not matrices:
            return style.nothing_to_draw(columns, "gradients of two methods in one block")
        largest = max(len(table) for table in matrices.values())
        per_row = 2 if columns == 2 and len(matrices) > 1 and largest <= MAX_METHODS // 2 else 1
        # what names and scale leave of the width, in inches
        widest = 1.45 if columns == 1 else 1.9 if per_row == 2 else 5.0
        side = min(0.21 * largest, widest) + 1.2
        alone = len(matrices) == 1 and side < style.COLUMN_INCHES[1]  # one small matrix would float in a wide figure
        figure, grid = style.grid(-(-len(matrices) // per_row), per_row, 1 if alone else columns, height=side)
        axes = [axis for row in grid for axis in row]
        logs = {task: np.log10(table.to_numpy(dtype=float).clip(MIN_DIFFERENCE)) for task, table in matrices.items()}
        apart = np.concatenate([values[matrices[task].to_numpy() > 0] for task, values in logs.items()])
        low, high = (float(apart.min()), float(apart.max())) if apart.size else (-16.0, 0.0)
        for axis, (task, table) in zip(axes, matrices.items(), strict=False):
            written = widest / len(table) > MIN_CELL_INCHES
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
