"""The matrix of differences between gradients, by its data, from records with known gradients."""

import math

import numpy as np
import pytest

from odegrad.records.columns import COLUMNS
from odegrad.reports.figures import differences
from odegrad.reports.frame import read_parquet, to_parquet

SHIFTS = {"naive": 0.0, "anode": 0.0, "adjoint": 1e-3, "interpolation": -1e-5}
"""How far each gradient is from naive's, whose norm is 1."""


def _gradient(shift):
    vector = np.zeros(64)
    vector[0], vector[1] = 1.0, shift
    return {
        "gradient_sketch": vector.tolist(), "gradient_norm": float(np.linalg.norm(vector)),
        "gradient_digest": f"{shift:.0e}",
    }  # fmt: skip


@pytest.fixture
def gradients(record, frame_of):
    """Return records of two tasks and two seeds, adjoint off by ten times as much on the second seed."""
    return frame_of(
        record(task, method, seed, **_gradient(shift * (10.0 if method == "adjoint" and seed else 1.0)))
        for task in ("circles", "digits")
        for method, shift in SHIFTS.items()
        for seed in (0, 1)
    )


def test_matrix_holds_relative_differences(gradients):
    """Medians over seeds of the distances, in the order of methods, symmetric, exactly 0 where the bits agree."""
    table = differences.matrices_of(gradients)["digits"]
    assert list(table.index) == ["naive", "adjoint", "anode", "interpolation"]
    np.testing.assert_array_equal(table, table.T)
    assert table.loc["naive", "anode"] == 0.0
    assert table.loc["naive", "adjoint"] == pytest.approx(0.5 * (1e-3 + 1e-2), rel=1e-4)
    assert table.loc["naive", "interpolation"] == pytest.approx(1e-5, rel=1e-4)
    assert table.loc["adjoint", "interpolation"] == pytest.approx(0.5 * (1e-3 + 1e-2) + 1e-5, rel=1e-4)


def test_figure_shows_powers_of_ten(gradients):
    """The image holds log10; agreement to the bit is masked and marked; alt text names both."""
    figure = differences.draw(gradients)
    circles, digits = (axis for axis in figure.axes if axis.images)
    shown = digits.images[0].get_array()
    assert shown.mask.sum() == 6  # the diagonal, and naive with anode
    assert shown[0, 3] == pytest.approx(-5.0, abs=1e-4)
    texts = [text.get_text() for text in circles.texts]
    assert texts.count("=") == 6
    assert texts.count("-5") == 4
    said = differences.describe(gradients)
    assert "digits: farthest adjoint and interpolation, 5.5e-03; the same to the bit: naive = anode" in said


def test_only_gradients_of_one_block_are_compared(record, frame_of):
    """Two methods that never met at one tolerance have no number; other tolerances make no further rows."""
    runs = [record("digits", m, 0, settings={"rtol": tol}, **_gradient(s)) for m, s, tol in (
        ("naive", 0.0, 1e-3), ("adjoint", 1e-3, 1e-3), ("naive", 0.0, 1e-5), ("interpolation", 1e-5, 1e-5),
    )]  # fmt: skip
    table = differences.matrices_of(frame_of(runs))["digits"]
    assert list(table.index) == ["naive", "adjoint", "interpolation"]
    assert math.isnan(table.loc["adjoint", "interpolation"])
    assert table.loc["naive", "interpolation"] == pytest.approx(1e-5, rel=1e-4)


def test_variants_in_one_block_are_told_apart(record, frame_of):
    """Two numbers of nodes of one method stand beside each other."""
    runs = [
        record("digits", "interpolation", 0, settings={"gradient_options": (("num_nodes", n),)}, **_gradient(s))
        for n, s in ((4, 1e-3), (8, 0.0))
    ]
    table = differences.matrices_of(frame_of(runs))["digits"]
    assert list(table.index) == ["interpolation (num_nodes=4)", "interpolation (num_nodes=8)"]
    assert table.iloc[0, 1] == pytest.approx(1e-3, rel=1e-4)


def test_records_without_sketches_draw_nothing(quick, frame_of):
    """Older records load, and the figure says that there is nothing to show."""
    frame = frame_of(quick)
    assert not differences.draw(frame).axes
    assert "No two gradients" in differences.describe(frame)
    assert not differences.draw(frame.drop(columns="gradient_sketch")).axes


def test_sketches_come_back_from_parquet(gradients, tmp_path):
    """Lists stay lists of the same numbers; both columns are documented."""
    to_parquet(gradients, tmp_path / "records.parquet")
    back = read_parquet(tmp_path / "records.parquet")
    both = zip(back["gradient_sketch"], gradients["gradient_sketch"], strict=True)
    assert all(one is other is None or one.tolist() == other.tolist() for one, other in both)
    assert {"gradient_sketch", "gradient_norm"} <= {column.name for column in COLUMNS}
