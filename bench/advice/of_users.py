"""Comparison and examination of what users bring: made in a measuring process, and told as plain data."""

import json
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from odegrad.advice.comparison import COMPARISON_COLUMNS, Comparison, compare_gradients
from odegrad.advice.examine import examine, write_figure
from odegrad.processes.guarded import guarded
from odegrad.processes.link import Listener
from odegrad.records.replacing import replacing
from odegrad.reference.allowance import Tell, in_silence
from odegrad.registry import is_foreign, others_offer
from odegrad.user.models import load_model


def compare_users(
    model: str, settings: dict[str, object], timeout: float | None, tell: Tell = in_silence
) -> Comparison:
    """Return the comparison on the model in ``my_model.py:build``.

    Parameters
    ----------
    model
        File and function.
    settings
        Of ``compare_gradients``: ``method``, ``rtol``, ``atol``, ``rounds``, ``gradients``, ``budget``.
    timeout
        Seconds that it may take; None: no limit.
    tell
        As ``compare_gradients`` takes it.

    Raises
    ------
    UsageError
        If the model or a setting cannot be used, or the file ends the process that loads it.
    """
    found = guarded(f"{__name__}:compared", model, settings, what=model, timeout=timeout, tell=tell)
    table = Comparison(found["rows"], columns=list(COMPARISON_COLUMNS))
    table.advice, table.notes = found["advice"], found["notes"]
    return table


def compared(model: str, settings: dict[str, Any], progress: Listener) -> dict[str, object]:
    """Return rows and advice of the comparison on a user's model; called in a measuring process."""
    built = load_model(model)
    table = compare_gradients(built.field, built.y0, built.ts, loss=built.loss, tell=_lines(progress), **settings)
    rows = json.loads(table.to_json(orient="records", double_precision=15))
    return {"rows": rows, "advice": table.advice, "notes": table.notes}


def _lines(progress: Listener) -> Tell:
    """Return what tells a line by a measuring process's progress."""
    return lambda line: progress({"line": line})


def examined(
    name: str, settings: dict[str, Any], figure: str | None, timeout: float | None, tell: Tell = in_silence
) -> dict[str, Any]:
    """Return everything that ``odegrad diagnose NAME`` tells, as plain data, after its figure has been drawn.

    Parameters
    ----------
    name
        A task, ``file.py:Task`` or ``file.py:function``.
    settings
        Of ``examine``.
    figure
        The file of the figure; None: none is drawn.
    timeout
        Seconds that code of a user's own may take; None: no limit.
    tell
        Takes a line on each stage.

    Returns
    -------
    dict
        ``plain``: for JSON; ``tables``: titles and rows; ``sentences``.

    Raises
    ------
    UsageError
        If ``name`` or a setting cannot be used, or a user's file ends the process that loads it.
    """
    chosen = settings["methods"]
    if is_foreign(name, *(chosen or ())) or (chosen is None and others_offer("methods")):
        found: dict[str, object] = guarded(
            f"{__name__}:told", name, settings, figure, what=name, timeout=timeout, tell=tell
        )
        return found
    return told(name, settings, figure, lambda message: tell(message["line"]))


def told(name: str, settings: dict[str, Any], figure: str | None, progress: Listener) -> dict[str, object]:
    """Return an examination as plain data, and draw its figure; in a measuring process where code is a user's own."""
    found = examine(name, tell=_lines(progress), **settings)
    if figure is not None:
        write_figure(found.figure(), Path(figure))
    tables = [[title, rows] for title, rows in found.tables()]
    return {"plain": found.to_dict(), "tables": tables, "sentences": found.sentences()}


def write_plain(figure: Figure, path: Path) -> None:
    """Write a figure as it was drawn."""
    with replacing(path) as part:
        figure.savefig(part)
