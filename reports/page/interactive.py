"""Small interactive figures of the page: a switch for each method, numbers under the pointer, the page still one file.

They are Vega-Lite, drawn in the reader's browser by the bundle that ``vl-convert-python`` carries (extra
``interactive``), about 0.9 MB of script inside of the page. Without that package the page has its other figures alone,
which stand beside these anyway, and are those for papers.
"""

import importlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import pandas as pd

from odegrad.reports import units
from odegrad.reports.canvas import style
from odegrad.reports.figures import training, work_precision
from odegrad.reports.names import short, sort_key
from odegrad.reports.summary import Results, Source, rows_of, summary
from odegrad.reports.tables.table import label

MAX_POINTS = 20_000
"""Of one interactive figure; a browser draws more only slowly, and the page would grow by megabytes."""
HEIGHT = 280
"""Of a figure, in pixels; its width is that of the page."""
SHAPES = {"o": "circle", "s": "square", "D": "diamond", "^": "triangle-up", "v": "triangle-down",
          "<": "triangle-left", ">": "triangle-right"}  # fmt: skip
"""Markers of the printed figures -> those of Vega."""
_CHOSEN = "datum.task === task"


@dataclass(frozen=True)
class InteractiveFigure:
    """One interactive figure."""

    name: str
    title: str
    reads: str
    spec: Mapping[str, Any]
    """Vega-Lite, with its data."""

    @property
    def json(self) -> str:
        """Return ``spec`` as JSON that may stand inside of a script: no name in it can end that."""
        return json.dumps(self.spec, allow_nan=False).replace("<", "\\u003c")


@cache
def script() -> str:
    """Return the script that draws them, with all that it needs; empty where ``vl-convert-python`` is missing."""
    try:
        bundled = importlib.import_module("vl_convert").javascript_bundle()
    except ImportError:
        return ""
    return str(bundled).replace("</script", "<\\/script")


def interactive_figures(source: Source) -> list[InteractiveFigure]:
    """Return the figures that have something to show; none without their script."""
    if not script():
        return []
    results = Results.of(source)
    made = (_work_precision(results), _training(results))
    return [each for each in made if each is not None and len(each.spec["data"]["values"]) <= MAX_POINTS]


def _work_precision(results: Results) -> InteractiveFigure | None:
    table = summary(results)
    table = table.assign(
        seconds=table["forward_seconds"] + table["backward_seconds"],
        nfe=table["nfe_forward"] + table["nfe_backward"],
        error=table["gradient_relative_error"],
    )
    table = table[(table["error"] >= 0) & (table["error"] < math.inf)]
    if table.empty:
        return None
    bottom = {task: work_precision.floor(rows["error"]) for task, rows in table.groupby("task")}
    values = [
        {
            "task": str(row.task), "method": str(row.method), "label": label(row),
            "height": float(row.error) or bottom[row.task], "error": units.error(row.error),
            **{name: _plain(getattr(row, name)) for name in ("seconds", "nfe", "peak_bytes")},
            "time": units.seconds(row.seconds), "calls": units.count(row.nfe), "memory": units.memory(row.peak_bytes),
        }
        for row in rows_of(table)
    ]  # fmt: skip
    against = {"seconds": "time (s)", "nfe": "f calls", "peak_bytes": "peak bytes"}
    shown = {"label": "method", "error": "gradient error", "time": "time", "calls": "f calls", "memory": "peak"}
    spec = _spec(values, against)
    spec["transform"] += [{"calculate": "datum[against]", "as": "x"}, {"filter": "isValid(datum.x) && datum.x > 0"}]
    spec["mark"] = {"type": "point", "filled": True, "size": 110, "opacity": 0.9}
    spec["encoding"] |= {
        "x": {"field": "x", "type": "quantitative", "title": None, "axis": {"format": "~s"},
              "scale": {"type": "log", "nice": False, "padding": 12}},
        "y": {"field": "height", "type": "quantitative", "scale": {"type": "log"}, "title": "gradient error",
              "axis": {"format": ".0e"}},
        "tooltip": _tooltip(shown),
    }  # fmt: skip
    return InteractiveFigure(
        "interactive-work-precision",
        "Gradient error against its cost, to explore",
        "A point a method, medians over seeds at the initial parameters: lower and further left is better.",
        spec,
    )


