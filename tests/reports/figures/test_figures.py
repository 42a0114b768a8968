"""Figures by their data: what is drawn is what was measured."""

import dataclasses
import itertools
import math

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest

import odegrad
from odegrad.errors import UnknownNameError
from odegrad.records.record import Status
from odegrad.reports.canvas import style
from odegrad.reports.equal_error import pareto_front
from odegrad.reports.figures import costs, evaluations, targets, training, work_precision
from odegrad.reports.figures.drawing import draw_all, render, write_figures
from odegrad.reports.figures.kinds import FIGURE_KINDS
from odegrad.reports.figures.sweeps import integration_time
from odegrad.reports.names import METHOD_ORDER
from odegrad.reports.summary import summary
from odegrad.reports.tables.across import across


def lines(axis, gid):
    return [line for line in axis.get_lines() if line.get_gid() == gid]


def panel(figure, title):
    return next(axis for axis in figure.axes if axis.get_title(loc="left") == title)


def test_training_draws_traces_and_their_median(record, frame_of):
    """Thin lines are the seeds' traces, the bold one is their median, a target is a level."""
    traces = {0: ([0.0, 1.0, 2.0], [0.1, 0.5, 0.9]), 1: ([0.0, 3.0, 4.0], [0.3, 0.7, 0.8])}
    figure = training.draw(frame_of([
        record(seed=s, trace_seconds=t, trace_metric=m, metric_target=0.85) for s, (t, m) in traces.items()
    ]))  # fmt: skip
    axis = panel(figure, "digits")
    assert [(x.get_xdata().tolist(), x.get_ydata().tolist()) for x in lines(axis, "seed")] == list(traces.values())
    (median,) = lines(axis, "median")
    np.testing.assert_allclose(median.get_xdata(), [0.0, 2.0, 3.0])
    np.testing.assert_allclose(median.get_ydata(), [0.2, 0.6, 0.85])
    assert lines(axis, "target")[0].get_ydata()[0] == 0.85
    assert axis.get_ylabel().startswith("accuracy")


def test_training_axis_fits_what_comes_after_the_start(record, frame_of):
    """An untrained start far off does not flatten the rest; the axis says that it lies beyond."""
    far = record(trace_seconds=[0.0, 1.0, 2.0], trace_metric=[0.0, 0.8, 0.9], metric_target=0.85)
    near = record(trace_seconds=[0.0, 1.0, 2.0], trace_metric=[0.8, 0.8, 0.9], metric_target=0.85)
    axis = panel(training.draw(frame_of([far])), "digits")
    np.testing.assert_allclose(axis.get_ylim(), [0.792, 0.908])
    assert lines(axis, "median")[0].get_ydata().tolist() == [0.0, 0.8, 0.9]
    assert "start beyond the axis" in axis.get_ylabel()
    assert panel(training.draw(frame_of([near])), "digits").get_ylabel() == "accuracy"


def test_training_leaves_out_what_is_not_finite_and_says_so(record, frame_of):
    """A NaN on the way is a gap that the panel counts."""
    one = record(trace_seconds=[0.0, 1.0, 2.0], trace_metric=[0.1, math.nan, 0.9])
    axis = panel(training.draw(frame_of([one])), "digits")
    assert lines(axis, "median")[0].get_ydata().tolist() == [0.1, 0.9]
    assert "not finite: 1" in axis.get_xlabel()


def test_training_draws_a_band_over_many_seeds(record, frame_of):
    """More seeds than lines can tell apart become the band between the quartiles."""
    runs = [record(seed=s, trace_seconds=[0.0, 1.0], trace_metric=[0.0, s / 100]) for s in range(101)]
    axis = panel(training.draw(frame_of(runs)), "digits")
    assert lines(axis, "seed") == []
    (band,) = [c for c in axis.collections if c.get_gid() == "band"]
    heights = band.get_paths()[0].vertices[:, 1]
    assert heights.max() == pytest.approx(0.75)
    assert sorted(set(np.round(heights, 12))) == [0.0, 0.25, 0.75]


