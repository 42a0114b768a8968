"""Libraries side by side: ratios at equal error and break-even points of costs that are known in closed form."""

import math

import pytest

from odegrad.records.record import Status
from odegrad.reports.contrasts import contrasts
from odegrad.reports.figures import break_even
from odegrad.reports.page.libraries import libraries_table, sentences
from odegrad.reports.page.render import page
from odegrad.reports.summary import Results

LIBRARIES = {"naive": "", "torchdiffeq_naive": "torchdiffeq", "diffrax_checkpointed": "diffrax"}
TOLERANCES = (1e-3, 1e-5)
COMPILING = 6.0
SPEED = {"naive": 0.008, "torchdiffeq_naive": 0.010, "diffrax_checkpointed": 0.002}
"""Seconds of one gradient at an error of 1; each decade less costs a quarter of a decade more."""
SHIFT = {"naive": 0.1, "torchdiffeq_naive": 1.0, "diffrax_checkpointed": 4.0}
"""Gradient error over the tolerance: at equal tolerance nothing is equal."""


def seconds(method, tolerance):
    """Return what a gradient costs at a tolerance, of which a third is the forward pass."""
    return SPEED[method] * tolerance**-0.25


def ratio(method, baseline="torchdiffeq_naive"):
    """Return the ratio of costs at any error that both reach: cost(e) = speed (e / shift)^(-1/4)."""
    return SPEED[method] * SHIFT[method] ** 0.25 / (SPEED[baseline] * SHIFT[baseline] ** 0.25)


@pytest.fixture
def swept(record, frame_of):
    """Return a function that makes a sweep of each method on ``digits`` with as many seeds as asked for."""

    def make(seeds=1, tolerances=TOLERANCES, methods=tuple(LIBRARIES), failed=()):
        runs = []
        for method in methods:
            for seed in range(seeds):
                for tolerance in tolerances:
                    settings = {"rtol": tolerance, "atol": tolerance}
                    if method in failed:
                        runs.append(record("digits", method, seed, Status.UNSUPPORTED, "x", settings=settings))
                        continue
                    cost = seconds(method, tolerance)
                    compiled = {"compile_seconds": COMPILING} if method.startswith("diffrax") else {}
                    runs.append(
                        record(
                            "digits", method, seed, settings=settings, forward_seconds=cost / 3,
                            backward_seconds=2 * cost / 3, gradient_relative_error=SHIFT[method] * tolerance,
                            library=LIBRARIES[method], **compiled,
                        )
                    )  # fmt: skip
        return Results.of(frame_of(runs))

    return make


def by_method(results):
    return {each.method: each for each in contrasts(results)}


@pytest.mark.parametrize("seeds", [1, 6])
def test_ratios_are_those_of_equal_error(swept, seeds):
    """They are not those of equal tolerance, where the yardstick's error is ten times naive's; sure from six seeds."""
    found = by_method(swept(seeds))
    assert [each.method for each in contrasts(swept(seeds))] == ["diffrax_checkpointed", "naive", "torchdiffeq_naive"]
    for method, each in found.items():
        assert each.ratio == pytest.approx(ratio(method))
        assert (each.kind, each.tasks, each.baseline) == ("classification", ("digits",), "torchdiffeq_naive")
        assert (each.sweeps, each.tried) == (seeds, seeds)
        assert each.decided is (seeds == 6 and method != "torchdiffeq_naive")
    assert found["naive"].library == "odegrad"
    assert found["naive"].ratio != pytest.approx(SPEED["naive"] / SPEED["torchdiffeq_naive"], rel=0.1)


def test_compiling_pays_where_the_saved_seconds_make_up_for_it(swept):
    """From the iteration on at which compiling and gradients together take less than the best without compiling."""
    found = by_method(swept())
    usual = sum(seconds("torchdiffeq_naive", tolerance) for tolerance in TOLERANCES) / 2
    saved = (ratio("naive") - ratio("diffrax_checkpointed")) * usual
    assert found["diffrax_checkpointed"].pays_from == math.ceil(COMPILING / saved)
    assert math.isnan(found["naive"].pays_from)
    assert found["diffrax_checkpointed"].seconds == pytest.approx(ratio("diffrax_checkpointed") * usual)


def test_sentence_names_library_ratio_compiling_and_how_sure(swept):
    """And what is best without compiling."""
    said = sentences(contrasts(swept()))["classification"]
    count = by_method(swept())["diffrax_checkpointed"].pays_from
    assert said == (
        "diffrax_checkpointed (diffrax) takes 0.28 of torchdiffeq_naive's time per gradient at equal gradient error "
        f"(faster in 1 of 1 sweeps; 6 that agree would decide it; digits), after 6.00 s of compiling, which pays from "
        f"{count:.0f} iterations on. Without compiling, naive takes 0.45."
    )
    sure = sentences(contrasts(swept(seeds=6)))["classification"]
    assert "faster in 6 of 6 sweeps, decided by itself" in sure


def test_a_method_that_is_more_exact_throughout_has_a_bound(swept, monkeypatch):
    """It is named with at most what it takes; what is less exact throughout is never taken for the fastest."""
    monkeypatch.setitem(SHIFT, "naive", 1e-4)
    monkeypatch.setitem(SHIFT, "diffrax_checkpointed", 1e4)
    found = by_method(swept())
    cheapest, dearest = (seconds("torchdiffeq_naive", tolerance) for tolerance in TOLERANCES)
    assert found["naive"].bound == "at most"
    assert found["naive"].ratio == pytest.approx(seconds("naive", 1e-3) / math.sqrt(cheapest * dearest))
    assert (found["naive"].faster, found["naive"].slower) == (1, 0)
    assert found["diffrax_checkpointed"].bound == "at least"
    assert found["diffrax_checkpointed"].faster == 0
    said = sentences(contrasts(swept()))["classification"]
    assert said.startswith("naive takes at most 0.45 of torchdiffeq_naive's time per gradient at equal gradient error")


def test_refused_rows_stand_last_and_are_named(swept):
    """A library that cannot be told what a task asks for is no gap in silence."""
    results = swept(failed=("diffrax_checkpointed",))
    assert by_method(results)["diffrax_checkpointed"].ratio == math.inf
    assert sentences(contrasts(results))["classification"].endswith("No run ended ok: diffrax_checkpointed.")


def test_nothing_is_said_without_a_sweep_or_another_library(swept):
    """One tolerance compares errors with errors and costs with costs, never both."""
    assert contrasts(swept(tolerances=(1e-3,))) == []
    assert contrasts(swept(methods=("naive",))) == []
    assert libraries_table([]).empty


def test_figure_and_page_show_it(swept):
    """Lines begin with the seconds of compiling, and cross where it pays; the page has the sentence and the table."""
    results = swept()
    figure = break_even.draw(results)
    panel = next(axis for axis in figure.axes if axis.get_title(loc="left") == "classification")
    lines = [line.get_xydata() for line in panel.get_lines() if line.get_gid() == "total"]
    assert len(lines) == 3
    compiled = next(line for line in lines if line[0, 1] > COMPILING)
    assert compiled[0, 1] == pytest.approx(COMPILING + by_method(results)["diffrax_checkpointed"].seconds)
    assert "diffrax_checkpointed" in break_even.describe(results)
    assert "after 6.00 s of compiling" in break_even.describe(results)
    made = page(results)
    assert 'id="libraries-table"' in made
    assert "Without compiling, naive takes 0.45." in made
