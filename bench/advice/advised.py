"""Advice on a user's model: the comparison and the diagnosis joined into a few lines and one figure."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from odegrad.advice.candidates import REFUSED, UNMEASURED
from odegrad.advice.comparison import COMPARISON_COLUMNS, Comparison, compare_gradients
from odegrad.advice.examine import Examination, write_figure
from odegrad.diagnosis.prediction import diagnose
from odegrad.diagnosis.verdict import of_the_dynamics
from odegrad.processes.guarded import guarded
from odegrad.processes.link import Listener
from odegrad.reference.allowance import Tell, in_silence
from odegrad.reports.equal_error import pareto_front
from odegrad.reports.figures.comparison import draw
from odegrad.user.models import load_model

OF_COMPARISON = 0.6
"""The share of the budget that the comparison may take; the diagnosis has what is left."""


@dataclass(frozen=True)
class ModelAdvice:
    """What there is to say of a model."""

    table: Comparison
    """Of every method."""
    dynamics: tuple[str, ...]
    """What the dynamics are like, in sentences."""
    notes: tuple[str, ...]
    """What there was no time for, or is not known."""

    def front(self) -> pd.DataFrame:
        """Return the rows of the accurate methods that no other accurate one beats in time and memory both."""
        good = self.table[[str(v).startswith("accurate") for v in self.table["verdict"]]]
        good = pd.DataFrame(good).dropna(subset=["forward_seconds", "backward_seconds", "peak_bytes"])
        seconds = (good["forward_seconds"] + good["backward_seconds"]).astype(float)
        kept = good[pareto_front(seconds, good["peak_bytes"].astype(float))]
        return kept.loc[seconds[kept.index].sort_values().index]

    def shown(self) -> list[dict[str, str]]:
        """Return the rows of ``front`` as a terminal shows them."""
        front = Comparison(self.front())
        return [{key: row[key] for key in ADVISED} for row in front.printed()]

    def sentences(self) -> list[str]:
        """Return what to take and why, what the dynamics are like, which methods are not accurate, and the notes."""
        wrong = [
            str(name)
            for name, verdict in zip(self.table["gradient"], self.table["verdict"], strict=True)
            if not str(verdict).startswith(("accurate", REFUSED, UNMEASURED))
        ]
        said = [self.table.advice, *self.dynamics]
        if wrong:
            said.append(f"Not accurate here: {', '.join(wrong)}; odegrad compare says why.")
        # both the comparison and the diagnosis tell what sets the steps
        return list(dict.fromkeys([*said, *self.notes]))


ADVISED = ("gradient", "error", "NFE", "saved / peak", "forward / backward")
"""Columns of ``Comparison.printed`` that the advice shows."""


def advise_users(
    model: str, settings: dict[str, Any], figure: Path | None, timeout: float | None, tell: Tell = in_silence
) -> ModelAdvice:
    """Return the advice on the model in ``my_model.py:build``, after its figure has been drawn.

    Parameters
    ----------
    model
        File and function.
    settings
        ``rtol``, ``atol``, ``rounds``, ``budget`` (seconds, or None for as long as it takes).
    figure
        The file of the figure; None: none is drawn.
    timeout
        Seconds that it may take; None: no limit.
    tell
        Takes a line on each stage.

    Raises
    ------
    UsageError
        If the model or a setting cannot be used, or the file ends the process that loads it.
    """
    path = None if figure is None else str(figure.absolute())
    found = guarded(f"{__name__}:advised", model, settings, path, what=model, timeout=timeout, tell=tell)
    table = Comparison(found["rows"], columns=list(COMPARISON_COLUMNS))
    table.advice, table.notes = found["advice"], []
    return ModelAdvice(table, tuple(found["dynamics"]), tuple(found["notes"]))


def advised(model: str, settings: dict[str, Any], figure: str | None, progress: Listener) -> dict[str, object]:
    """Return comparison and diagnosis of a user's model as plain data; called in a measuring process."""

    def tell(line: str) -> None:
        progress({"line": line})

    rtol, atol, budget = settings["rtol"], settings["atol"], settings["budget"]
    built = load_model(model)
    shares = (None, None) if budget is None else (OF_COMPARISON * budget, (1.0 - OF_COMPARISON) * budget)
    table = compare_gradients(
        built.field, built.y0, built.ts, loss=built.loss,
        rtol=rtol, atol=atol, rounds=settings["rounds"], budget=shares[0], tell=tell,
    )  # fmt: skip
    accurate = [n for n, v in zip(table["gradient"], table["verdict"], strict=True) if str(v).startswith("accurate")]
    # One method is enough: the dynamics are what is asked here, and the comparison has held the methods already.
    chosen = [name for name in accurate[:1] if "," not in name] or ["naive"]
    found = diagnose(
        model, built.in_float64(),
        rtol=rtol, atol=atol, methods=chosen, with_bounds=False, budget=shares[1], tell=tell,
    )  # fmt: skip
    if figure is not None:
        write_figure(draw(pd.DataFrame(table), growth=Examination(found, None).times()), Path(figure))
    return {
        "rows": json.loads(table.to_json(orient="records", double_precision=15)),
        "advice": table.advice,
        "dynamics": of_the_dynamics(found),
        "notes": [*table.notes, *found.notes],
    }
