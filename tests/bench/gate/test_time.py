"""Paired times: the decision by simulation, the order of a pair, and the verdict; no clock decides a test."""

import math

import numpy as np
import pytest
from scipy import stats
from scipy.stats import mstats

from odegrad.errors import BaselineError
from odegrad.gate.base import built_base
from odegrad.gate.decision import MIN_PAIRS, Decision, bounds, decide, delta, differ, floor
from odegrad.gate.paired import TIMED_PARTS, Measured, log_ratios, time_verdict
from odegrad.gate.verdict import GateState

PINNED, UNPINNED = (0.026, 0.043), 0.085
"""Standard deviations of the log-ratio of two processes of identical code, as measured on two machines."""

CELLS, MAX_PAIRS = 4, 60


def gate_decisions(generator, slow_down, deviation, heavy=False, bias=0.0):
    """Simulate one gate: pairs are added until all is decided or there are ``MAX_PAIRS``.

    The base's second build, which odd pairs are held against, takes ``1 + bias`` as long as the first.
    """
    draw = generator.standard_t(3, (CELLS + 1, MAX_PAIRS)) / math.sqrt(3) if heavy else None
    noise = deviation * (generator.standard_normal((CELLS + 1, MAX_PAIRS)) if draw is None else draw)
    noise[1:] += math.log1p(slow_down)
    noise[0] += math.log1p(bias)
    noise[1:, 1::2] -= math.log1p(bias)
    for pairs in range(MIN_PAIRS, MAX_PAIRS + 1, 5):
        decisions = [decide(list(row[:pairs]), list(noise[0, :pairs])) for row in noise[1:]]
        if Decision.UNDECIDED not in decisions:
            break
    return decisions


@pytest.mark.parametrize(("deviation", "heavy"), [*((each, False) for each in (*PINNED, UNPINNED)), (0.043, True)])
def test_false_alarms_are_rarer_than_one_in_a_hundred_gates(deviation, heavy):
    """2000 gates of four cells without a change, looked at after every five pairs."""
    generator = np.random.default_rng(0)
    gates = [gate_decisions(generator, 0.0, deviation, heavy) for _ in range(2000)]
    assert sum(Decision.SLOWER in decisions for decisions in gates) <= 20


@pytest.mark.parametrize("deviation", PINNED)
def test_ten_percent_is_found_on_a_pinned_machine(deviation):
    """At least 95 % of cells in 300 gates."""
    generator = np.random.default_rng(1)
    found = [each for _ in range(300) for each in gate_decisions(generator, 0.10, deviation)]
    assert np.mean([each is Decision.SLOWER for each in found]) >= 0.95


def test_bad_machine_costs_power_but_not_truth():
    """With the spread of unpinned processes 10 % is never called fine in more than one cell of a hundred."""
    generator = np.random.default_rng(2)
    found = [each for _ in range(200) for each in gate_decisions(generator, 0.10, UNPINNED)]
    assert np.mean([each is Decision.FINE for each in found]) <= 0.01


@pytest.mark.parametrize("head", [0.0, 0.06])
def test_head_that_is_as_one_of_two_unlike_builds_is_not_slower(head):
    """1000 gates whose second build takes 6 % longer: the head is as the first, or as the second."""
    generator = np.random.default_rng(3)
    gates = [gate_decisions(generator, head, PINNED[0], bias=0.06) for _ in range(1000)]
    assert sum(Decision.SLOWER in decisions for decisions in gates) <= 10


def test_unlike_builds_are_told_from_noise():
    """Of 2000 gates' controls less than a hundredth differ by chance at any look, and 6 % is found in nearly all."""
    noise = PINNED[0] * np.random.default_rng(4).standard_normal((2000, MAX_PAIRS))
    looks = range(MIN_PAIRS, MAX_PAIRS + 1, 5)
    assert sum(any(differ(list(row[:pairs])) for pairs in looks) for row in noise) <= 20
    assert sum(differ(list(row + math.log1p(0.06))) for row in noise) >= 1900
    assert not differ([0.06] * (MIN_PAIRS - 1))


