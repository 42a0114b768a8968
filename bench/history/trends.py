"""From the lines of a history to its series, and to where they moved."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from odegrad.gate.metrics import METRICS
from odegrad.history.line import FOLLOWED_TIMES, Line
from odegrad.history.moves import STATUS, has_moved, step_between, value_of
from odegrad.history.steps import MIN_POINTS, MIN_SEGMENT, exact_steps, level_moved, spread, time_steps
from odegrad.history.tracks import Track, classes, kinds_of_hardware, marks_of
from odegrad.reports.trends import Mark, Trends, TrendSeries, TrendStep

LEVEL_POINTS = 5
"""Times whose median is a level, of a release and of now."""


@dataclass(frozen=True)
class _Walk:
    """What the walk over the runs knows, and what it gathers."""

    marks: Sequence[Mark]
    place_of: Mapping[str, int]
    suite_path: Callable[[str], str]
    series: list[TrendSeries] = field(default_factory=list)
    steps: list[TrendStep] = field(default_factory=list)
    drifts: list[TrendStep] = field(default_factory=list)

    def step(
        self, metric: str, lines: tuple[Line, Line], values: tuple[Any, object], machine: str, why: str = ""
    ) -> TrendStep:
        """Return the step of a metric between two lines."""
        ends = (self.place_of[lines[0].commit], self.place_of[lines[1].commit])
        return step_between(metric, lines, ends, values, machine, self.suite_path(lines[1].suite), why)


def trends(lines: Iterable[Line], suite_path: Callable[[str], str] = str) -> Trends:
    """Return the series of a history and where they moved.

    Figures of the exact gate are followed on each machine class by itself, times on each kind of hardware. Where a
    class comes later, it begins with what the class before it measured, within the gate's bands.

    Parameters
    ----------
    lines
        Of any order.
    suite_path
        Name of a suite -> what the command line calls it.
    """
    every = list(lines)
    marks = marks_of(every)
    walk = _Walk(marks, {mark.sha: place for place, mark in enumerate(marks)}, suite_path)
    every.sort(key=lambda line: walk.place_of[line.commit])
    runs: dict[tuple[str, str], list[Line]] = {}
    for line in every:
        runs.setdefault((line.suite, line.run), []).append(line)
    exact, timed = classes(), kinds_of_hardware()
    for _, mine in sorted(runs.items()):
        for key, track in exact.tracks(mine, walk.place_of).items():
            _follow_exact(track, walk)
            others = [line for line in mine if exact.key_of(line) != key]
            _follow_beginning(track, others, walk)
            if track.places[-1] in [walk.place_of[line.commit] for line in mine[-LEVEL_POINTS:]]:
                _follow_release(track, others, walk)  # a machine class that is not used any more says nothing of now
        for track in timed.tracks(mine, walk.place_of).values():
            _follow_times(track, walk)
    machines = {**exact.words(), **timed.words()}
    return Trends(marks, walk.series, walk.steps, walk.drifts, machines, _notes(walk.series, every))


def _notes(series: Sequence[TrendSeries], lines: Sequence[Line]) -> list[str]:
    """Return what cannot be told of times, in sentences."""
    short = sum(each.metric in FOLLOWED_TIMES and len(each.measured) < MIN_POINTS for each in series)
    timed = [line for line in lines if line.times]
    disturbed = [line for line in timed if line.taints]
    words = ", ".join(sorted({word for line in disturbed for word in line.taints.split(",")}))
    notes = {
        f"{short} series of times are shorter than {MIN_POINTS} commits: no step of theirs can be told yet.": short,
        f"Times of {len(disturbed)} of {len(timed)} results are left out, because the machine was disturbed ({words}).":
            len(disturbed),
    }  # fmt: skip
    return [note for note, number in notes.items() if number]


def _follow_exact(track: Track, walk: _Walk) -> None:
    """Add the series and steps of status and of the gate's metrics on one machine class."""
    for metric in (STATUS, *METRICS):
        kept = [i for i, line in enumerate(track.lines) if metric == STATUS or metric in line.metrics]
        if not kept:
            continue
        lines = [track.lines[i] for i in kept]
        values = [value_of(line, metric) for line in lines]
        if metric != STATUS:
            walk.series.append(_series(track, metric, kept, values))
        anchor = 0
        for index in exact_steps(values, _mover(metric, lines)):
            pair = (values[anchor], values[index])
            walk.steps.append(walk.step(metric, (lines[index - 1], lines[index]), pair, track.machine))
            anchor = index