def test_variants_of_a_method_differ_in_dashes(record, frame_of):
    """A sweep gives lines of one colour that can be told apart, each with its place in the legend."""
    figure = training.draw(frame_of([record(settings={"rtol": r}) for r in (1e-3, 1e-5)]))
    drawn = lines(panel(figure, "digits"), "median")
    assert len({x.get_color() for x in drawn}) == 1
    assert len({str(x._dash_pattern) for x in drawn}) == 2
    assert [t.get_text() for t in figure.legends[0].get_texts()] == ["naive (rtol 1e-05)", "naive (rtol 0.001)"]


def test_work_precision_draws_medians(quick, frame_of):
    """Every method is at its median cost and error, against time and against memory, in every task's row."""
    frame = frame_of(quick)
    table = summary(frame)
    figure = work_precision.draw(frame)
    assert [a.get_title(loc="left") for a in figure.axes] == ["circles"] * 3 + ["digits"] * 3
    for axis, (task, cost) in zip(
        figure.axes, itertools.product(["circles", "digits"], ["seconds", "nfe", "peak_bytes"]), strict=True
    ):
        rows = table[table["task"] == task]
        both = {
            "seconds": rows["forward_seconds"] + rows["backward_seconds"],
            "nfe": rows["nfe_forward"] + rows["nfe_backward"],
        }
        points = [(float(x.get_xdata()[0]), float(x.get_ydata()[0])) for x in lines(axis, None)]
        assert points == list(zip(both.get(cost, rows["peak_bytes"]), rows["gradient_relative_error"], strict=True))
        assert (axis.get_xscale(), axis.get_yscale()) == ("log", "log")


def test_zero_error_is_drawn_at_a_labelled_floor(quick, frame_of):
    """Exact methods stay in the figure: a decade under the least error, on a line that says 0."""
    figure = work_precision.draw(frame_of(quick), error="gradient_method_error")
    axis = figure.axes[3]  # digits: naive and anode 0, the least other 4.4e-4
    heights = sorted(float(x.get_ydata()[0]) for x in axis.get_lines() if x.get_gid() is None)
    np.testing.assert_allclose(heights, [1e-5, 1e-5, 4.4e-4, 7.9e-4, 7.9e-4])
    assert lines(axis, "floor")[0].get_ydata()[0] == pytest.approx(1e-5)
    assert axis.yaxis.get_major_formatter()(1e-5) == "exactly 0"
    assert axis.yaxis.get_major_formatter()(1e-4) == "1e-04"
    assert "torchdiffeq_naive" in axis.get_xlabel()


def test_only_exact_methods(record, frame_of):
    """Without any positive error the floor is the precision of float64."""
    axis = work_precision.draw(frame_of([record()]), error="gradient_method_error").axes[0]
    assert lines(axis, "floor")[0].get_ydata()[0] == pytest.approx(1e-16)


def test_work_precision_names_what_it_cannot_draw(record, frame_of):
    """Infinite errors and failed methods are named under the panel, not dropped."""
    runs = [record(), record(method="adjoint", gradient_relative_error=math.inf)]
    runs += [record(method="anode", status=Status.ERROR, message="x")]
    axis = work_precision.draw(frame_of(runs)).axes[0]
    assert len(axis.get_lines()) == 1
    assert "adjoint and anode" in " ".join(axis.get_xlabel().split())


def test_points_of_a_sweep_are_joined(record, frame_of):
    """Tolerances of one method make one line, from cheap to dear."""
    sweep = [(1e-3, 0.01, 1e-2), (1e-7, 0.04, 1e-6), (1e-5, 0.02, 1e-4)]
    frame = frame_of([
        record(settings={"rtol": r}, forward_seconds=s, backward_seconds=s, gradient_relative_error=e)
        for r, s, e in sweep
    ])  # fmt: skip
    (line,) = lines(work_precision.draw(frame).axes[0], None)
    assert line.get_xdata().tolist() == [0.02, 0.04, 0.08]
    assert line.get_ydata().tolist() == [1e-2, 1e-4, 1e-6]


