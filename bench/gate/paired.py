"""Base and head beside each other: pairs of fresh pinned processes, more of them until decided or out of budget."""

import math
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field

from odegrad.gate.baseline import run_name
from odegrad.gate.decision import MIN_PAIRS, Decision, bounds, decide, delta, differ, floor
from odegrad.gate.side import Environment, Side
from odegrad.gate.verdict import GateFinding, GateState, GateVerdict
from odegrad.records.record import Run
from odegrad.running.slots import available_cores

_ROUNDS = 9
"""A B B A in a pair and cell; their median is the pair's datum. With 3 the datum spreads more than twice as much."""

BLOCK_SECONDS = 0.02
"""Least time of one block of iterations."""

TIMED_PARTS = ("time", "backward time")
"""What a block says: the forward and backward pass together, in which a slow-down of one may drown, and the latter."""

_Clock = Callable[[], float]
Timer = Callable[[], Sequence[float]]
"""Times a block: the seconds of each of ``TIMED_PARTS``."""
TimedPart = tuple[str, str]
"""A run's name, and one of ``TIMED_PARTS``."""


@dataclass
class Measured:
    """The log-ratios so far: of every cell, and of the control, which is the base's two builds on one of the cells."""

    cells: dict[TimedPart, list[float]] = field(default_factory=dict)
    control: dict[str, list[float]] = field(default_factory=dict)
    """Of each of ``TIMED_PARTS``."""
    failed: dict[str, GateFinding] = field(default_factory=dict)
    """Cells that one side cannot run."""
    builds: int = 2
    """Of the base; with one the control is two processes of it."""

    def decisions(self) -> dict[TimedPart, Decision]:
        """Return what is known about every cell."""
        return {(name, part): decide(ratios, self.control[part]) for (name, part), ratios in self.cells.items()}

    def settled(self) -> bool:
        """Return whether every run is decided: slower in one of the parts, or neither part undecided."""
        by_run: dict[str, set[Decision]] = {}
        for (name, _), decision in self.decisions().items():
            by_run.setdefault(name, set()).add(decision)
        return all(Decision.SLOWER in each or Decision.UNDECIDED not in each for each in by_run.values())


def log_ratios(base: Timer, head: Timer, flip: bool) -> list[float]:
    """Return the medians over rounds of the log-ratios of head to base, in the order A B B A; ``flip`` starts with B.

    One of every part that the timers tell.
    """
    rounds = []
    for _ in range(_ROUNDS):
        order = (head, base, base, head) if flip else (base, head, head, base)
        first, second, third, fourth = ([math.log(part) for part in each()] for each in order)
        rounds.append([
            (a + d - b - c) / 2 if flip else (b + c - a - d) / 2
            for a, b, c, d in zip(first, second, third, fourth, strict=True)
        ])  # fmt: skip
    return [statistics.median(part) for part in zip(*rounds, strict=True)]


def measure_pairs(
    runs: Sequence[Run], builds: Sequence[Environment], head: Environment, budget: float, threads: int = 1,
    told: Callable[[Measured, int], None] = lambda _measured, _pairs: None, clock: _Clock = time.monotonic,
) -> Measured:  # fmt: skip
    """Return the log-ratios of pairs, until every run is decided or ``budget`` seconds are spent.

    Parameters
    ----------
    runs
        The cells.
    builds
        Where the base runs: its two builds, which are each other's control. Even pairs hold the head against the first,
        odd ones against the second, so that what one build alone has moves one of the two batches only.
    head
        Where the head runs.
    budget
        Seconds; a pair that has begun is finished.
    threads
        Threads of one tensor operation; the processes of a pair share as many cores.
    told
        Hears of every pair.
    clock
        Measures the budget.

    Raises
    ------
    UsageError, InfrastructureError
        If a process cannot be started, ends early, or answers what is no answer.
    """
    started, found, pairs = clock(), Measured(builds=len(set(builds))), 0
    cores = available_cores()[-threads:]
    while True:
        _one_pair(runs, (*builds, head), cores, threads, found, against=pairs % 2, flip=pairs % 4 in {1, 2})
        pairs += 1
        told(found, pairs)
        if (pairs >= MIN_PAIRS and found.settled()) or not found.cells or clock() - started > budget:
            return found


