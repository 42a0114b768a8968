"""Pairs against a clock made up, and what ratios say against sums by hand."""

import pytest
import torch

from odegrad.errors import UsageError
from odegrad.machine.noise import Noise, kernel, measured_ratios, noise, paired_ratios


class Machine:
    """Work that takes known seconds on a clock of its own."""

    def __init__(self):
        self.now, self.order = 0.0, []

    def work(self, name, seconds, drift=0.0):
        def run():
            self.order.append(name)
            self.now += seconds + drift * self.now

        return run


def test_pairs_run_abba_and_tell_the_ratio():
    """B takes 1.5 times as long as A."""
    machine = Machine()
    ratios = paired_ratios(machine.work("a", 2.0), machine.work("b", 3.0), 2, lambda: machine.now)
    assert ratios == [1.5, 1.5]
    assert machine.order == ["a", "b", "b", "a"] * 2


def test_a_machine_that_slows_down_steadily_hits_both_alike():
    """The order cancels a drift of one part in a thousand a run to one in a million."""
    machine = Machine()
    ratios = paired_ratios(*(machine.work(name, 1.0, drift=1e-3) for name in "ab"), 3, lambda: machine.now)
    assert ratios == pytest.approx([1.0] * 3, abs=2e-6)


def test_noise_without_noise():
    """Identical times: nothing is too small to be seen."""
    assert noise([1.0] * 10) == Noise(10, 1.0, 1.0, 1.0, 0.0)


def test_smallest_slow_down_is_twice_the_farther_end():
    """Of six ratios the interval ends at the least and the largest: (1 / 0.9)^2 - 1."""
    found = noise([0.9, 1.0, 1.0, 1.0, 1.0, 1.0])
    assert (found.ratio, found.low, found.high) == (1.0, 0.9, 1.0)
    assert found.smallest_slow_down == pytest.approx(1 / 0.81 - 1)
    assert noise([1.0] * 5 + [1.1]).smallest_slow_down == pytest.approx(0.21)


def test_thirty_pairs_leave_out_what_lies_far_off():
    """The exact interval of thirty reaches from the tenth to the twenty-first (Conover, 1999, table A3)."""
    found = noise([1.0 + 0.01 * place for place in range(30)])
    assert (found.low, found.high) == pytest.approx((1.09, 1.20))


def test_too_few_pairs_have_no_interval():
    """Five cannot say it at 95 %."""
    with pytest.raises(UsageError, match="pairs: expected at least 6"):
        noise([1.0] * 5)


def test_kernel_leaves_the_generator_alone():
    """It draws from a generator of its own, and the ratios are positive numbers."""
    torch.manual_seed(0)
    first = torch.rand(1)
    torch.manual_seed(0)
    kernel(1)()
    ratios = measured_ratios(2, 1, lambda _: None)
    assert torch.equal(torch.rand(1), first)
    assert len(ratios) == 2
    assert min(ratios) > 0
