"""From kinds of figures to the contents of files, on several cores, and writing all of them."""

import io
import os
import pickle
import re
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import joblib
from matplotlib.figure import Figure

from odegrad.records.replacing import replace_file
from odegrad.records.temporary import temporary_folder
from odegrad.reports.canvas import style
from odegrad.reports.canvas.panels import FEW_TASKS, MAX_TASKS
from odegrad.reports.figures.kinds import FIGURE_KINDS, FigureKind
from odegrad.reports.summary import Results, Source

FORMATS = ("svg", "pdf", "png")
_METADATA = {"png": {"Software": None}, "pdf": {"CreationDate": None}, "svg": {"Date": None}}
"""No dates: the same records give the same files."""

PARENT_SECONDS = 0.5
"""How often a process that draws looks whether its parent is there."""


@dataclass(frozen=True)
class Drawn:
    """A figure, or its part where the tasks are many, as the contents of files."""

    kind: str
    """Name of its kind."""
    title: str
    name: str
    """Of the files, without their endings."""
    tasks: tuple[str, ...]
    """What it shows."""
    files: Mapping[str, bytes]
    """Format -> content; empty where there is nothing to draw."""
    narrow: bytes = b""
    """The same as SVG for one column, where the tasks are few."""
    alt: str = ""
    """Text for who does not see it."""
    why_not: str = ""
    """Where nothing is drawn, why."""
    reads: str = ""
    """What lines, points and marks are."""


@dataclass(frozen=True)
class _Part:
    """One figure to draw: a kind, and which of the tasks."""

    kind: FigureKind
    number: int
    tasks: tuple[str, ...]
    every: bool
    """Whether these are all tasks there are."""


def render(figure: Figure, format_name: str) -> bytes:
    """Return ``figure`` as a file of that format (``png``, ``pdf``, ``svg``); fonts are embedded or stay text."""
    stream = io.BytesIO()
    with style.applied():
        engine = figure.get_layout_engine()
        if (
            engine is not None and figure.axes
        ):  # lay out once: the search for it is most of the time of a figure with many panels
            engine.execute(figure)
            figure.set_layout_engine(None)  # with "none" a stand-in stays, for which matplotlib draws twice
        figure.savefig(stream, format=format_name, metadata=_METADATA[format_name])
    return stream.getvalue()


def begin_drawing(
    source: Source,
    kinds: Sequence[FigureKind] = FIGURE_KINDS,
    formats: Sequence[str] = FORMATS,
    columns: int = 2,
    processes: int | None = None,
) -> Iterator[Drawn]:
    """Begin to draw every one of ``kinds``, each figure once for all formats, in parts of ``MAX_TASKS`` tasks.

    Parameters
    ----------
    source
        Records from ``odegrad.reports.frame.load``.
    kinds
        What to draw, in this order.
    formats
        Of ``FORMATS``; with ``svg`` among them there is a narrow one too, where the tasks are few.
    columns
        1 or 2: columns of a page that a figure spans.
    processes
        How many draw at a time; by default as many as there are cores (``LOKY_MAX_CPU_COUNT`` sets fewer). Every
        figure is the same file, however many draw.

    Returns
    -------
    iterator of Drawn
        In order; several processes draw meanwhile, a single one draws each when it is asked for.
    """
    results = Results.of(source)
    parts = [part for kind in kinds for part in _parts(kind, style.tasks(results.table))]
    at_a_time = min(len(parts), processes or joblib.cpu_count())
    if at_a_time < 2:
        return (_draw(results, part, tuple(formats), columns) for part in parts)
    folder = temporary_folder()
    path = Path(folder.name) / "results.pickle"
    with path.open("wb") as file:
        pickle.dump(results.without_records(), file, pickle.HIGHEST_PROTOCOL)
    tasks = (joblib.delayed(_draw_stored)(str(path), part, tuple(formats), columns, os.getpid()) for part in parts)
    return _until_the_last(joblib.Parallel(at_a_time, batch_size=1, return_as="generator")(tasks), folder)


def _until_the_last(drawn: Iterator[Drawn], folder: tempfile.TemporaryDirectory[str]) -> Iterator[Drawn]:
    """Yield what is drawn; then remove the folder."""
    with folder:
        yield from drawn


def draw_all(source: Source, kinds: Sequence[FigureKind] = FIGURE_KINDS, **options: Any) -> list[Drawn]:
    """Draw every one of ``kinds`` and return them; ``options`` as ``begin_drawing`` takes them."""
    return list(begin_drawing(source, kinds, **options))


def _parts(kind: FigureKind, tasks: Sequence[str]) -> list[_Part]:
    """Return the figures that a kind is drawn as."""
    if len(tasks) <= MAX_TASKS or not kind.split:
        return [_Part(kind, 0, tuple(tasks), every=True)]
    starts = range(0, len(tasks), MAX_TASKS)
    return [_Part(kind, i, tuple(tasks[start : start + MAX_TASKS]), every=False) for i, start in enumerate(starts)]


@lru_cache(maxsize=1)
def _stored(path: str) -> Results:
    """Return the results that this process draws from, read once."""
    found: Results = pickle.loads(Path(path).read_bytes())  # noqa: S301  written by this program a moment ago
    return found


@cache
def _end_with(parent: int) -> None:
    """Have this process end soon after its parent, which may be killed and then collects nobody."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(PARENT_SECONDS)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _draw_stored(path: str, part: _Part, formats: tuple[str, ...], columns: int, parent: int) -> Drawn:
    _end_with(parent)
    return _draw(_stored(path), part, formats, columns)


def _draw(results: Results, part: _Part, formats: tuple[str, ...], columns: int) -> Drawn:
    """Draw one figure."""
    kind = part.kind
    shown = results if part.every else results.of_tasks(list(part.tasks))
    name = f"{kind.name}_{part.number + 1}" if part.number else kind.name
    figure = kind.draw(shown, columns)
    if not figure.axes:
        why_not = " ".join(text.get_text() for text in figure.texts)
        return Drawn(kind.name, kind.title, name, part.tasks, {}, why_not=why_not)
    files = {format_name: render(figure, format_name) for format_name in formats}
    few = "svg" in formats and len(part.tasks) <= FEW_TASKS
    narrow = render(kind.draw(shown, 1), "svg") if few else b""
    return Drawn(kind.name, kind.title, name, part.tasks, files, narrow, kind.describe(shown), reads=kind.reads)


def write_figures(drawn: Iterable[Drawn], folder: Path) -> tuple[list[Path], list[Drawn]]:
    """Write every figure that has something to draw as PNG, PDF and SVG into ``folder``, which is made.

    Parameters
    ----------
    drawn
        From ``begin_drawing`` or ``draw_all``.
    folder
        Files of an earlier report in it that are not written again are removed.

    Returns
    -------
    list of pathlib.Path, list of Drawn
        The files, and what was drawn, so that a page need not draw it again.

    Raises
    ------
    OSError
        If the folder cannot be written.
    """
    every, written = list(drawn), []
    folder.mkdir(parents=True, exist_ok=True)
    for each in every:
        for format_name, content in each.files.items():
            path = folder / f"{each.name}.{format_name}"
            replace_file(path, content)
            written.append(path)
    names = "|".join(re.escape(kind.name) for kind in FIGURE_KINDS)
    for old in folder.iterdir():
        if old not in written and re.fullmatch(rf"({names})(_\d+)?\.({'|'.join(FORMATS)})", old.name):
            old.unlink()
    return written, every
