"""The papers' own figures and tables, by their data, from hand-made records; writing them, and the page's section."""

import csv
import dataclasses
import io
import math

import numpy as np
import pytest

from odegrad.records.record import Status
from odegrad.reports.figures.sweeps import nodes, sensitivity
from odegrad.reports.page.build import build_report
from odegrad.reports.page.render import page
from odegrad.reports.papers.exhibits import PaperFigure, PaperTable, write_exhibits
from odegrad.reports.papers.relative_costs import memory_of
from odegrad.reports.papers.relative_costs import table_of as costs_of
from odegrad.reports.papers.shown import EXHIBITS, NODES, SENSITIVITY
from odegrad.reports.summary import Results

COUNTS = (2, 8)
TOLERANCES = (1e-3, 1e-5)


def error_of(count, rtol):
    """Halve with the nodes until the tolerance is met; the adjoint (no nodes) is at the tolerance."""
    return rtol if count is None else max(rtol, 10.0**-count)


@pytest.fixture
def node_sweep(record, frame_of):
    """Return a sweep on two tasks: the adjoint calls f 40 times on the way back, interpolation 10 times a node."""
    runs = []
    for task in ("digits", "circles"):
        for rtol in TOLERANCES:
            for count in (None, *COUNTS):
                options = {} if count is None else {"gradient_options": (("num_nodes", count),)}
                gradient = "adjoint" if count is None else "interpolation"
                name = gradient if count is None else f"interpolation num_nodes={count}"
                settings = {"gradient": gradient, "rtol": rtol, "atol": rtol, **options}
                measured = {
                    "gradient_relative_error": error_of(count, rtol), "gradient_method_error": 0.5 * rtol,
                    "nfe_forward": 20, "nfe_backward": 40 if count is None else 10 * count,
                }  # fmt: skip
                runs.append(record(task, name, 0, settings=settings, **measured))
    return frame_of(runs)


def lines(axis, gid):
    return [line for line in axis.lines if line.get_gid() == gid]


def test_error_and_calls_against_nodes(node_sweep):
    """A line a tolerance through all numbers of nodes; the adjoint is level, in the colour of its tolerance."""
    figure = nodes.draw(node_sweep)
    assert [axis.get_title(loc="left") for axis in figure.axes] == ["circles", "circles", "digits", "digits"]
    errors, calls = figure.axes[:2]
    for line, rtol in zip(lines(errors, "interpolation"), TOLERANCES, strict=True):
        assert list(line.get_xdata()) == list(COUNTS)
        assert list(line.get_ydata()) == [error_of(count, rtol) for count in COUNTS]
    assert [list(line.get_ydata()) for line in lines(calls, "interpolation")] == [[20.0, 80.0]] * 2
    for mine, base, rtol in zip(lines(errors, "interpolation"), lines(errors, "adjoint"), TOLERANCES, strict=True):
        assert list(base.get_ydata()) == [rtol, rtol]
        assert base.get_color() == mine.get_color()
    assert {line.get_ydata()[0] for line in lines(calls, "adjoint")} == {40.0}
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels == ["rtol 0.001", "rtol 1e-05", "adjoint at the same rtol"]


def test_error_and_calls_against_tolerance(node_sweep):
    """A line a number of nodes and one of the adjoint, tight tolerances on the right."""
    figure = nodes.draw(node_sweep, across="rtol")
    errors = figure.axes[0]
    for line, count in zip(lines(errors, "interpolation"), COUNTS, strict=True):
        assert list(line.get_xdata()) == list(TOLERANCES)
        assert list(line.get_ydata()) == [error_of(count, rtol) for rtol in TOLERANCES]
    (adjoint,) = lines(errors, "adjoint")
    assert list(adjoint.get_ydata()) == list(TOLERANCES)
    low, high = errors.get_xlim()
    assert low > high