def test_bars_are_counts_and_bytes(record, frame_of):
    """NFE bars stack to their sum; the kept memory lies in the peak; a failed method keeps its place."""
    frame = frame_of([
        record(nfe_forward=20, nfe_backward=0, peak_bytes=58_000_000, saved_bytes=35_000_000),
        record(method="adjoint", nfe_forward=20, nfe_backward=36, peak_bytes=5_000_000, saved_bytes=1_000_000),
        record(method="anode", status=Status.DIVERGED, message="x"),
    ])  # fmt: skip
    nfe, memory = costs.draw(frame).axes
    assert [(b.get_x(), b.get_width()) for b in nfe.patches] == [(0, 20), (0, 20), (0, 0), (20, 0), (20, 36), (0, 0)]
    assert [b.get_width() for b in memory.patches] == [58.0, 5.0, 0.0, 35.0, 1.0, 0.0]
    assert [t.get_text() for t in nfe.get_yticklabels()] == ["naive", "adjoint", "anode"]
    assert [t.get_text() for t in nfe.texts] == ["20 + 0", "20 + 36", "no run ended ok"]


def test_looks_are_fixed_and_distinct():
    """Known methods look like no other; unknown ones look the same every time, and like no known one."""
    looks = [style.look(m) for m in METHOD_ORDER]
    assert len(set(looks)) == len(METHOD_ORDER)
    assert style.look("my_method.py:Mine") == style.look("my_method.py:Mine")
    unknown = {style.look(f"method {i}") for i in range(200)}
    assert len(unknown) == len(style.UNKNOWN_COLOURS) * len(style.UNKNOWN_MARKERS)
    assert not unknown & set(looks)


def test_a_method_looks_the_same_in_every_figure(quick, frame_of):
    """Colour and marker in training and work-precision figures are the style's."""
    frame = frame_of([r for r in quick if r.run.method == "snopt"])
    drawn = [lines(training.draw(frame).axes[0], "median")[0], work_precision.draw(frame).axes[0].get_lines()[0]]
    look = style.look("snopt")
    assert {(x.get_color(), x.get_marker()) for x in drawn} == {(look.colour, look.marker)}


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("$x$", r"\$x\$"),
        ("_a", " _a"),
        ("漢", "?"),
        ("a\nb", "a b"),
        ("Größe", "Größe"),
        ("x" * 40, f"{'x' * 14}…{'x' * 13}"),
    ],
)
def test_drawable_names(name, shown):
    """No name is read as mathematics, hidden, or drawn with glyphs that the font lacks."""
    assert style.drawable(name) == shown


@pytest.mark.parametrize("columns", [1, 2])
@pytest.mark.parametrize("kind", FIGURE_KINDS, ids=lambda kind: kind.name)
def test_every_figure_of_every_result_set(kind, columns, quick, mixed, record, frame_of):
    """Empty, all failed, one run, all fine and all odd: drawn as wide as asked, described, without a warning."""
    failed = record(status=Status.ERROR, message="x")
    for records in ([], [failed], [record()], quick, mixed):
        frame = frame_of(records)
        figure = kind.draw(frame, columns)
        assert figure.get_figwidth() == style.COLUMN_INCHES[columns]
        assert render(figure, "svg").startswith(b"<?xml")
        assert kind.describe(frame).endswith(".")


def test_alternative_text_holds_the_numbers(quick, frame_of):
    """What a figure shows is also said."""
    frame = frame_of(quick)
    row = next(r for r in summary(frame).itertuples() if r.task == "digits" and r.method == "anode")
    said = {kind.name: kind.describe(frame) for kind in FIGURE_KINDS}
    assert f"anode {row.metric_value:.4f} after 4.41 s" in said["training"]
    assert "anode 2.4e-04 in 55.1 ms, 40 f calls and 12.7 MB" in said["work_precision"]
    assert "anode 0 in 55.1 ms, 40 f calls and 12.7 MB" in said["method_error"]
    assert "anode 20 forward and 20 backward calls, peak 12.7 MB" in said["costs"]


