"""Binomial checkpointing against dynamic programming and a simulation that obeys every action."""

import functools
import itertools

import pytest

from odegrad.methods.backward.checkpointing import (
    Advance,
    Drop,
    OnlineCheckpoints,
    advances,
    minimal_advances,
    offline_checkpoints,
    online_checkpoints,
    repetitions,
    reversal,
)


@functools.cache
def least(steps, places):
    """Return the fewest steps without a graph that reverse ``steps`` with ``places``, by trying every split."""
    if steps == 1:
        return 0
    if places == 1:
        return steps * (steps - 1) // 2
    return min(m + least(steps - m, places - 1) + least(m, places) for m in range(1, steps))


def simulate(steps, kept, places):
    """Follow the actions as told and return how often each step was taken without a graph."""
    states, reversed_steps = set(kept), []
    taken = [0] * steps
    for action in reversal(steps, kept, places):
        if isinstance(action, Drop):
            states.remove(action.state)
            continue
        assert action.start in states or action.start == steps - 1
        stop = action.stop if isinstance(action, Advance) else action.step
        for step in range(action.start, stop):
            taken[step] += 1
        if isinstance(action, Advance):
            states.add(stop)
            assert len(states) <= places
        else:
            reversed_steps.append(stop)
    assert reversed_steps == list(range(steps - 1, -1, -1))
    return taken


@pytest.mark.parametrize("places", [1, 2, 3, 4, 6])
def test_formula_is_the_optimum(places):
    assert all(minimal_advances(n, places) == least(n, places) for n in range(1, 45))


@pytest.mark.parametrize("places", [1, 2, 3, 4, 6, 50])
def test_offline_reversal_takes_the_least_number_of_steps(places):
    """The forward solve takes N steps and hands over the state before the last: N - 1 of the optimum are done there."""
    for n in range(1, 45):
        kept = offline_checkpoints(n, places)
        assert len(kept) <= places
        taken = simulate(n, kept, places)
        assert sum(taken) == advances(reversal(n, kept, places)) == minimal_advances(n, places) - (n - 1)
        assert max(taken) <= max(repetitions(n, places) - 1, 0)


@pytest.mark.parametrize("places", [1, 2, 3, 5, 8])
def test_online_checkpoints_repeat_no_step_more_often_than_the_least(places):
    """Wang, Moin and Iaccarino: the largest number of repetitions is the offline one, the forward sweep included."""
    for n in range(1, 80):
        kept = online_checkpoints(n, places)
        assert kept[0] == 0
        assert len(kept) <= places
        taken = simulate(n, kept, places)
        assert max(taken) + 1 <= max(repetitions(n, places), 1)


def test_online_checkpoints_move_along():
    """With two places and the newest state: the sets after 2 ... 7 steps, by the rule on paper."""
    online, seen = OnlineCheckpoints(2), []
    for state in range(1, 7):
        online.reached(state)
        seen.append(sorted(online.levels))
    assert seen[:2] == [[0, 1], [0, 1, 2]]
    assert all(len(s) == 3 for s in seen[1:])
    assert all(set(b) - set(a) == {n} for n, (a, b) in enumerate(itertools.pairwise(seen), start=2))