def test_nodes_in_words(node_sweep, frame_of, record):
    """The alt text tells errors, calls and nodes; runs that do not name their nodes are no part of it."""
    said = nodes.describe(node_sweep)
    assert "circles: rtol 0.001: errors 1.0e-02 and 1.0e-03 with 20 and 80 calls at 2 and 8" in said
    unnamed = frame_of([record("digits", "interpolation"), record("digits", "adjoint")])
    assert nodes.points_of(unnamed)["gradient"].tolist() == ["adjoint"]
    assert not nodes.draw(unnamed).axes
    assert "No finished run" in nodes.describe(frame_of([]))


def test_an_error_of_zero_does_not_break_the_axis(node_sweep):
    """Exactly 0 has no place on a logarithmic axis: it is left out, the limits are those of the others."""
    node_sweep.loc[1, "gradient_relative_error"] = 0.0
    figure = nodes.draw(node_sweep)
    assert all(0.0 < low < high < math.inf for low, high in (axis.get_ylim() for axis in figure.axes[::2]))


@pytest.fixture
def settings_sweep(record, frame_of):
    """Return SNOpt with three dampings and three periods around (0.1, 20), two seeds; eps 0.01 diverged once."""
    runs = []
    for eps, period in ((0.01, 20), (0.1, 20), (1.0, 20), (0.1, 5), (0.1, 80)):
        for seed in (0, 1):
            options = {"optimizer_options": (("eps", eps), ("update_freq", period))}
            if (eps, seed) == (0.01, 1):
                runs.append(record("digits", "snopt", seed, Status.DIVERGED, "x", settings=options))
                continue
            losses = [9.0] * 5 + [eps + seed] * sensitivity.LAST
            metric = 0.9 + 0.01 * seed - 0.001 * period
            runs.append(record("digits", "snopt", seed, settings=options, metric_value=metric, train_loss=losses))
    return frame_of(runs)


def test_sensitivity_draws_each_sweep(settings_sweep):
    """Metric above, loss beneath; eps on the left at period 20, the period on the right at eps 0.1."""
    figure = sensitivity.draw(settings_sweep)
    metric_eps, metric_period, loss_eps, _ = figure.axes
    (line,) = lines(metric_period, "median")
    assert list(line.get_xdata()) == [5.0, 20.0, 80.0]
    np.testing.assert_allclose(line.get_ydata(), [0.9, 0.885, 0.825])
    (line,) = lines(loss_eps, "median")
    np.testing.assert_allclose(line.get_ydata(), [0.01, 0.6, 1.5])  # of one seed where the other diverged
    assert [len(dots.get_xdata()) for dots in lines(metric_eps, "seed")] == [5]
    assert "damping eps at update_freq 20: 0.8800 at 0.01, 0.8850 at 0.1 and 0.8850 at 1" in sensitivity.describe(
        settings_sweep
    )


def test_sensitivity_needs_a_sweep(settings_sweep, frame_of):
    """One setting alone is no sweep; nothing at all is neither."""
    alone = settings_sweep[[each == {"eps": 0.1, "update_freq": 20} for each in settings_sweep["optimizer_options"]]]
    assert not sensitivity.draw(alone).axes
    assert not sensitivity.draw(frame_of([])).axes
    assert "No finished run" in sensitivity.describe(frame_of([]))


def test_sensitivity_table(settings_sweep):
    """A row a setting with the range over seeds and the number of runs that ended ok."""
    table = sensitivity.table_of(settings_sweep).set_index(["eps", "update_freq"])
    row = table.loc[(0.1, 80.0)]
    assert (row["metric"], row["metric_low"], row["metric_high"]) == pytest.approx((0.825, 0.82, 0.83))
    assert (row["loss"], row["runs"]) == (pytest.approx(0.6), 2)
    assert table.loc[(0.01, 20.0), "runs"] == 1


