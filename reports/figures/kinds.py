"""Every kind of figure by name, and writing all of them."""

import io
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from odegrad.reports.figures import costs, log_norm, style, training, work_precision

FORMATS = ("svg", "pdf", "png")
_METADATA = {"png": {"Software": None}, "pdf": {"CreationDate": None}, "svg": {"Date": None}}
"""No dates: the same records give the same files."""


@dataclass(frozen=True)
class Kind:
    """One kind of figure."""

    name: str
    title: str
    draw: Callable[[pd.DataFrame, int], Figure]
    """``(frame, columns) -> Figure``."""
    describe: Callable[[pd.DataFrame], str]
    """``frame -> alt text``, from the same data."""


KINDS = (
    Kind("training", training.TITLE, training.draw, training.describe),
    *(
        Kind(
            name,
            work_precision.TITLES[error],
            partial(work_precision.draw, error=error),
            partial(work_precision.describe, error=error),
        )
        for name, error in (
            ("work_precision", "gradient_relative_error"),
            ("work_precision_trained", "trained_gradient_relative_error"),
            ("method_error", "gradient_method_error"),
        )
    ),
    Kind("log_norm", log_norm.TITLE, log_norm.draw, log_norm.describe),
    Kind("costs", costs.TITLE, costs.draw, costs.describe),
)


def render(figure: Figure, format_name: str) -> bytes:
    """Return ``figure`` as a file of that format (``png``, ``pdf``, ``svg``); fonts are embedded or stay text."""
    stream = io.BytesIO()
    with style.applied():
        engine = figure.get_layout_engine()
        if (
            engine is not None and figure.axes
        ):  # lay out once: the search for it is most of the time of a figure with many panels
            engine.execute(figure)
            figure.set_layout_engine("none")
        figure.savefig(stream, format=format_name, metadata=_METADATA[format_name])
    return stream.getvalue()


def write_figures(frame: pd.DataFrame, folder: Path, columns: int = 2) -> list[Path]:
    """Write every kind of figure as PNG, PDF and SVG into ``folder``, which is made; return the files.

    Raises
    ------
    OSError
        If the folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for kind in KINDS:
        figure = kind.draw(frame, columns)
        for format_name in FORMATS:
            path = folder / f"{kind.name}.{format_name}"
            path.write_bytes(render(figure, format_name))
            written.append(path)
    return written