def test_files(quick, frame_of, tmp_path):
    """PNG of at least 150 dpi, PDF with TrueType fonts inside, SVG with text; the same frame gives the same SVG."""
    frame = frame_of(quick)
    before = dict(mpl.rcParams)
    paths, drawn = write_figures(draw_all(frame), tmp_path / "figures")
    assert dict(mpl.rcParams) == before
    assert {p.suffix for p in paths} == {".png", ".pdf", ".svg"}
    assert len(paths) == 3 * sum(bool(each.files) for each in drawn) >= 3 * 7
    png = (tmp_path / "figures" / "training.png").read_bytes()
    assert int.from_bytes(png[16:20], "big") >= 150 * style.COLUMN_INCHES[2]
    pdf = (tmp_path / "figures" / "training.pdf").read_bytes()
    assert b"/FontFile2" in pdf
    assert b"/Type3" not in pdf
    svg = (tmp_path / "figures" / "training.svg").read_text(encoding="utf-8")
    assert "torchdiffeq_adjoint</text>" in svg
    assert svg.encode() == render(training.draw(frame), "svg")


def test_front_holds_what_no_other_point_beats():
    """By hand: cheapest, most exact and what lies between; ties in cost keep the more exact one alone."""
    costs = pd.Series([1.0, 1.0, 2.0, 3.0, 4.0, 4.0])
    errors = pd.Series([5.0, 6.0, 5.0, 2.0, 3.0, 1.0])
    assert pareto_front(costs, errors).tolist() == [True, False, False, True, False, True]


def test_front_is_that_of_every_pair():
    """Against the definition, on random points with ties."""
    rng = np.random.default_rng(0)
    for _ in range(20):
        c, e = rng.integers(0, 6, (2, 15)).astype(float)
        beaten = [
            any(c[j] <= c[i] and e[j] <= e[i] and (c[j] < c[i] or e[j] < e[i]) for j in range(15)) for i in range(15)
        ]
        assert pareto_front(pd.Series(c), pd.Series(e)).tolist() == [not b for b in beaten]


def test_training_against_iterations_and_calls(record, frame_of):
    """The same metric at other places: calls grow from 56 to 92 an iteration, so 100 iterations are 7400 calls."""
    run = record(
        method="adjoint", trace_iteration=[0, 50, 100], trace_metric=[0.1, 0.5, 0.9], trace_seconds=[0.0, 1.0, 2.0],
        nfe_forward=20, nfe_backward=36, trained_nfe_forward=32, trained_nfe_backward=60,
    )  # fmt: skip
    (line,) = lines(training.draw(frame_of([run]), against="iterations").axes[0], "median")
    assert line.get_xdata().tolist() == [0.0, 50.0, 100.0]
    (line,) = lines(training.draw(frame_of([run]), against="nfe").axes[0], "median")
    assert line.get_xdata().tolist() == [0.0, 50 * 65.0, 100 * 74.0]
    traced = {"trace_nfe_forward": [20, 20, 40], "trace_nfe_backward": [36, 56, 76]}
    run = dataclasses.replace(run, measured={**run.measured, **traced})
    (line,) = lines(training.draw(frame_of([run]), against="nfe").axes[0], "median")
    assert line.get_xdata().tolist() == [0.0, 50 * 66.0, 50 * 66.0 + 50 * 96.0]


def test_calls_over_the_training(record, frame_of):
    """A line a method, the median over seeds of both directions; runs that did not count them are not there."""
    runs = [
        record(method="adjoint", seed=s, trace_iteration=[0, 4, 8], trace_nfe_forward=[20, 26, 32 + 6 * s],
               trace_nfe_backward=[20, 32, 44])
        for s in range(3)
    ]  # fmt: skip
    (axis,) = evaluations.draw(frame_of([*runs, record(method="naive")])).axes
    (line,) = lines(axis, "median")
    assert line.get_xdata().tolist() == [0.0, 4.0, 8.0]
    assert line.get_ydata().tolist() == [40.0, 58.0, 82.0]
    assert len(lines(axis, "seed")) == 3
    assert "adjoint from 40.0 to 82.0" in evaluations.describe(frame_of(runs))
    assert not evaluations.draw(frame_of([record()])).axes


