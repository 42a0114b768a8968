"""Figures of logarithmic norms, by their data."""

import math

import numpy as np
import pandas as pd
import pytest

from odegrad.reports.figures import log_norm


def times():
    t = np.linspace(0.0, 1.0, 5)
    columns = {"time": t}
    for name, sign in (("mu_2", 1.0), ("mu_2_minus", -1.0)):
        columns |= {f"{name}_mean": sign * t, f"{name}_low": sign * t - 1.0, f"{name}_high": sign * t + 1.0}
    return pd.DataFrame(columns)


def methods():
    return pd.DataFrame(
        {
            "gradient": ["naive", "adjoint", "mali"],
            "predicted": [math.nan, math.inf, 1e-3],
            "observed": [1e-6, 2.0, math.nan],
            "verdict": ["safe", "unsafe at any rtol that float32 holds", "failed: no steps"],
        }
    )


def lines(axis, gid):
    return [line for line in axis.lines if line.get_gid() == gid]


def test_diagnosis_draws_what_it_is_given():
    """Means over time, every eigenvalue, observed errors where there are some, the training."""
    cloud = pd.DataFrame({"time": [0.0, 0.0, 1.0], "eigenvalue": [1.0, -2.0, 3.0]})
    trained = pd.DataFrame({"iteration": [0, 5, 10], "mu_2": [1.0, 2.0, 3.0], "mu_2_minus": [0.0, -1.0, -2.0]})
    figure = log_norm.draw_diagnosis(times(), cloud, methods(), trained)
    over_time, eigenvalues, errors, training = figure.axes
    (line,) = lines(over_time, "mu_2")
    np.testing.assert_allclose(line.get_ydata(), times()["mu_2_mean"])
    np.testing.assert_allclose(eigenvalues.collections[0].get_offsets(), cloud.to_numpy())
    assert [line.get_xdata()[0] for line in lines(errors, "observed")] == [2.0, 1e-6]
    assert len(lines(errors, "predicted")) == 2
    colours = {label.get_text(): label.get_color() for label in errors.get_yticklabels()}
    assert colours["naive"] != colours["adjoint"] == colours["mali"] == log_norm.UNSAFE
    (line,) = lines(training, "mu_2_minus")
    assert list(line.get_ydata()) == [0.0, -1.0, -2.0]


def test_diagnosis_without_matrices_or_training_says_so():
    figure = log_norm.draw_diagnosis(times(), pd.DataFrame({"time": [], "eigenvalue": []}), methods())
    assert len(figure.axes) == 3
    assert any("too large" in text.get_text() for text in figure.axes[1].texts)


def test_law_draws_errors_and_the_prediction():
    frame = pd.DataFrame(
        [
            {"gradient": name, "exponent": x, "observed": 1e-7 * x, "predicted": 1e-6 * math.exp(x)}
            for name in ("adjoint", "naive")
            for x in (2.0, 5.0, 10.0)
        ]
    )
    (axis,) = log_norm.draw_law(frame).axes
    (observed,) = lines(axis, "naive")
    np.testing.assert_allclose(observed.get_ydata(), [2e-7, 5e-7, 1e-6])
    (law,) = lines(axis, "law")
    np.testing.assert_allclose(law.get_ydata(), 1e-6 * np.exp([2.0, 5.0, 10.0]))
    assert axis.get_yscale() == "log"


def test_records_are_drawn_as_medians_over_seeds(frame_of, quick):
    """One line a method and task, through the median of its seeds at every point of the training."""
    traced = frame_of(quick).copy()
    points = [[0, 10, 20] if s == "ok" else None for s in traced["status"]]
    traced["trace_iteration"] = pd.Series(points, index=traced.index, dtype="object")
    values = [None if p is None else [1.0, 2.0 + seed, 3.0] for p, seed in zip(points, traced["seed"], strict=True)]
    traced["trace_log_norm_minus_max"] = pd.Series(values, index=traced.index, dtype="object")
    figure = log_norm.draw(traced)
    drawn = [line for axis in figure.axes for line in lines(axis, "median")]
    assert drawn
    ok = traced[traced["status"] == "ok"]
    medians = {2.0 + ok[ok["method"] == m]["seed"].median() for m in ok["method"].unique()}
    assert {line.get_ydata()[1] for line in drawn} <= medians
    assert "mu_2(-J) ends at" in log_norm.describe(traced)


def test_records_without_norms_say_so(frame_of, quick):
    frame = frame_of(quick)
    bare = frame.assign(trace_log_norm_minus_max=pd.Series([None] * len(frame), dtype="object"))
    assert "No finished run" in log_norm.describe(bare)
    assert any("No finished run" in text.get_text() for text in log_norm.draw(bare).texts)


@pytest.mark.parametrize("columns", [1, 2])
def test_both_widths(columns):
    figure = log_norm.draw_diagnosis(times(), pd.DataFrame({"time": [], "eigenvalue": []}), methods(), columns=columns)
    assert figure.get_size_inches()[0] == pytest.approx({1: 3.5, 2: 7.2}[columns])