def _one_pair(
    runs: Sequence[Run], environments: Sequence[Environment], cores: Sequence[int], threads: int, found: Measured,
    against: int, flip: bool,
) -> None:  # fmt: skip
    """Add a pair's datum of every cell against one build, and of the control on the first cell that all can run."""
    with ExitStack() as stack:
        sides = [stack.enter_context(Side(each, threads)) for each in environments]
        names = [run_name(run) for run in runs if run_name(run) not in found.failed and _built(run, sides, found)]
        for side in sides:
            side.ask({"cores": list(cores)})
        for place, name in enumerate(names):
            first, second, head = timers = [_timer(side, name) for side in sides]
            for timer in timers:
                timer()  # not counted: the first block on a core finds its caches cold
            if place == 0:
                for part, ratio in zip(TIMED_PARTS, log_ratios(first, second, flip), strict=True):
                    found.control.setdefault(part, []).append(ratio)
            for part, ratio in zip(TIMED_PARTS, log_ratios(timers[against], head, flip), strict=True):
                found.cells.setdefault((name, part), []).append(ratio)


def _built(run: Run, sides: Sequence[Side], found: Measured) -> bool:
    """Return whether all sides could build the cell, which they do at the same time; if not, note which could not."""
    name = run_name(run)
    for side in sides:
        side.send({"cell": name, "run": run.to_dict()})
    answers = [side.answer() for side in sides]
    errors = [each.get("error") for each in answers]
    if not any(errors):
        return True
    if errors[2] is not None and errors[0] is None:
        finding = GateFinding(name, "time", GateState.REGRESSED, "ok", "error", str(errors[2]))
    elif errors[2] is None:
        why = f"the base cannot run it: {errors[0] or errors[1]}"
        finding = GateFinding(name, "time", GateState.NEW, "error", "ok", why)
    else:
        finding = GateFinding(name, "time", GateState.UNDECIDED, "error", "error", str(errors[2]))
    found.failed[name] = finding
    for part in TIMED_PARTS:
        found.cells.pop((name, part), None)
    return False


def _timer(side: Side, name: str) -> Timer:
    return lambda: side.seconds(name, BLOCK_SECONDS)


def time_verdict(found: Measured, since: str, command: str) -> GateVerdict:
    """Return the verdict of the paired times; what is undecided is always among its findings."""
    states: Mapping[Decision, GateState] = {
        Decision.SLOWER: GateState.REGRESSED,
        Decision.FINE: GateState.FINE,
        Decision.UNDECIDED: GateState.UNDECIDED,
    }
    findings = list(found.failed.values())
    for (name, part), decision in found.decisions().items():
        known = bounds(found.cells[name, part])
        low, high = math.exp(known.low), math.exp(known.high)
        pairs = len(found.cells[name, part])
        why = f"{decision}: 99 % bounds {low:.3f} and {high:.3f} from {pairs} pairs, "
        limit = 1 + delta(found.control[part])
        why += f"limit {limit:.3f}"
        if decision is Decision.UNDECIDED and low > limit:
            why += ", passed by all pairs together but not by each half of them alone"
        if pairs < MIN_PAIRS:
            why = f"{decision}: {pairs} of the {MIN_PAIRS} pairs that a decision needs; give --budget more seconds"
        findings.append(GateFinding(name, part, states[decision], 1.0, math.exp(known.mean), why))
    return GateVerdict(
        tuple(sorted(findings, key=lambda f: f.run)),
        tuple(sorted({name for name, _ in found.cells})),
        0,
        0,
        {},
        since,
        command,
        tuple(_control(found)),
        True,
    )


def _control(found: Measured) -> Iterator[str]:
    """Yield the sentences about the noise: what can be told from it, and whether a build of the base is its own."""
    name = "control (the base built twice)" if found.builds > 1 else "control (the base against itself)"
    if not all(math.isfinite(floor(ratios)) for ratios in found.control.values()):
        yield f"{name}: one pair tells nothing of the noise"
    else:
        floors = " and ".join(f"{floor(ratios):.1%} in the {part}" for part, ratios in found.control.items())
        yield f"{name}: slow-downs from {floors} can be told from noise"
    if found.builds == 1:
        yield "this base is one build: what two builds of one revision differ by is not seen; --base REV builds two"
        return
    for part, ratios in found.control.items():
        if differ(ratios):
            much = math.expm1(bounds(ratios).mean)
            yield f"two builds of this one base differ by {much:+.1%} in the {part}, which is counted as noise"