def test_costs_are_relative_to_adam(record, frame_of):
    """10 ms an iteration of Adam, 12 and 14 of SNOpt: ratios 1.2 and 1.4, median 1.3; memory 2 and 3 MB."""
    runs = []
    for seed, mine in ((0, 1.2), (1, 1.4)):
        for name, seconds, size in (("adam", 1.0, 2e6), ("sgd", 0.9, 2e6), ("snopt", mine, 3e6)):
            costs = {"train_seconds": 0.8 * seconds, "peak_bytes": int(size)}
            runs.append(record("digits", name, seed, settings={"iterations": 80, "gradient": "adjoint"}, **costs))
    row = costs_of(frame_of(runs)).iloc[0]
    assert row["iteration_seconds_adam"] == pytest.approx(0.01)
    assert row["iteration_seconds_snopt"] == pytest.approx(1.3)
    assert (row["iteration_seconds_snopt_low"], row["iteration_seconds_snopt_high"]) == pytest.approx((1.2, 1.4))
    assert row["iteration_seconds_sgd"] == pytest.approx(0.9)
    assert (row["peak_bytes_adam"], row["peak_bytes_snopt"], row["pairs"]) == (2e6, 1.5, 2)


def test_memory_against_steps(record, frame_of):
    """A row a number of steps, both methods beside each other; a method that is not there is NaN, not left out."""
    runs = [
        record("digits", name, 0, settings={"solver_options": (("num_steps", n),)}, accepted_steps=n, peak_bytes=b)
        for name, n, b in (("adam", 2, 100), ("snopt", 2, 150), ("adam", 8, 100))
    ]
    table = memory_of(frame_of(runs))
    assert table["steps"].tolist() == [2, 8]
    assert table["ratio"].iloc[0] == 1.5
    assert math.isnan(table["peak_bytes_snopt"].iloc[1])


def test_failed_training_is_infinitely_dear(record, frame_of):
    """SNOpt diverged on the only seed: its ratio is infinite, not absent."""
    runs = [record("digits", "adam", train_seconds=1.0), record("digits", "snopt", 0, Status.DIVERGED, "x")]
    runs = [dataclasses.replace(r, run=dataclasses.replace(r.run, gradient="adjoint")) for r in runs]
    assert costs_of(frame_of(runs)).iloc[0]["iteration_seconds_snopt"] == math.inf


def test_exhibits_are_written_and_shown(node_sweep, settings_sweep, write_results, record, tmp_path):
    """Files of the declared names, a section behind the claims, an exhibit without its suite is left out."""
    sources = {NODES: Results.of(node_sweep)}
    folder = write_results([record("digits", "adjoint"), record("digits", "interpolation")])
    written = build_report(folder, out=tmp_path / "out", exhibits=EXHIBITS["irdm"], sources=sources)
    names = {path.name for path in written}
    assert {"irdm_nodes.pdf", "irdm_tolerance.svg", "irdm_nodes.md", "irdm_nodes.tex", "irdm_nodes.csv"} <= names
    assert not any(name.startswith(("irdm_training", "irdm_log_norm")) for name in names)
    rows = list(csv.DictReader(io.StringIO((tmp_path / "out" / "tables" / "irdm_nodes.csv").read_text("utf-8"))))
    assert len(rows) == 2 * len(TOLERANCES) * 3
    text = (tmp_path / "out" / "report.html").read_text("utf-8")
    assert text.index('id="paper"') < text.index('id="results"') < text.index('id="figures"')
    assert 'id="figure-irdm_nodes"' in text
    assert 'id="irdm_nodes-table"' in text
    assert 'id="paper"' not in page(node_sweep, figures=[])
    shown = write_exhibits(EXHIBITS["snopt"], {SENSITIVITY: Results.of(settings_sweep)}, tmp_path / "snopt")
    assert [each.name for each in shown.figures] == ["snopt_sensitivity"]
    latex = (tmp_path / "snopt" / "tables" / "snopt_sensitivity.tex").read_text("utf-8")
    assert latex.count(r"\\") == 6  # a heading and five settings


@pytest.mark.parametrize("paper", list(EXHIBITS))
def test_exhibits_have_names_of_their_own(paper):
    """No two files of a paper overwrite one another, and each begins with the paper's name."""
    names = [(type(each), each.kind.name if isinstance(each, PaperFigure) else each.name) for each in EXHIBITS[paper]]
    assert len(set(names)) == len(names)
    assert all(f"{name}_".startswith(f"{paper.replace('-', '_')}_") for _, name in names)
    # What one number tells of each run is a table alone.
    assert {kind for kind, _ in names} in ({PaperFigure, PaperTable}, {PaperTable})
