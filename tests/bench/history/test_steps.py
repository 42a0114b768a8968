"""Steps in series: what is exact by hand, times by simulation and against an exhaustive search; no clock is read."""

import math

import numpy as np
import pytest

from odegrad.history import steps
from odegrad.history.steps import MIN_POINTS, MIN_SEGMENT, exact_steps, level_moved, spread, time_steps

SPREAD = 0.03


def noisy(generator, number, deviation=SPREAD, heavy=False):
    """Return times with log-normal noise about 10 ms, or with that of Student's t with three degrees of freedom."""
    draw = generator.standard_t(3, number) / math.sqrt(3) if heavy else generator.standard_normal(number)
    return 0.01 * np.exp(deviation * draw)


@pytest.mark.parametrize("heavy", [False, True])
@pytest.mark.parametrize("number", [MIN_POINTS, 20, 50, 200])
def test_noise_without_a_change_has_a_step_in_at_most_one_series_of_fifty(number, heavy):
    """1000 seeded series of each length; over all lengths together it is at most one of a hundred."""
    generator = np.random.default_rng([0, number, heavy])
    found = sum(bool(time_steps(noisy(generator, number, heavy=heavy))) for _ in range(1000))
    assert found <= 20


def test_false_steps_over_all_lengths_are_at_most_one_in_a_hundred():
    """1000 series of 8 to 100 commits, every other one with heavy tails."""
    generator = np.random.default_rng(1)
    lengths = generator.integers(MIN_POINTS, 101, 1000)
    found = sum(bool(time_steps(noisy(generator, n, heavy=i % 2 == 1))) for i, n in enumerate(lengths))
    assert found <= 10


@pytest.mark.parametrize(("before", "after", "rate"), [(10, 10, 0.9), (20, 10, 0.95), (40, 5, 0.9), (40, 10, 0.95)])
def test_ten_percent_is_found_at_a_spread_of_three_percent(before, after, rate):
    """Among 400 series with one step there is one in whose commit range the true one lies."""
    generator = np.random.default_rng([2, before, after])
    hits = 0
    for _ in range(400):
        seconds = noisy(generator, before + after)
        seconds[before:] *= 1.1
        hits += any(step.good < before <= step.bad for step in time_steps(seconds))
    assert hits / 400 >= rate


def test_commit_range_holds_the_true_commit_and_names_it_most_often():
    """Of the single steps found in 400 series at least 95 % have it in their range; the likeliest is it in 80 %."""
    generator = np.random.default_rng(3)
    inside, named, number = 0, 0, 0
    for _ in range(400):
        seconds = noisy(generator, 40)
        seconds[25:] *= 1.1
        found = time_steps(seconds)
        if len(found) == 1:
            number += 1
            inside += found[0].good < 25 <= found[0].bad
            named += found[0].place == 25
    assert number >= 350
    assert inside / number >= 0.95
    assert named / number >= 0.8


def test_large_step_has_a_range_of_one_commit_and_the_levels_beside_it():
    """Noise of 1 %, a step of 50 %."""
    seconds = noisy(np.random.default_rng(4), 30, 0.01)
    seconds[18:] *= 1.5
    (found,) = time_steps(seconds)
    assert (found.good, found.bad, found.place) == (17, 18, 18)
    assert found.before == pytest.approx(0.01, rel=0.01)
    assert found.after == pytest.approx(0.015, rel=0.01)


@pytest.mark.parametrize("slow", [1, 2])
def test_one_or_two_slow_runs_are_no_step(slow):
    """Thrice the time, in the middle and at the end."""
    for place in (15, 30 - slow):
        seconds = noisy(np.random.default_rng(5), 30, 0.01)
        seconds[place : place + slow] *= 3.0
        assert not time_steps(seconds)


def test_step_below_five_percent_is_none_however_clear():
    """Noise of 0.1 %: 4 % is not told, 6 % is."""
    for size, number in ((1.04, 0), (1.06, 1)):
        seconds = noisy(np.random.default_rng(6), 40, 0.001)
        seconds[20:] *= size
        assert len(time_steps(seconds)) == number


def test_too_few_points_have_no_step():
    """Seven points with a step of a factor of ten."""
    assert time_steps([0.01] * 3 + [0.1] * (MIN_POINTS - 4)) == []


def exhaustive(values, penalty):
    """Return the best places of steps by dynamic programming over every partition."""
    number = len(values)
    best, last = [-penalty] + [math.inf] * number, [0] * (number + 1)
    for stop in range(MIN_SEGMENT, number + 1):
        for start in range(stop - MIN_SEGMENT + 1):
            segment = values[start:stop]
            cost = best[start] + float(((segment - segment.mean()) ** 2).sum()) + penalty
            if cost < best[stop]:
                best[stop], last[stop] = cost, start
    places, stop = [], number
    while last[stop]:
        stop = last[stop]
        places.append(stop)
    return places[::-1]


@pytest.mark.parametrize("seed", range(5))
def test_change_points_are_those_of_an_exhaustive_search(seed):
    """Three levels of a random size, whatever the smallest step; the search knows nothing of PELT."""
    generator = np.random.default_rng([7, seed])
    levels = np.repeat(generator.uniform(0.15, 0.3, 3) * [0, 1, -1], 9)
    seconds = 0.01 * np.exp(levels + SPREAD * generator.standard_normal(27))
    logs = np.log(seconds)
    deviation = spread(logs)
    scaled = steps.without_outliers(logs, deviation) / deviation
    penalty = steps.PENALTY * math.log(27) * (1 + steps.SHORT_SERIES / 27)
    found = [step.place for step in time_steps(seconds, least=0.0)]
    best = exhaustive(scaled, penalty)
    assert found == best
    assert len(best) == 2


def test_spread_is_the_standard_deviation_whatever_the_steps():
    """10 000 normal values, then with nine steps of a factor of two."""
    logs = SPREAD * np.random.default_rng(8).standard_normal(10_000)
    assert spread(logs) == pytest.approx(SPREAD, rel=0.03)
    assert spread(logs + np.repeat(np.arange(10) * math.log(2.0), 1000)) == pytest.approx(SPREAD, rel=0.03)


def test_steps_of_what_is_exact_are_told_from_the_last_step_not_the_last_point():
    """A drift of 4 % a commit within a band of 10 % is a step as soon as it has added up."""
    values = [100, 104, 108, 112, 116, 120, 124, 100]

    def beyond_the_band(old, new):
        return abs(values[new] - values[old]) > 0.1 * values[old]

    assert exact_steps(values, beyond_the_band) == [3, 6, 7]
    assert exact_steps([1, 1, 2, 2, 1], lambda *_: True) == [2, 4]


def test_levels_of_noise_alone_do_not_move_in_a_thousand_tries():
    """Five times and five times at a spread of 3 %: at most 5 of 1000; a drift that came to 15 % is seen in 95 %."""
    generator = np.random.default_rng(9)
    same = [level_moved(noisy(generator, 5), noisy(generator, 5), SPREAD) for _ in range(1000)]
    assert sum(each is not None for each in same) <= 5
    away = [level_moved(noisy(generator, 5), 1.15 * noisy(generator, 5), SPREAD) for _ in range(400)]
    assert sum(each is not None for each in away) >= 380
    assert level_moved([1.0] * 5, [1.04] * 5, 0.001) is None
    assert level_moved([1.0] * 5, [1.06] * 5, 0.001) == pytest.approx((1.0, 1.06))
