"""The rule by which a claim is decided from seeds: exact sign tests, Holm's step-down over tasks, equality."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Self

import numpy as np
from numpy.typing import NDArray

from odegrad.reports.statistics import ERROR_RATE, MIN_VALUES, Floats, holm, least_seeds, sign_test


class Answer(StrEnum):
    """What the records say about a claim."""

    HOLDS = "holds"
    FAILS = "does not hold"
    EQUAL = "equal"
    OPEN = "not decided"
    SEEN = "seen"
    """Too few seeds to decide."""


@dataclass(frozen=True)
class SeedCounts:
    """On how many seeds of each task the effect lies where, ``[..., task]``; a tie lies on neither side."""

    seeds: NDArray[np.int64]
    favouring: NDArray[np.int64]
    """On the claim's side of the margin."""
    opposing: NDArray[np.int64]
    """On the other side of it."""
    not_less: NDArray[np.int64]
    """Above the lower end of what counts as equal."""
    not_more: NDArray[np.int64]
    """Below its upper end."""

    @classmethod
    def of(cls, effects: Floats, margin: float, below: bool, band: tuple[float, float] | None) -> Self:
        """Return the counts of ``effects [..., task, seed]``; NaN says nothing.

        ``below``: whether the claim's side is below ``margin``; ``band``: what counts as equal, None if nothing does.
        """
        low, high = band if band is not None else (np.inf, -np.inf)
        less, more = (effects < margin).sum(-1), (effects > margin).sum(-1)
        return cls(
            (~np.isnan(effects)).sum(-1),
            less if below else more,
            more if below else less,
            (effects > low).sum(-1),
            (effects < high).sum(-1),
        )


@dataclass(frozen=True)
class Decisions:
    """An answer a task and the adjusted p-value that it rests on, ``[..., task]``."""

    answers: NDArray[np.object_]
    p_values: Floats
    """Of ``does not hold`` and ``equal`` those of that test, otherwise that of ``holds``."""


def decide_tasks(counts: SeedCounts) -> Decisions:
    """Return the answers on all tasks of a claim together.

    Three one-sided questions, each asked of every task by the exact sign test and adjusted over the tasks by Holm's
    step-down: does the median effect lie on the claim's side, does it lie on the other, does it lie between the ends of
    what counts as equal (two one-sided tests; Schuirmann, 1987). What is shown to be equal is equal, whichever side it
    lies on. Each answer is given wrongly on some task with a probability of at most ``ERROR_RATE``. Where not even all
    seeds together could decide, nothing is tested.

    The sign test, since the seeds are few, costs have heavy tails and calls have ties: it assumes nothing of the
    distribution, and what it lacks in power against a signed-rank test, a claim that needs it would not bear anyway.
    """
    tasks = counts.seeds.shape[-1]
    asked = counts.seeds >= MIN_VALUES

    def adjusted(successes: NDArray[np.int64]) -> Floats:
        return holm(np.where(asked, sign_test(successes, counts.seeds), 1.0))

    holds, fails = adjusted(counts.favouring), adjusted(counts.opposing)
    equal = adjusted(np.minimum(counts.not_less, counts.not_more))  # the larger of the two p-values
    few = counts.seeds < least_seeds(tasks)
    shown = [equal <= ERROR_RATE, holds <= ERROR_RATE, fails <= ERROR_RATE, few]
    words = [Answer.EQUAL, Answer.HOLDS, Answer.FAILS, Answer.SEEN]
    places = np.select(shown, [0, 1, 2, 3], 4)
    answers = np.array([*words, Answer.OPEN], dtype=object)[places]
    return Decisions(answers, np.select(shown[:3], [equal, holds, fails], holds))


def together(answers: NDArray[np.object_]) -> Answer:
    """Return the answer on all tasks ``[task]`` of one that is about every one: the weakest."""
    order = (Answer.FAILS, Answer.OPEN, Answer.SEEN, Answer.EQUAL)
    return next((answer for answer in order if (answers == answer).any()), Answer.HOLDS)
