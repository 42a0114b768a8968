"""One style for every figure: sizes, fonts, and for each method one colour and one marker, the same everywhere.

Colours are those of Okabe and Ito (2008), distinct to colour-blind readers, without their yellow, which is too faint on
white. Methods of one family have its colour; a method differs from its neighbours in marker too, so that a figure can
be read in grey.
"""

import hashlib
import io
import itertools
import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.axis import Axis, XAxis
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, get_font
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from odegrad.catalogue import METHODS, OPTIMIZERS, PEERS, Entry
from odegrad.reports.names import short

BLACK, ORANGE, SKY, GREEN, BLUE, RED, PINK, GREY = (
    "#000000", "#E69F00", "#56B4E9", "#009E73", "#0072B2", "#D55E00", "#CC79A7", "#6E6E6E",
)  # fmt: skip
UNKNOWN_COLOURS = (ORANGE, SKY, GREEN, BLUE, RED, PINK, GREY)
UNKNOWN_MARKERS = ("P", "X", "p", "h", "8", "*")

COLUMN_INCHES = {1: 3.5, 2: 7.2}
"""Width of a figure that spans one or two columns of a page."""

LONGEST_NAME = 28
_MIN_RATIO = 8.0
"""A logarithmic axis spans at least this, so that two labelled ticks lie on it."""
FONT = "DejaVu Sans"
"""Comes with matplotlib, so figures look the same on every machine."""

_SETTINGS: Any = {
    "font.family": [FONT],
    "font.size": 8.0,
    "axes.titlesize": 9.0,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#DDDDDD",
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.6,
    "legend.frameon": False,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "savefig.dpi": 150,
    "pdf.fonttype": 42,  # fonts embedded as TrueType, which publishers ask for
    "ps.fonttype": 42,
    "svg.fonttype": "none",  # text stays text: it can be searched and read aloud
    "svg.hashsalt": "odegrad",  # the same figure is the same file
}


@dataclass(frozen=True)
class Look:
    """How a method is drawn; ``hollow`` and dashed marks another library's solver."""

    colour: str
    marker: str
    hollow: bool = False


MARKERS = "os^vD<>"
"""Markers that known methods are drawn with; unknown ones have others."""

FAMILIES = {
    "naive": (BLACK, "o"),
    "adjoint": (RED, "sD"),
    "replay": (BLUE, "^vDs"),
    "discrete adjoint": (SKY, "s"),
    "reversible": (PINK, "vo"),
    "interpolation": (GREEN, "Dos"),
    "forward": (ORANGE, "^"),
    "pair": (PINK, "D"),
    "torchdiffeq": (GREY, "osD"),
    "torchode": (BLUE, "^v<"),
    "TorchDiffEqPack": (GREEN, "os"),
    "torchdyn": (RED, "^vD"),
    "xitorch": (SKY, "o"),
    "diffrax": (PINK, "sD"),
    "adaptive rates": (BLUE, "o<>"),
    "gradient descent": (ORANGE, "s"),
    "curvature": (PINK, "D"),  # a pair and its optimizer have one name, and one look
}
"""Colour of a family, and the markers of its members in their order; later ones take the rest of ``MARKERS``.

Neighbours in the catalogue differ in marker, across families too.
"""


def _looks(entries: Sequence[Entry]) -> dict[str, Look]:
    """Return the look of each entry: its family's colour, the marker of its place in the family, hollow for peers."""
    found: dict[str, Look] = {}
    for family, (colour, first) in FAMILIES.items():
        members = [entry.name for entry in entries if entry.family == family]
        markers = itertools.cycle(dict.fromkeys(first + MARKERS))
        found |= {name: Look(colour, marker, family in PEERS) for name, marker in zip(members, markers, strict=False)}
    return found


_LOOKS = _looks([*METHODS, *OPTIMIZERS])


_DASHES = ("-", (0, (4, 2)), (0, (1, 1.5)), (0, (5, 1.5, 1, 1.5)))


def look(method: str) -> Look:
    """Return how a method (or an optimizer) is drawn: fixed for known names, for others from a hash of the name."""
    if method in _LOOKS:
        return _LOOKS[method]
    number = int.from_bytes(hashlib.sha256(method.encode()).digest()[:8], "big")
    rest, colour = divmod(number, len(UNKNOWN_COLOURS))
    return Look(UNKNOWN_COLOURS[colour], UNKNOWN_MARKERS[rest % len(UNKNOWN_MARKERS)])