def test_bounds_are_students():
    """Against the closed form: values 0 and 2, one degree of freedom, t = tan(pi (p - 1/2))."""
    found = bounds([0.0, 2.0])
    assert found.high == pytest.approx(1.0 + math.tan(math.pi * 0.49))
    assert found.low == pytest.approx(1.0 - math.tan(math.pi * 0.49))
    assert bounds([1.0]).high == math.inf


@pytest.mark.parametrize("number", [5, 10, 25])
def test_bounds_are_those_of_the_trimmed_mean(number):
    """Against scipy's, with one pair that is far off."""
    ratios = np.random.default_rng(number).standard_normal(number)
    ratios[0] = 50.0
    low, high = mstats.trimmed_mean_ci(ratios, limits=(0.2, 0.2), alpha=0.02)
    found = bounds(list(ratios))
    assert (found.low, found.high) == pytest.approx((low, high), rel=1e-9)
    assert found.mean == pytest.approx(stats.trim_mean(ratios, 0.2))


def test_noisy_control_widens_what_is_looked_for_or_ends_all_decisions():
    """Delta is 5 %, or twice the floor; an unfit machine calls nothing fine, and slower only what is far slower."""
    assert delta([0.001, -0.001] * 10) == pytest.approx(0.05)
    noisy = [0.05, -0.05] * 10
    assert delta(noisy) == pytest.approx(2 * floor(noisy))
    assert 0.05 < delta(noisy) < 0.15
    slow = [0.3 + 0.001 * (i % 3) for i in range(20)]
    assert decide(slow, noisy) == Decision.SLOWER
    unfit = [0.5, -0.5] * 10
    assert decide(slow, unfit) == Decision.UNDECIDED
    assert decide([r - 0.3 for r in slow], unfit) == Decision.UNDECIDED
    assert decide([r + 1.0 for r in slow], unfit) == Decision.SLOWER


def test_noisy_machine_calls_fine_only_what_is():
    """A slow-down of 7 % is beyond 5 %, though a limit of 9 % is needed to tell slower from noise."""
    control = [0.1, -0.1] * 20
    assert 0.07 < delta(control) < 0.15
    assert decide([0.07, 0.071] * 20, control) == Decision.UNDECIDED
    assert decide([0.01, 0.011] * 20, control) == Decision.FINE


def test_one_batch_alone_is_no_alarm():
    """Ten pairs of which only every other one is slow."""
    ratios = [0.3 if i % 2 else 0.0 for i in range(10)]
    assert decide(ratios, [0.001, -0.001] * 5) == Decision.UNDECIDED


@pytest.mark.parametrize("flip", [False, True])
def test_steady_drift_cancels_and_the_order_is_abba(flip):
    """A machine that slows down by a constant factor a block; head takes 1.2 times as long in the second part."""
    calls = []

    def side(name, seconds):
        def block():
            calls.append(name)
            drift = 1.01 ** len(calls)
            return 1.0 * drift, seconds * drift

        return block

    ratios = log_ratios(side("A", 1.0), side("B", 1.2), flip)
    assert ratios == pytest.approx([0.0, math.log(1.2)])
    assert "".join(calls[:4]) == ("BAAB" if flip else "ABBA")


