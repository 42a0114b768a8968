"""What the seeds behind a row lie apart, and how the table shows it."""

import math

import pytest

from odegrad.records.record import Status
from odegrad.reports.spread import with_spread
from odegrad.reports.summary import rows_of
from odegrad.reports.tables.row_texts import calls, peak, times, wall_clock

TIMES = {"forward_seconds": 0.02, "backward_seconds": 0.03, "update_seconds": 0.001}


def only(frame):
    (row,) = rows_of(with_spread(frame))
    return row


def test_counts_that_no_seed_has_are_a_range(record, frame_of):
    """20 and 26 are no 23; of 20, 20 and 26 the median is a seed's; a failed run is in neither."""
    runs = [record(seed=s, nfe_forward=n, nfe_backward=14, peak_bytes=4_000_000 + n) for s, n in enumerate((20, 26))]
    row = only(frame_of(runs))
    assert (calls(row, "forward"), calls(row, "backward")) == ("20-26", "14")
    assert row.nfe_forward == 23.0  # in the CSV file
    assert peak(row) == "4.00 MB"
    row = only(frame_of([*runs, record(seed=2, nfe_forward=20)]))
    assert calls(row, "forward") == "20"
    bad = record(seed=3, status=Status.ERROR, message="x", nfe_forward=99)
    assert calls(only(frame_of([*runs, bad])), "forward") == "20-26"
    far = [record(seed=s, peak_bytes=b) for s, b in enumerate((4_000_000, 5_000_000))]
    assert peak(only(frame_of(far))) == "4.00-5.00 MB"


@pytest.mark.parametrize(("noise", "text"), [
    (None, "20.0 / 30.0 / 1.00 ms"), (0.02, "20.0 / 30.0 / 1.00 ms"), (0.08, "20 / 30 / 1.0 ms"),
    (0.33, "20 / 30 / 1.0 ms ±33 %"),
])  # fmt: skip
def test_times_are_no_more_exact_than_they_are_known(noise, text, record, frame_of):
    """Three digits up to 5 %, two beyond, and the interval itself beyond 10 %."""
    assert times(only(frame_of([record(**TIMES, time_relative_interval=noise)]))) == text


def test_seeds_that_lie_apart_widen_a_time(record, frame_of):
    """Iterations of 40 and 60 ms, each known to 1 %: 20 % around their median."""
    known = TIMES | {"time_relative_interval": 0.01}
    runs = [record(seed=s, **known | {"backward_seconds": b}) for s, b in enumerate((0.019, 0.039))]
    row = only(frame_of(runs))
    assert row.time_noise == pytest.approx(0.2)
    assert times(row).endswith("ms ±20 %")


def test_wall_clock_of_seeds_that_lie_apart_is_a_range(record, frame_of):
    """3 s and 4.5 s are no 3.75 s; 4.0 and 4.1 are 4.05, of which one digit is dropped from 5 % on."""
    shown = {}
    for ends in ((3.0, 4.5), (4.0, 4.1), (4.0, 4.6)):
        shown[ends] = wall_clock(only(frame_of([record(seed=s, train_seconds=v) for s, v in enumerate(ends)])))
    assert list(shown.values()) == ["3.0-4.5 s", "4.05 s", "4.3 s"]
    assert wall_clock(only(frame_of([record(train_seconds=4.05)]))) == "4.05 s"


def test_nothing_measured_has_no_spread(record, frame_of):
    """A method that only failed shows dashes."""
    row = only(frame_of([record(status=Status.ERROR, message="x")]))
    assert (calls(row, "forward"), peak(row), wall_clock(row)) == ("–", "–", "–")
    assert math.isnan(row.time_noise)