def line_style(method: str, variant: int = 0) -> dict[str, Any]:
    """Return matplotlib's keywords for a line of ``method`` with its markers; variants differ in their dashes."""
    drawn = look(method)
    return {
        "color": drawn.colour,
        "marker": drawn.marker,
        "markerfacecolor": "none" if drawn.hollow else drawn.colour,
        "markersize": 7.5 if drawn.hollow else 5.5,  # around the filled marker of the same result, not over it
        "linestyle": _DASHES[(variant + drawn.hollow) % len(_DASHES)],
    }


def applied() -> AbstractContextManager[None]:
    """Return a context in which figures are made and saved in this style; matplotlib's own settings come back after."""
    return mpl.rc_context(_SETTINGS)


class DrawnFigure(Figure):
    """A figure that a notebook shows as it would be saved, without a backend that has to be chosen first."""

    def _repr_png_(self) -> bytes:
        stream = io.BytesIO()
        with applied():
            self.savefig(stream, format="png")
        return stream.getvalue()


def grid(rows: int, panels: int, columns: int, height: float) -> tuple[Figure, list[list[Axes]]]:
    """Return a figure with ``rows`` x ``panels`` axes, each row ``height`` inches high; one column wide, panels stack.

    The axes come as ``[row][panel]`` either way.
    """
    stacked = columns == 1
    shape = (rows * panels, 1) if stacked else (rows, panels)
    figure = DrawnFigure(figsize=(COLUMN_INCHES[columns], height * shape[0] + 0.7), layout="constrained")
    flat = list(figure.subplots(*shape, squeeze=False).flat)
    return figure, [flat[i * panels : (i + 1) * panels] for i in range(rows)]


def nothing_to_draw(columns: int, what: str) -> Figure:
    """Return a figure that says that no run measured ``what``."""
    figure = DrawnFigure(figsize=(COLUMN_INCHES[columns], 1.0), layout="constrained")
    figure.text(0.5, 0.5, f"No finished run measured {what}.", ha="center", va="center")
    return figure


def legend(figure: Figure, methods: Sequence[tuple[str, str]], columns: int) -> None:
    """Draw one legend of ``(method, variant)`` beneath all panels, in the order given."""
    seen: dict[str, int] = {}
    handles, labels = [], []
    for method, variant in methods:
        seen[method] = seen.get(method, -1) + 1
        handles.append(Line2D([], [], **line_style(method, seen[method])))
        labels.append(drawable(f"{short(method)} ({variant})" if variant else short(method)))
    figure.legend(handles, labels, loc="outside lower center", ncols=2 if columns == 1 else 4, handlelength=3.2)


def log_axis(axis: Axis, values: pd.Series, name: str, tick: Callable[[float], str]) -> None:
    """Make ``axis`` logarithmic around ``values`` with at least two ticks, written by ``tick``, and name it."""
    low, high = float(values.min()), float(values.max())
    margin = max(1.4, (high / low) ** 0.06, math.sqrt(_MIN_RATIO * low / high))
    if isinstance(axis, XAxis):  # limits first: a logarithmic scale cannot find any around values that are all equal
        axis.axes.set(xlim=(low / margin, high * margin), xscale="log", xlabel=name)
    else:
        axis.axes.set(ylim=(low / margin, high * margin), yscale="log", ylabel=name)
    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if high / low < 100.0 else (1.0,), numticks=12))
    axis.set_major_formatter(FuncFormatter(lambda value, _place: tick(value)))
    axis.set_minor_locator(NullLocator())  # dozens of ticks a panel take longer to draw than all else in it


def drawable(text: str) -> str:
    """Return ``text`` for a figure: no mathematics, no glyph the font lacks, no leading underscore, not too long."""
    font = get_font(findfont(FontProperties(family=FONT)))
    known = "".join(c if font.get_char_index(ord(c)) else "?" for c in " ".join(text.split()))
    if len(known) > LONGEST_NAME:
        known = f"{known[: LONGEST_NAME // 2]}…{known[-LONGEST_NAME // 2 + 1 :]}"
    visible = f" {known}" if known.startswith("_") else known  # matplotlib hides labels that begin with one
    return visible.replace("$", r"\$")


def tasks(table: pd.DataFrame) -> list[str]:
    """Return the tasks of a table in their order."""
    return list(dict.fromkeys(table["task"].astype(str)))
