"""Every kind of figure by name, and writing all of them."""

import io
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from matplotlib.figure import Figure

from odegrad.reports.figures import (
    costs,
    differences,
    integration_time,
    log_norm,
    style,
    targets,
    training,
    work_precision,
)
from odegrad.reports.figures.panels import MOST_TASKS
from odegrad.reports.summary import Results, Source

FORMATS = ("svg", "pdf", "png")
_METADATA = {"png": {"Software": None}, "pdf": {"CreationDate": None}, "svg": {"Date": None}}
"""No dates: the same records give the same files."""


@dataclass(frozen=True)
class Kind:
    """One kind of figure."""

    name: str
    title: str
    draw: Callable[..., Figure]
    """``(frame, columns) -> Figure``."""
    describe: Callable[[Results], str]
    """``frame -> alt text``, from the same data."""
    split: bool = True
    """Whether tasks beyond ``MOST_TASKS`` go to further files; a figure over all tasks is one."""


KINDS = (
    *(
        Kind(
            name,
            training.TITLES[against],
            partial(training.draw, against=against),
            partial(training.describe, against=against),
        )
        for name, against in (("training", "seconds"), ("training_iterations", "iterations"), ("training_nfe", "nfe"))
    ),
    Kind("optimizers", training.OPTIMIZERS_TITLE, training.draw_optimizers, training.describe_optimizers),
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
    Kind("gradient_differences", differences.TITLE, differences.draw, differences.describe),
    Kind("log_norm", log_norm.TITLE, log_norm.draw, log_norm.describe),
    Kind("time_to_target", targets.TITLE, targets.draw, targets.describe),
    Kind("performance_profiles", targets.PROFILES_TITLE, targets.draw_profiles, targets.describe_profiles, split=False),
    Kind("integration_time", integration_time.TITLE, integration_time.draw, integration_time.describe),
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


@dataclass(frozen=True)
class Drawn:
    """A figure, or its part where the tasks are many, as the contents of files."""

    kind: Kind
    name: str
    """Of the files, without their endings."""
    results: Results
    """What it shows."""
    files: Mapping[str, bytes]
    """Format -> content; empty where there is nothing to draw."""
    why_not: str = ""
    """Where nothing is drawn, why."""


def drawn(kind: Kind, frame: Source, formats: Sequence[str] = FORMATS, columns: int = 2) -> Iterator[Drawn]:
    """Draw one kind of figure, each figure once for all formats; yield its parts of ``MOST_TASKS`` tasks."""
    results = Results.of(frame)
    tasks = style.tasks(results.table)
    step = MOST_TASKS if kind.split else len(tasks) + 1
    for number, start in enumerate(range(0, max(len(tasks), 1), step)):
        few = len(tasks) <= MOST_TASKS or not kind.split
        part = results if few else results.of_tasks(tasks[start : start + MOST_TASKS])
        figure = kind.draw(part, columns)
        name = f"{kind.name}_{number + 1}" if number else kind.name
        if not figure.axes:
            yield Drawn(kind, name, part, {}, " ".join(text.get_text() for text in figure.texts))
        else:
            yield Drawn(kind, name, part, {format_name: render(figure, format_name) for format_name in formats})


def write_figures(frame: Source, folder: Path, columns: int = 2) -> tuple[list[Path], list[Drawn]]:
    """Write every kind of figure that has something to draw as PNG, PDF and SVG into ``folder``, which is made.

    Returns
    -------
    list of pathlib.Path, list of Drawn
        The files, and what was drawn, so that a page need not draw it again. Files of an earlier report that are not
        written again are removed.

    Raises
    ------
    OSError
        If the folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    results = Results.of(frame)
    written, every = [], []
    for kind in KINDS:
        for old in folder.glob(f"{kind.name}*"):
            if re.fullmatch(rf"{kind.name}(_\d+)?\.({'|'.join(FORMATS)})", old.name):
                old.unlink()
        for each in drawn(kind, results, columns=columns):
            every.append(each)
            for format_name, content in each.files.items():
                path = folder / f"{each.name}.{format_name}"
                path.write_bytes(content)
                written.append(path)
    return written, every