def test_verdict_names_what_is_slower_and_prints_what_is_undecided():
    """Slower fails, undecided has a code of its own; both are in the findings with their bounds."""
    steady = [0.001 * (-1) ** i for i in range(10)]
    wide = [0.2 * (-1) ** (i // 2) for i in range(10)]
    whole, backward = TIMED_PARTS
    slow = [r + 0.2 for r in steady]
    control = {whole: steady, backward: steady}
    found = Measured({("slow", backward): slow, ("same", whole): steady, ("wide", whole): wide}, control)
    verdict = time_verdict(found, "abc", "odegrad gate x --base abc")
    states = {(f.run, f.metric): f.state for f in verdict.findings}
    expected = {
        ("slow", backward): GateState.REGRESSED,
        ("same", whole): GateState.FINE,
        ("wide", whole): GateState.UNDECIDED,
    }
    assert states == expected
    assert verdict.code == 1
    assert "gate: slower than the base (1 regressed, 1 undecided, 1 fine)" in verdict.sentences()
    assert not any("accept" in line for line in verdict.sentences())
    open_yet = time_verdict(Measured({("wide", whole): wide}, control), "abc", "")
    assert open_yet.code == 4
    assert "gate: undecided (1 undecided)" in open_yet.sentences()


def test_one_pair_says_how_many_are_needed():
    """No infinite bound is printed."""
    whole, _ = TIMED_PARTS
    verdict = time_verdict(Measured({("a", whole): [0.1]}, {whole: [0.01]}), "abc", "")
    (finding,) = verdict.findings
    assert finding.why == "undecided: 1 of the 10 pairs that a decision needs; give --budget more seconds"
    assert "inf" not in " ".join(verdict.sentences())


def test_base_of_one_build_says_what_it_does_not_see():
    """An environment that is given: nothing is said about two builds, however far the control lies from zero."""
    whole, _ = TIMED_PARTS
    control = {whole: [0.06, 0.061] * 5}
    for builds, expected in ((1, "this base is one build"), (2, "two builds of this one base differ by +6.2% in the")):
        notes = time_verdict(Measured({("a", whole): [0.001, 0.0] * 5}, control, builds=builds), "abc", "").notes
        assert len(notes) == 2
        assert notes[1].startswith(expected)


def test_verdict_says_why_bounds_beyond_the_limit_decide_nothing():
    """Two pairs of one half are not slow: all together are beyond the limit, that half is not."""
    whole, _ = TIMED_PARTS
    ratios = [0.0 if i in {1, 3} else 0.1 for i in range(10)]
    (finding,) = time_verdict(Measured({("a", whole): ratios}, {whole: [0.001, -0.001] * 5}), "abc", "").findings
    assert finding.why == (
        "undecided: 99 % bounds 1.105 and 1.105 from 10 pairs, limit 1.050, passed by all pairs together but not by "
        "each half of them alone"
    )


def test_run_is_settled_once_a_part_of_it_is_slower():
    """The other part may stay undecided: the gate fails whatever it is; fine must be both."""
    whole, backward = TIMED_PARTS
    steady = [0.001 * (-1) ** i for i in range(10)]
    wide, slow = [0.2 * (-1) ** (i // 2) for i in range(10)], [r + 0.2 for r in steady]
    control = {whole: steady, backward: steady}
    for parts, expected in (((wide, slow), True), ((steady, wide), False), ((steady, steady), True)):
        assert Measured(dict(zip((("a", whole), ("a", backward)), parts, strict=True)), control).settled() is expected
    both = {("a", whole): slow, ("a", backward): slow, ("b", whole): steady, ("b", backward): wide}
    assert not Measured(both, control).settled()


def test_base_that_cannot_be_built_is_wrong_use(tmp_path):
    """No checkout, and no such revision."""
    with pytest.raises(BaselineError, match=r"--base main: .*git .* ended with 128"), built_base("main", tmp_path):
        pass


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "--baseline FILE, --base REV, --base-python PATH: expected one of them"),
        (("--base", "x", "--base-python", "y"), "expected one of them"),
        (("--base", "x", "--update"), "--update, --reason: expected --baseline beside them"),
        (("--base-python", "no/python"), "--base-python no/python: expected an interpreter, got no such file"),
    ],
)
def test_wrong_use_of_the_times_is_exit_2(run_main, arguments, message):
    """Said before anything is built."""
    code, _, err = run_main("gate", "gate-time", *arguments)
    assert code == 2
    assert message in err
