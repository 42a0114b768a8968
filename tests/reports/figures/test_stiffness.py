"""Cost against stiffness, by its data."""

import pytest

from odegrad.reports.figures import costs


@pytest.fixture
def frame(record, frame_of):
    """Return two solvers at three decays: calls that grow with the decay, and calls that stay; and one decay alone."""
    runs = [
        record(
            "prothero_robinson", "aca", seed, settings={"solver": solver, "size": size}, log_norm_minus_max=decay,
            nfe_forward=forward + seed, nfe_backward=backward,
        )
        for solver, grows in (("dopri5", True), ("kencarp4", False))
        for size, decay in (("tiny", 20.0), ("default", 300.0), ("steep", 2000.0))
        for forward, backward in [(2 * decay, 3 * decay) if grows else (100, 150)]
        for seed in range(3)
    ]  # fmt: skip
    return frame_of([*runs, record("circles", "aca", 0, log_norm_minus_max=5.0)])


def test_calls_are_medians_by_solver_and_decay(frame):
    """The middle seed adds one call; the task with one decay is left out."""
    found = costs.costs_by_decay(frame)
    assert set(found["task"]) == {"prothero_robinson"}
    assert found["solver"].tolist() == ["dopri5"] * 3 + ["kencarp4"] * 3
    assert found["decay"].tolist() == [20.0, 300.0, 2000.0] * 2
    assert found["nfe_forward"].tolist() == [41.0, 601.0, 4001.0, 101.0, 101.0, 101.0]
    assert found["nfe_backward"].tolist() == [60.0, 900.0, 6000.0, 150.0, 150.0, 150.0]


def test_lines_and_words_of_stiffness(frame, frame_of, record):
    """A solid and a dashed line a solver on logarithmic axes; said point by point; one decay is nothing to draw."""
    (axis,) = costs.draw_stiffness(frame).axes
    drawn = [(line.get_gid(), line.get_linestyle(), line.get_ydata().tolist()) for line in axis.lines]
    assert drawn[:2] == [("nfe_forward", "-", [41.0, 601.0, 4001.0]), ("nfe_backward", "--", [60.0, 900.0, 6000.0])]
    assert len(drawn) == 4
    assert (axis.get_xscale(), axis.get_yscale()) == ("log", "log")
    said = costs.describe_stiffness(frame)
    assert "kencarp4 with aca 101 forward and 150 backward calls at a decay of 2e+03" in said
    assert not costs.draw_stiffness(frame_of([record()])).axes
