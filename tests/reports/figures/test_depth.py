"""Memory against depth, by its data."""

import math

import pytest

from odegrad.reports.figures.sweeps import depth


@pytest.fixture
def frame(record, frame_of):
    """Return two methods at three depths: one whose bytes grow like the steps, one whose bytes stay; and one depth."""
    runs = [
        record(
            method=method, seed=seed, settings={"solver": "rk4", "solver_options": {"num_steps": steps}},
            accepted_steps=steps, peak_bytes=size(steps) + 2 * seed, predicted_peak_bytes=predicted(steps),
        )
        for method, size, predicted in (
            ("naive", lambda steps: 1000 * steps, lambda steps: 900 * steps),
            ("adjoint", lambda _: 5000, lambda _: None),
        )
        for steps in (2, 4, 8)
        for seed in range(3)
    ]  # fmt: skip
    return frame_of([*runs, record(task="circles", accepted_steps=5)])


def test_points_are_medians_of_each_depth(frame):
    """The middle seed adds two bytes; the task with one depth is left out."""
    points = depth.points_of(frame)
    assert set(points["task"]) == {"digits"}
    assert points["peak_bytes"].tolist() == [2002, 4002, 8002, 5002, 5002, 5002]
    assert points["steps"].tolist() == [2, 4, 8] * 2


def test_exponents_are_those_of_powers(frame):
    """1 for n, 0 for a constant, NaN for what nobody predicts."""
    points = depth.points_of(frame)
    naive, adjoint = (points[points["method"] == name] for name in ("naive", "adjoint"))
    assert depth.exponent(naive, "predicted_peak_bytes") == pytest.approx(1.0)
    assert depth.exponent(naive, "peak_bytes") == pytest.approx(1.0, abs=1e-3)
    assert depth.exponent(adjoint, "peak_bytes") == pytest.approx(0.0, abs=1e-12)
    assert math.isnan(depth.exponent(adjoint, "predicted_peak_bytes"))


def test_lines_and_words(frame, frame_of, record):
    """Two measured lines and one predicted; said with their exponents; one depth is nothing to draw."""
    (axis,) = depth.draw(frame).axes
    drawn = [(line.get_gid(), line.get_ydata().tolist()) for line in axis.lines]
    assert drawn == [
        ("peak_bytes", [2002, 4002, 8002]),
        ("predicted_peak_bytes", [1800, 3600, 7200]),
        ("peak_bytes", [5002, 5002, 5002]),
    ]
    assert (axis.get_xscale(), axis.get_yscale()) == ("log", "log")
    said = depth.describe(frame)
    assert "digits, naive: 2.00 kB at 2 steps to 8.00 kB at 8, growing like steps to the 1.00, as predicted" in said
    assert "digits, adjoint: 5.00 kB at 2 steps to 5.00 kB at 8, growing like steps to the 0.00" in said
    assert not depth.draw(frame_of([record()])).axes