def _mover(metric: str, lines: Sequence[Line]) -> Callable[[int, int], bool]:
    return lambda old, new: has_moved(metric, lines[old], lines[new])


def _series(track: Track, metric: str, kept: Sequence[int], values: Sequence[object]) -> TrendSeries:
    first = track.lines[0]
    return TrendSeries(first.suite, first.run, metric, track.machine, [track.places[i] for i in kept], values)


def _follow_beginning(track: Track, others: Sequence[Line], walk: _Walk) -> None:
    """Add the steps with which a machine class begins, beyond the gate's bands from the class before it."""
    earlier = [line for line in others if walk.place_of[line.commit] < track.places[0]]
    if earlier:
        walk.steps.extend(_moves(track, earlier[-1], track.lines[0], walk, same_class=False))


def _follow_release(track: Track, others: Sequence[Line], walk: _Walk) -> None:
    """Add how the last exact figures stand to those of the last release, of another machine class if need be."""
    place, last = track.release(walk.marks), track.lines[-1]
    if place is not None:
        walk.drifts.extend(_moves(track, track.lines[place], last, walk, same_class=True))
        return
    earlier = [line for line in others if line.release and walk.place_of[line.commit] < track.places[-1]]
    if earlier and not last.release:
        walk.drifts.extend(_moves(track, earlier[-1], last, walk, same_class=False))


def _moves(track: Track, old: Line, new: Line, walk: _Walk, same_class: bool) -> Iterator[TrendStep]:
    """Yield the metrics that moved from one line to another."""
    why = "" if same_class else "another machine class, beyond the gate's band"
    for metric in (STATUS, *METRICS):
        both = metric == STATUS or (metric in old.metrics and metric in new.metrics)
        if both and has_moved(metric, old, new, same_class):
            pair = (value_of(old, metric), value_of(new, metric))
            yield walk.step(metric, (old, new), pair, track.machine, why)


def _follow_times(track: Track, walk: _Walk) -> None:
    """Add the series, steps and drifts of times; what was measured on a disturbed machine is left out."""
    release = track.release(walk.marks)
    for metric in FOLLOWED_TIMES:
        kept = [i for i, line in enumerate(track.lines) if metric in line.times and not line.taints]
        if not kept:
            continue
        values = [track.lines[i].times[metric] for i in kept]
        walk.series.append(_series(track, metric, kept, values))
        for step in time_steps(values):
            ends = (track.lines[kept[step.good]], track.lines[kept[step.bad]])
            why = f"most likely {walk.marks[track.places[kept[step.place]]].short}"
            walk.steps.append(walk.step(metric, ends, (step.before, step.after), track.machine, why))
        if release is not None:
            _follow_drift(track, metric, kept, release, walk)


def _follow_drift(track: Track, metric: str, kept: Sequence[int], release: int, walk: _Walk) -> None:
    """Add the drift of a time since the last release, if the level now is away from the level then."""
    values = [track.lines[i].times[metric] for i in kept]
    until = sum(index <= release for index in kept)
    old, new = values[max(0, until - LEVEL_POINTS) : until], values[max(until, len(values) - LEVEL_POINTS) :]
    if len(values) < MIN_POINTS or min(len(old), len(new)) < MIN_SEGMENT:
        return
    levels = level_moved(old, new, spread(np.log(np.asarray(values))))
    if levels is not None:
        why = f"medians of {len(old)} and {len(new)} commits"
        ends = (track.lines[release], track.lines[kept[-1]])
        walk.drifts.append(walk.step(metric, ends, levels, track.machine, why))
