"""Which states to keep where there is room for few: binomial checkpointing, offline and online.

Offline (the number of steps is known): Griewank and Walther, Algorithm 799: revolve, ACM TOMS 2000. Online (it is not):
Wang, Moin and Iaccarino, Minimal repetition dynamic checkpointing algorithm for unsteady adjoint calculation, SIAM
J. Sci. Comput. 2009. States are numbered 0, 1, ..., N; a checkpoint is the number of a state that is kept.
"""

import math
from dataclasses import dataclass, field
from typing import NamedTuple


class Advance(NamedTuple):
    """Go from the kept state ``start`` on to state ``stop`` and keep it."""

    start: int
    stop: int


class Reverse(NamedTuple):
    """Go from the kept state ``start`` to state ``step`` and pull back through the step that begins there."""

    start: int
    step: int


class Drop(NamedTuple):
    """Forget the kept state."""

    state: int


Action = Advance | Reverse | Drop


def repetitions(steps: int, checkpoints: int) -> int:
    """Return the least r with ``binom(checkpoints + r, r) >= steps``: how often a step is at most repeated."""
    # binom(C + r, r) is the longest chain that C slots reverse with no step repeated more than r times.
    r = 0
    while math.comb(checkpoints + r, r) < steps:
        r += 1
    return r


def minimal_advances(steps: int, checkpoints: int) -> int:
    """Return ``t(N, C) = r N - binom(C + r, r - 1)``, the steps taken without a graph (Griewank and Walther, eq. 4)."""
    r = repetitions(steps, checkpoints)
    return r * steps - (math.comb(checkpoints + r, r - 1) if r > 0 else 0)


def first_split(steps: int, checkpoints: int) -> int:
    """Return after how many of ``steps`` to keep the next state, with ``checkpoints`` places in all, the start's too.

    Any number keeps the total minimal for which the part before is repeated ``r - 1`` times at most and the part
    behind ``r`` times; this is the least.
    """
    r = repetitions(steps, checkpoints)
    # Behind the split C - 1 slots are left, for at most binom(C - 1 + r, r) steps. Before it all C are free again; as
    # few steps as r - 2 repetitions reverse there would leave a repetition unused.
    before = math.comb(checkpoints + r - 2, r - 2) if r >= 2 else 0
    return max(1, before, steps - math.comb(checkpoints - 1 + r, r))


def offline_checkpoints(steps: int, places: int) -> list[int]:
    """Return the states to keep on the way forward, 0 among them, where the number of steps is known."""
    kept, left, free = [0], steps, places
    while left > 1 and free > 1:
        m = first_split(left, free)
        kept.append(kept[-1] + m)
        left, free = left - m, free - 1
    return kept


@dataclass
class OnlineCheckpoints:
    """The states to keep where the number of steps is not known: the set is right after every step.

    Beside ``places`` states it keeps the newest one, from which the next step is taken.

    A checkpoint has a level; one is dispensable if a later one has a higher level. A new state takes a free place, or
    that of a dispensable checkpoint; if there is neither, it takes the place of the newest one, one level up.
    """

    places: int
    levels: dict[int, float] = field(default_factory=lambda: {0: math.inf})

    def reached(self, state: int) -> int | None:
        """Hear that ``state`` is reached and kept; return the state to forget for it, if any."""
        if len(self.levels) <= self.places:
            self.levels[state] = 0
            return None
        # In the binomial pattern levels fall along the trajectory: one that a higher level follows breaks it, and may
        # go. The start has level infinity, and is never given up.
        out = self._dispensable()
        if out is None:
            out = max(self.levels)
            self.levels[state] = self.levels.pop(out) + 1
        else:
            del self.levels[out]
            self.levels[state] = 0
        return out

    def _dispensable(self) -> int | None:
        highest = -math.inf
        for state in sorted(self.levels, reverse=True):
            if self.levels[state] < highest:
                return state
            highest = max(highest, self.levels[state])
        return None


def online_checkpoints(steps: int, places: int) -> list[int]:
    """Return the states that the online rule has kept before the last of ``steps``, the newest not among them."""
    online = OnlineCheckpoints(places)
    for state in range(1, steps):
        online.reached(state)
    return sorted(online.levels)[:-1] or [0]


def reversal(steps: int, kept: list[int], places: int) -> list[Action]:
    """Return how to pull back through ``steps``, given the states ``kept`` and, beside them, the last step's first one.

    Every kept state belongs to ``kept`` or was advanced to before; at most ``places`` are kept at a time.
    """
    # The last step costs no advance: the forward solve hands over the state that it begins from.
    actions: list[Action] = [Reverse(steps - 1, steps - 1)]
    end = steps - 1
    for used in range(len(kept) - 1, -1, -1):
        actions += _reversed_interval(kept[used], end, places - used)
        end = kept[used]
        if used > 0:
            actions.append(Drop(kept[used]))
    return actions


def _reversed_interval(start: int, end: int, places: int) -> list[Action]:
    """Return how to pull back through the steps from ``start`` to ``end`` with ``places``, the start's own included."""
    actions: list[Action] = []
    waiting: list[tuple[int, int, int] | Drop] = [(start, end, places)]
    while waiting:
        item = waiting.pop()
        if isinstance(item, Drop):
            actions.append(item)
            continue
        first, last, free = item
        if last - first <= 1 or free == 1:
            actions += [Reverse(first, step) for step in range(last - 1, first - 1, -1)]
            continue
        middle = first + first_split(last - first, free)
        actions.append(Advance(first, middle))
        # A stack, read from its end: the part behind goes first, then its checkpoint is dropped and the slot is free.
        waiting += [(first, middle, free), Drop(middle), (middle, last, free - 1)]
    return actions


def advanced(actions: list[Action]) -> list[int]:
    """Return the steps that the actions take without a graph, each as often as it is taken."""
    spans = ((a.start, a.stop if isinstance(a, Advance) else a.step) for a in actions if not isinstance(a, Drop))
    return [step for start, stop in spans for step in range(start, stop)]


def advances(actions: list[Action]) -> int:
    """Return the number of steps that the actions take without a graph."""
    return len(advanced(actions))
