"""What the page says to take: each sentence by hand, and never a method whose gradient is not accurate."""

import pytest

from odegrad.records.record import Status
from odegrad.reports.page.answers import answers
from odegrad.reports.page.render import page

SEEDS = range(2)


@pytest.fixture
def answer(record, frame_of):
    """Return the answer on digits of runs ``{method: measured}``, the same for ``seeds``, which may be functions."""

    def of(methods, seeds=SEEDS, **settings):
        runs = [
            record(method=m, seed=s, **settings, **{k: v(s) if callable(v) else v for k, v in measured.items()})
            for m, measured in methods.items()
            for s in seeds
        ]
        return answers(frame_of(runs))["digits"]

    return of


def _timed(total, **others):
    """Return an iteration of ``total`` seconds, of a training without a target."""
    parts = {"forward_seconds": total / 4, "backward_seconds": total / 2, "update_seconds": total / 4}
    return {**parts, "metric_target": None, "peak_bytes": 10**6, "gradient_relative_error": 1e-4, **others}


def test_the_fastest_is_named_with_what_it_rests_on(answer):
    found = answer({"naive": _timed(0.02), "anode": _timed(0.03)})
    assert found.take == (
        "Take naive: 20.0 ms per iteration, the least on 2 of 2 seeds (6 seeds that agree would decide it); "
        "anode takes 1.5 times that."
    )
    assert "No method here takes much less memory than its 1.00 MB at the peak." in found.also


def test_enough_seeds_decide(answer):
    found = answer({"naive": _timed(0.02), "anode": _timed(0.03)}, range(6))
    assert "the least, decided on 6 seeds; anode takes 1.5 times that" in found.take


def test_seeds_that_disagree_decide_nothing(answer):
    late = {"update_seconds": lambda s: 0.025 if s == 3 else 0.005}
    found = answer({"naive": _timed(0.02) | late, "anode": _timed(0.03)}, range(6))
    assert "Take naive: 20.0 ms per iteration, the least on 5 of 6 seeds (not decided)" in found.take


def test_time_to_the_target_goes_before_the_iteration(answer):
    """A method of slower iterations that gets there sooner is taken."""
    slow = _timed(0.05, metric_target=0.9, trace_metric=[0.1, 0.95], trace_seconds=[0.0, 1.0], trace_iteration=[0, 9])
    fast = _timed(0.02, metric_target=0.9, trace_metric=[0.1, 0.95], trace_seconds=[0.0, 3.0], trace_iteration=[0, 9])
    found = answer({"naive": fast, "snopt": slow})
    assert found.take.startswith("Take snopt: ")
    assert "s of training to the target" in found.take
    assert "naive takes 3 times that" in found.take


def test_memory_in_bearable_time(answer):
    """The least of those that take at most five times as long."""
    methods = {
        "naive": _timed(0.02),
        "adjoint": _timed(0.04, peak_bytes=10**5),
        "revolve": _timed(0.2, peak_bytes=10**3),
    }
    found = answer(methods)
    assert "Where memory is short, adjoint: 100 kB at the peak, 10 times less, at 2 times the time per iteration." in (
        found.also
    )


@pytest.mark.parametrize("column", ["gradient_accuracy", "trained_gradient_accuracy"])
@pytest.mark.parametrize("verdict", ["inaccurate", "undecided"])
def test_no_method_that_is_not_accurate(answer, column, verdict):
    """On one seed, at one of both places, is enough."""
    wrong = _timed(0.01, **{column: lambda s: verdict if s else "accurate"}, trained_gradient_relative_error=0.25)
    found = answer({"naive": _timed(0.02, **{column: "accurate"}), "adjoint": wrong})
    assert found.take.startswith("Take naive: 20.0 ms per iteration, the only method to take")
    assert f"Not taken: adjoint (gradient {verdict}, error up to 2.5e-01)." in found.also
    alone = answer({"adjoint": wrong})
    assert alone.take == "No method is advised: none ended every run with an accurate gradient."


def test_no_method_of_which_a_run_failed(record, frame_of):
    runs = [record(method=m, seed=s, **_timed(t)) for m, t in (("naive", 0.02), ("adjoint", 0.01)) for s in SEEDS]
    runs.append(record(method="adjoint", seed=2, status=Status.DIVERGED, message="nan"))
    runs.append(record(method="naive", seed=2, **_timed(0.02)))
    found = answers(frame_of(runs))["digits"]
    assert found.take.startswith("Take naive: ")
    assert "Not taken: adjoint (1 failed, of 3 runs)." in found.also


def test_counts_alone_answer_too(answer):
    nothing = dict.fromkeys(("forward_seconds", "backward_seconds", "update_seconds", "peak_bytes", "metric_target"))
    calls = {name: {**nothing, "nfe_forward": n, "nfe_backward": n} for name, n in (("naive", 10), ("adjoint", 15))}
    found = answer(calls)
    assert found.take.startswith("Take naive: 20 f calls per iteration, the least on 2 of 2 seeds")
    none = {name: {**measured, "nfe_forward": None} for name, measured in calls.items()}
    assert answer(none).take == "No method is advised: neither times nor f calls were measured."


def test_methods_with_one_value_share_the_place(answer):
    nothing = dict.fromkeys(("forward_seconds", "backward_seconds", "update_seconds", "peak_bytes", "metric_target"))
    same = {**nothing, "nfe_forward": 10, "nfe_backward": 0}
    assert answer({"naive": same, "aca": same}).take == (
        "Take any: 10 f calls per iteration with naive and aca alike, on every seed."
    )


def test_metric_and_front(answer):
    better = {"metric_value": lambda s: 0.95 + 0.001 * s}
    found = answer({"naive": _timed(0.02), "snopt": _timed(0.03, gradient_relative_error=1e-5, **better)}, range(6))
    assert any(
        said.startswith("In accuracy (") and said.endswith(" snopt is not beaten by any.") for said in found.also
    )
    assert "In time and gradient error together nothing beats naive and snopt (medians)." in found.also
    slower = answer({"naive": _timed(0.02), "anode": _timed(0.03)})
    assert "In time and gradient error together nothing beats naive (medians)." in slower.also
    assert any(said.startswith("The trained models are not told apart: accuracy ") for said in slower.also)


def test_the_page_opens_with_the_answers(quick, frame_of):
    text = page(frame_of(quick))
    start = text.index("What to take</h2>")
    assert (
        start < text.index("Take naive: ") < text.index('id="figure-work_precision"') < text.index("Quantity by quant")
    )
    assert text.count('id="figure-work_precision"') == 1
