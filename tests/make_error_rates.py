"""Simulate how often the reports' verdicts are wrong, and write it into ``docs/reading-numbers.md``."""

from pathlib import Path

import numpy as np

from odegrad.reports.page.findings import not_beaten
from odegrad.reports.papers.decision import Answer, SeedCounts, decide_tasks

PAGE = Path(__file__).parents[1] / "docs" / "reading-numbers.md"
BEGIN, END = "<!-- simulated by tests/make_error_rates.py -->", "<!-- end -->"
SAMPLES = 20_000
EFFECTS = {
    "normal": lambda rng, shape: rng.normal(size=shape),
    "Cauchy": lambda rng, shape: rng.standard_cauchy(shape),
    "three values": lambda rng, shape: rng.integers(-1, 2, shape).astype(float),
    "mostly ties": lambda rng, shape: np.where(rng.random(shape) < 0.6, 0.0, rng.normal(size=shape)),
}
"""Effects without a side: their median is the margin, 0. Calls are of few values and tie; times have heavy tails."""
SEEDS, TASKS, METHODS = (3, 6, 8, 15), (1, 3), (2, 3, 7)
SHIFT, BAND = 1.5, 2.0
"""The effect that is there, and how far from none still counts as equal, in standard deviations of one seed."""


def answers(effects, band=None):
    """Return the answers ``[sample, task]`` to a claim that effects are below 0."""
    return decide_tasks(SeedCounts.of(effects, 0.0, True, band)).answers


def wrong(seeds, tasks, name):
    """Return how often an answer is given wrongly on some task: holds, does not hold, equal."""
    effects = EFFECTS[name](np.random.default_rng([seeds, tasks]), (SAMPLES, tasks, seeds))
    found = answers(effects)
    at_the_edge = answers(effects + BAND, (-BAND, BAND))
    return [
        float((which == answer).any(axis=1).mean())
        for which, answer in ((found, Answer.HOLDS), (found, Answer.FAILS), (at_the_edge, Answer.EQUAL))
    ]


def right(seeds, tasks):
    """Return how often normal effects of ``-SHIFT`` hold on every task, and none at all is equal within ``BAND``."""
    effects = EFFECTS["normal"](np.random.default_rng([seeds, tasks, 1]), (SAMPLES, tasks, seeds))
    there, none = answers(effects - SHIFT), answers(effects, (-BAND, BAND))
    return [float((there == Answer.HOLDS).all(axis=1).mean()), float((none == Answer.EQUAL).all(axis=1).mean())]


def named_best(seeds, methods, tied, name):
    """Return how often one of ``tied`` equal methods is named best, the others being far worse."""
    costs = EFFECTS[name](np.random.default_rng([seeds, methods, tied]), (SAMPLES // 4, methods, seeds))
    costs[:, tied:] += 1e9
    return float((not_beaten(costs).sum(axis=1) == 1).mean())


def table():
    """Return the rates as Markdown."""
    lines = [
        "| Seeds | Tasks | *holds*, no effect | *does not hold*, no effect | *equal*, at its edge | *holds*, 1.5 sd | "
        "*equal*, no effect |",
        "|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for tasks in TASKS:
        for seeds in SEEDS:
            worst = np.max([wrong(seeds, tasks, name) for name in EFFECTS], axis=0)
            rates = " | ".join(f"{100 * rate:.1f} %" for rate in (*worst, *right(seeds, tasks)))
            lines.append(f"| {seeds} | {tasks} | {rates} |")
    return "\n".join(lines)


def page(text):
    """Return the page with the table in its place."""
    before, rest = text.split(BEGIN)
    return f"{before}{BEGIN}\n{table()}\n{END}{rest.split(END)[1]}"


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