def _training(results: Results) -> InteractiveFigure | None:
    across = {name: training.traces(results, name) for name in training.AXES}
    values = []
    keys = ["task", "method", "variant"]
    groups = {name: dict(list(frame.groupby(keys, sort=False))) for name, frame in across.items()}
    for key, runs in groups["iterations"].items():
        medians = {name: _median(of_axis[key]) for name, of_axis in groups.items()}
        named = label(next(rows_of(runs)))
        # The untrained start is left out, or it would flatten all that comes after it.
        for place in range(1, min(each.shape[1] for each in medians.values())):
            metric = float(medians["iterations"][1, place])
            at = {name: float(each[0, place]) for name, each in medians.items()}
            if all(map(math.isfinite, (metric, *at.values()))):
                told = {"value": units.metric(metric), "after": units.seconds(at["seconds"])}
                values.append({"task": key[0], "method": key[1], "label": named, "metric": metric, **at, **told})
    if not values:
        return None
    against = {name: axis.name for name, axis in training.AXES.items()}
    shown = {
        "label": "method",
        "value": "metric",
        "after": "time",
        "iterations": "iteration",
        "nfe": "f calls",
    }
    spec = _spec(values, against)
    spec["transform"] += [{"calculate": "datum[against]", "as": "x"}]
    spec["mark"] = {"type": "line", "point": {"filled": True, "size": 50}, "strokeWidth": 1.5}
    spec["encoding"] |= {
        "x": {"field": "x", "type": "quantitative", "title": None},
        "y": {"field": "metric", "type": "quantitative", "scale": {"zero": False}, "title": "metric"},
        "detail": {"field": "label"},
        "tooltip": _tooltip(shown),
    }
    return InteractiveFigure(
        "interactive-training",
        "Metric during training, to explore",
        "A line a method, medians over seeds; the untrained start is left out.",
        spec,
    )


def _median(runs: pd.DataFrame) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Return the median over seeds of places and metric, ``[2, evaluations]``."""
    seeds = [training.points(places, metric) for places, metric in zip(runs["x"], runs["trace_metric"], strict=True)]
    return training.quantile(seeds, 0.5)


def _spec(values: Sequence[Mapping[str, object]], against: Mapping[str, str]) -> dict[str, Any]:
    """Return what all have: data, a choice of task and axis, a switch for each method, its colour and shape."""
    tasks = list(dict.fromkeys(str(value["task"]) for value in values))
    methods = sorted({str(value["method"]) for value in values}, key=sort_key)
    looks = [style.look(method) for method in methods]
    numbered = [{**value, "number": methods.index(str(value["method"]))} for value in values]
    switches = [
        {"name": f"show{i}", "value": True, "bind": {"input": "checkbox", "name": f"{short(method)} "}}
        for i, method in enumerate(methods)
    ]
    return {
        "width": "container",
        "height": HEIGHT,
        "background": "#ffffff",
        "data": {"values": numbered},
        "params": [
            {"name": "task", "value": tasks[0], "bind": {"input": "select", "options": tasks, "name": "task "}},
            {
                "name": "against",
                "value": next(iter(against)),
                "bind": {
                    "input": "select", "options": list(against), "labels": list(against.values()), "name": "against "
                },
            },
            *switches,
        ],
        "transform": [
            {"filter": _CHOSEN},
            {"filter": " || ".join(f"(datum.number === {i} && show{i})" for i in range(len(methods)))},
        ],
        "encoding": {
            "color": {
                "field": "method", "type": "nominal", "title": None,
                "scale": {"domain": methods, "range": [look.colour for look in looks]},
                "legend": {"orient": "bottom", "columns": 3},
            },
            "shape": {
                "field": "method", "type": "nominal", "title": None,
                "scale": {"domain": methods, "range": [SHAPES.get(look.marker, "circle") for look in looks]},
            },
        },
    }  # fmt: skip


def _tooltip(shown: Mapping[str, str]) -> list[dict[str, str]]:
    return [{"field": field, "title": title} for field, title in shown.items()]


def _plain(value: Any) -> float | None:
    return None if pd.isna(value) or not math.isfinite(value) else float(value)
