"""The canary: instruments that were replaced are found, and those that were left alone never are."""

import hashlib
import time

import pytest
import torch

from odegrad.errors import InstrumentsError
from odegrad.measuring import canary, meters, passes
from odegrad.measuring.canary import check_instruments
from odegrad.records.rounds import merge
from odegrad.reference import certificate, two_ways


def test_instruments_that_were_left_alone_are_fine():
    """Again and again, also while the machine is busy."""
    assert passes.seal is canary.seal
    for _ in range(20):
        check_instruments()


def slow_clock(self, *_):
    self.seconds += 1e-4


@pytest.mark.parametrize(
    ("place", "name", "instead", "said"),
    [
        (time, "perf_counter", lambda: 0.0, "time.perf_counter is not the function that was there before"),
        (meters.Clock, "__exit__", slow_clock, "odegrad.measuring.meters.Clock.__exit__ is not the function"),
        (meters, "perf_counter", lambda: 0.0, "the clock does not agree with the system's"),
        (two_ways, "relative_distance", lambda a, b: 0.0, "two_ways.relative_distance is not the function"),
        (hashlib, "sha256", hashlib.sha1, "a known gradient is not certified"),
        (certificate, "certify", lambda *a, **k: None, "odegrad.reference.certificate.certify is not the function"),
        (torch.autograd, "grad", lambda *a, **k: (torch.zeros(3),), "torch.autograd.grad is not the function"),
        (merge, "__code__", (lambda rounds: {}).__code__, "odegrad.records.rounds.merge is not the function"),
    ],
)
def test_replaced_instruments_are_named(monkeypatch, place, name, instead, said):
    """Clocks, certificate and the code of a function."""
    monkeypatch.setattr(place, name, instead)
    with pytest.raises(InstrumentsError, match=said):
        check_instruments()