def test_optimizers_are_lines_where_there_are_several(record, frame_of):
    """A colour an optimizer, tasks with one optimizer left out; one optimizer alone is no comparison."""
    runs = [record(settings={"optimizer": name}, seed=s) for name in ("adam", "sgd") for s in (0, 1)]
    axes = training.draw_optimizers(frame_of([*runs, record(task="circles")])).axes
    assert [axis.get_title(loc="left") for axis in axes] == ["digits"]
    assert [x.get_color() for x in lines(axes[0], "median")] == [style.look(n).colour for n in ("adam", "sgd")]
    assert not training.draw_optimizers(frame_of(runs[:2])).axes


def test_many_tasks_are_dots(record, frame_of):
    """More tasks than rows of panels: a row a task and a dot a method, with the medians' values."""
    runs = [record(task=f"task {i}", method=m, nfe_forward=10 + i) for i in range(8) for m in ("naive", "adjoint")]
    figure = costs.draw(frame_of(runs))
    assert len(figure.axes) == 3
    drawn = {x.get_marker(): x.get_xdata().tolist() for x in lines(figure.axes[0], "nfe_forward")}
    assert drawn == {"o": list(range(10, 18)), "s": list(range(10, 18))}
    assert [t.get_text() for t in figure.axes[0].get_yticklabels()] == [f"task {i}" for i in range(8)]
    exact = lines(costs.draw(frame_of(runs)).axes[1], "nfe_backward")[0]
    assert len(set(exact.get_xdata())) == 1  # naive: no backward call, at the floor
    assert any(t.get_text() == "exactly 0" for t in figure.axes[1].texts)


def test_more_tasks_than_a_file_holds(record, frame_of):
    """The 25th task goes to a second part; no task is lost or twice there."""
    frame = frame_of([record(task=f"t{i:02d}") for i in range(25)])
    parts = draw_all(frame, [k for k in FIGURE_KINDS if k.name == "costs"], formats=())
    assert [p.name for p in parts] == ["costs", "costs_2"]
    assert [p.tasks for p in parts] == [tuple(f"t{i:02d}" for i in range(24)), ("t24",)]


def test_several_processes_draw_the_same_files(quick, frame_of):
    """Byte for byte and in the same order."""
    frame = frame_of(quick)
    kinds = [k for k in FIGURE_KINDS if k.name in {"costs", "work_precision", "integration_time"}]
    alone, together = (draw_all(frame, kinds, processes=number) for number in (1, 2))
    assert alone == together
    assert [bool(each.files) for each in alone] == [True, False, True]
    assert all(each.narrow.startswith(b"<?xml") for each in alone if each.files)


def test_time_to_target_draws_medians_with_the_never_reached(record, frame_of):
    """A dot a method at its median; where most seeds never reach the target it lies at the edge that says so."""
    trace = {"trace_iteration": [0, 10, 20], "trace_seconds": [0.0, 1.0, 2.0], "metric_target": 0.8}
    runs = [record(seed=s, trace_metric=[0.1, 0.8, 0.9], **trace) for s in range(3)]
    runs += [record(method="adjoint", seed=s, trace_metric=[0.1, 0.2, 0.9 if s else 0.3], **trace) for s in range(3)]
    runs += [record(method="anode", seed=s, status=Status.ERROR, message="x") for s in range(3)]
    figure = targets.draw(frame_of(runs))
    seconds, iterations = figure.axes
    drawn = {x.get_marker(): float(x.get_xdata()[0]) for x in lines(seconds, "target_seconds")}
    assert (drawn["o"], drawn["s"]) == (1.0, 2.0)
    assert drawn["^"] > 2.0
    assert any(t.get_text() == "not reached" for t in seconds.texts)
    assert [float(x.get_xdata()[0]) for x in lines(iterations, "target_iterations")][:2] == [10.0, 20.0]
    assert "anode not reached (0 of 3 runs)" in targets.describe(frame_of(runs))


