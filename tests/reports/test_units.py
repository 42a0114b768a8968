"""Numbers as text."""

import math

import pandas as pd
import pytest

from odegrad.reports import units


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.95561, "0.956"), (3.3, "3.30"), (0.0, "0"), (1234.5, "1234"), (0.00012, "1.20e-04"), (9.996, "10.0"),
     (2.5e7, "2.50e+07"), (-0.5, "-0.500"), (math.inf, "inf"), (-math.inf, "-inf"), (math.nan, "–"), (None, "–"),
     (pd.NA, "–"), (5, "5.00")],
)  # fmt: skip
def test_significant_digits(value, text):
    """Three significant digits, zeros at the end kept; powers of ten where digits would run away."""
    assert units.significant(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(12.34, "12.3 s"), (0.00456, "4.56 ms"), (7.891e-6, "7.89 µs"), (0.0009996, "1.00 ms"), (0.0, "0 µs"),
     (9999.0, "9999 s"), (None, "–"), (math.inf, "inf")],
)  # fmt: skip
def test_seconds(value, text):
    """The unit suits the size."""
    assert units.seconds(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(640, "640 B"), (12_345, "12.3 kB"), (4_560_000, "4.56 MB"), (1.2e9, "1.20 GB"), (0, "0 B"), (pd.NA, "–")],
)
def test_memory(value, text):
    """Bytes in powers of ten."""
    assert units.memory(value) == text


def test_times_share_the_unit_of_the_largest():
    """Three times in one cell compare at a glance."""
    assert units.seconds_together([0.0123, 0.0301, 0.00041]) == "12.3 / 30.1 / 0.410 ms"
    assert units.seconds_together([None, 2.0, None]) == "– / 2.00 / – s"
    assert units.seconds_together([None, math.nan]) == "– / –"


def test_errors_and_counts():
    """Errors in powers of ten, an exact zero as 0; counts whole unless a median lies between."""
    assert [units.error(v) for v in (2.41e-4, 0.0, None, math.inf)] == ["2.4e-04", "0", "–", "inf"]
    assert [units.count(v) for v in (20.0, 20.5, None, 7)] == ["20", "20.5", "–", "7"]
