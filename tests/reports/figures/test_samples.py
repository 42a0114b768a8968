"""The histogram of steps of each sample: heights by hand, beside the steps that samples share."""

import numpy as np
import pytest

from odegrad.reports.figures import samples

OWN = {"solver_options": (("batch", "per_sample"),)}


@pytest.fixture
def frame(record, frame_of):
    """Four samples by themselves in each of two seeds, a run on shared steps, and a task without either."""
    return frame_of(
        [
            record(method="aca", accepted_steps=30, sample_steps=None),
            record(method="aca", settings=OWN, accepted_steps=16, sample_steps=[3, 3, 4, 6]),
            record(method="aca", seed=1, settings=OWN, accepted_steps=16, sample_steps=[3, 4, 4, 6]),
            record(task="circles", method="aca"),
        ]
    )


def test_heights_are_shares_of_the_samples_and_a_line_is_where_all_share_steps(frame):
    """Of eight samples 3 take three steps, 3 four, none five and 2 six."""
    figure = samples.draw(frame)
    (axis,) = figure.axes
    assert axis.get_title(loc="left") == "digits"
    (outline,) = [patch for patch in axis.patches if patch.get_gid() == "own"]
    np.testing.assert_allclose(outline.get_data().values, [3 / 8, 3 / 8, 0.0, 2 / 8])
    np.testing.assert_allclose(outline.get_data().edges, [2.5, 3.5, 4.5, 5.5, 6.5])
    (line,) = [line for line in axis.lines if line.get_gid() == "joint"]
    assert set(line.get_xdata()) == {30.0}


def test_the_axis_is_logarithmic_where_steps_are_far_apart(record, frame_of):
    """Own steps from 2 to 40 and 300 shared ones: bins by even factors that hold every sample, a line at 300."""
    own = [2, 2, 3, 5, 9, 17, 40, 40]
    rows = [record(method=m, settings=OWN, accepted_steps=118, sample_steps=own) for m in ("aca", "adjoint")]
    figure = samples.draw(frame_of([*rows, record(method="aca", accepted_steps=300, sample_steps=None)]))
    (axis,) = figure.axes
    assert axis.get_xscale() == "log"
    outlines = [patch for patch in axis.patches if patch.get_gid() == "own"]
    assert len(outlines) == 2
    assert len([patch for patch in axis.patches if patch.get_gid() == "area"]) == 1
    values, edges, _ = outlines[0].get_data()
    assert values.sum() == pytest.approx(1.0)
    assert edges[0] == 1.5
    assert edges[-1] == 40.5
    assert (np.diff(edges) >= 1.0).all()
    assert axis.get_xlim()[1] > 300


def test_it_is_told_in_words(frame, frame_of, quick):
    """The least, the most and the middle; and where there is nothing to tell."""
    said = samples.describe(frame)
    assert "aca (batch=per_sample) 3 to 6, 3.50 in the middle" in said
    assert "30 steps that all samples share" in said
    assert "circles" not in said
    assert samples.describe(frame_of(quick)).endswith("No run has samples with steps of their own.")