def test_profiles_are_drawn_as_steps(record, frame_of):
    """By hand: naive is first on both problems; adjoint needs twice the memory on one and failed on the other."""
    runs = [record(peak_bytes=10, seed=s) for s in (0, 1)]
    runs += [
        record(method="adjoint", peak_bytes=20),
        record(method="adjoint", seed=1, status=Status.ERROR, message="x"),
    ]
    axis = targets.draw_profiles(frame_of(runs)).axes[2]
    naive, adjoint = lines(axis, "profile")
    assert naive.get_xdata().tolist()[:2] == adjoint.get_xdata().tolist()[:2] == [1.0, 2.0]
    assert naive.get_ydata().tolist() == [1.0, 1.0, 1.0]
    assert adjoint.get_ydata().tolist() == [0.0, 0.5, 0.5]
    assert "adjoint 0% first, 50% at all" in targets.describe_profiles(frame_of(runs))


def test_integration_time_is_drawn_where_it_is_trained(record, frame_of):
    """End time of every iteration and f calls of every evaluation; runs without a trained end time are not there."""
    runs = [
        record(seed=s, train_end_time=[1.0, 0.9, 0.8 - 0.2 * s], trace_iteration=[0, 3], trace_nfe_forward=[20, 14])
        for s in (0, 1)
    ]
    left, right = integration_time.draw(frame_of([*runs, record("circles")])).axes
    assert lines(left, "median")[0].get_ydata().tolist() == pytest.approx([1.0, 0.9, 0.7])
    assert lines(left, "median")[0].get_xdata().tolist() == [1, 2, 3]
    assert lines(right, "median")[0].get_ydata().tolist() == [20.0, 14.0]
    assert lines(right, "median")[0].get_xdata().tolist() == [0.0, 3.0]
    assert not integration_time.draw(frame_of([record()])).axes


def test_crowded_panels_draw_medians_alone(record, frame_of):
    """With more curves than one can follow, no seeds, and a marker at each end."""
    runs = [record(seed=s, settings={"rtol": 10.0**-r}) for r in range(1, 18) for s in (0, 1)]
    axis = training.draw(frame_of(runs)).axes[0]
    assert len(lines(axis, "median")) == 17
    assert lines(axis, "seed") == []
    assert {str(x.get_markevery()) for x in lines(axis, "median")} == {"[-1]"}


def test_error_after_training_is_drawn_over_the_calls_there(record, frame_of):
    """20 + 26 f calls after the training, where it took 14 + 14 before; times and memory are said to be older."""
    measured = {"nfe_forward": 14, "nfe_backward": 14, "trained_nfe_forward": 20, "trained_nfe_backward": 26}
    frame = frame_of([record(gradient_relative_error=1e-6, trained_gradient_relative_error=1e-3, **measured)])
    for prefix, calls, before, after in (
        ("", 28.0, "", ""),
        ("trained_", 46.0, "\nbefore training", "\nafter training"),
    ):
        drawn = work_precision.draw(frame, error=f"{prefix}gradient_relative_error")
        seconds, nfe, memory = drawn.axes
        assert [line.get_xdata()[0] for line in nfe.lines if len(line.get_xdata())] == [calls]
        assert nfe.get_xlabel() == f"f calls{after}"
        assert seconds.get_xlabel() == f"forward + backward time (ms){before}"
        assert memory.get_xlabel() == f"peak bytes (MB){before}"


def test_figure_by_name(quick, frame_of):
    """The face draws what the report does; an unknown name is answered with the nearest."""
    frame = frame_of(quick)
    assert render(odegrad.figure(frame, "costs"), "svg") == render(costs.draw(frame), "svg")
    with pytest.raises(UnknownNameError, match="unknown figure 'cost': did you mean 'costs'"):
        odegrad.figure(frame, "cost")


def test_profiles_need_a_problem_that_is_solved(record, frame_of):
    """Where every run failed there is no line at the bottom, and nobody has a rank."""
    frame = frame_of([record(method=m, status=Status.TIMEOUT, message="x") for m in ("naive", "adjoint")])
    assert not targets.draw_profiles(frame).axes
    assert across(frame)["time_rank"].isna().all()
