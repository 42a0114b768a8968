"""What a sweep tells while it runs: the table that fills, plain lines, and the time left."""

import io

import pytest
from rich.console import Console

from odegrad.records.record import PASSES, Record, Status
from odegrad.records.rounds import ROUNDS
from odegrad.running.board import Board
from odegrad.running.mode import ProgressMode
from odegrad.running.progress import LogLines, watch
from odegrad.running.tally import Tally, turns_of
from odegrad.running.words import detail, duration

TIMED = {"forward_seconds": 0.004, "backward_seconds": 0.008, "update_seconds": 0.0005}


class Clock:
    """A clock that a test sets."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture(autouse=True)
def _no_wish_for_no_colour(monkeypatch):
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")


def drawn(board, width=100, height=40):
    console = Console(file=io.StringIO(), width=width, height=height, force_terminal=True, color_system=None)
    console.print(board)
    lines = console.file.getvalue().splitlines()
    assert max(map(len, lines)) <= width
    assert len(lines) < height
    return "\n".join(lines)


def terminal():
    return Console(file=io.StringIO(), force_terminal=True, width=160)


def ended(run, value=0.9, **measured):
    told = {"metric_name": "accuracy", "metric_value": value, "metric_higher_is_better": True}
    return Record(run, Status.OK, "", told | measured)


def test_time_left_is_that_of_the_turns_to_come(make_run):
    """Turns are passes and rounds of the time pass; a run that ended has no more of them."""
    runs = [make_run(seed=seed) for seed in range(4)]
    each = len(PASSES) + ROUNDS - 1
    assert turns_of(runs[0]) == each
    clock = Clock()
    tally = Tally(runs, 1, runs[1:], clock)
    assert tally.words() == "1/4 runs, elapsed 0:00, left not known yet: a first process starts"
    clock.now = 30.0
    tally.started()
    clock.now = 32.0
    tally.started()
    tally.heard(runs[1], {"pass": "train", "iteration": 1, "of": 2})
    assert tally.left() is None
    tally.heard(runs[1], {"pass": "time", "ended": "ok"})
    assert tally.left() == 2.0 * (3 * each - 1)  # the start of the first process is no turn
    tally.finished(runs[1])
    assert tally.left() == 2.0 * 2 == 2.0 * 2 * each / each
    clock.now = 120.0
    tally.finished(runs[2])
    assert tally.words() == "3/4 runs, elapsed 2:00, left about 0:45"
    tally.finished(runs[3])
    assert tally.left() == 0.0


def test_a_run_that_is_measured_twice_counts_twice(make_run):
    """As the gate does."""
    run = make_run()
    tally = Tally([run, run], clock=Clock())
    for turn in (1, 2):
        for _ in range(turns_of(run) + 3):
            tally.heard(run, {"pass": "time", "ended": "ok"})
        tally.finished(run)
        assert tally.turned == turn * turns_of(run)
    assert tally.turned == tally.turns


def test_durations():
    """Minutes and seconds; hours where there are some."""
    assert [duration(s) for s in (0.4, 59.6, 61, 3723)] == ["0:00", "1:00", "1:01", "1:02:03"]


def test_plain_lines_tell_the_first_time_and_every_end(make_run, caplog):
    """The first round of a run, then its end, with its message if it failed; nothing is drawn."""
    output = io.StringIO()
    runs = [make_run(seed=seed) for seed in range(5)]
    before = {run.run_id: {"status": "ok"} for run in runs[:3]}
    with caplog.at_level("INFO"), watch(Console(file=output), runs, before) as watcher:
        assert isinstance(watcher, LogLines)
        watcher.tally.clock = Clock()
        watcher.tally.since = -1.0 * turns_of(runs[0])  # a second for each of its turns
        watcher.started(runs[4])
        watcher.heard(runs[4], {"pass": "train"})
        for _ in range(2):
            watcher.heard(runs[4], {"pass": "time", "ended": "ok", "found": TIMED})
        watcher.finished(ended(runs[4], 0.25, process_seconds=2.0))
        watcher.finished(Record(runs[3], Status.TIMEOUT, "too slow"))
    each = turns_of(runs[0])
    assert [r.getMessage() for r in caplog.records] == [
        "digits ok dopri5 seed 4: 12.5 ms per iteration in the first round; "
        f"about {duration(each * (2 * each - 1))} left",
        f"4/5 digits ok dopri5 seed 4: ok, accuracy 0.2500, 2.0 s; about {duration(each)} left",
        "5/5 digits ok dopri5 seed 3: timeout, too slow",
    ]
    assert output.getvalue() == ""


@pytest.mark.parametrize(
    ("console", "environment", "mode", "table"),
    [
        (terminal, {}, ProgressMode.AUTO, True),
        (terminal, {"NO_COLOR": "1"}, ProgressMode.AUTO, False),
        (terminal, {"NO_COLOR": ""}, ProgressMode.AUTO, True),
        (terminal, {"TERM": "dumb"}, ProgressMode.AUTO, False),
        (terminal, {"NO_COLOR": "1"}, ProgressMode.TABLE, True),
        (terminal, {}, ProgressMode.PLAIN, False),
        (lambda: Console(file=io.StringIO()), {}, ProgressMode.AUTO, False),
    ],
)
def test_table_only_where_it_can_be_drawn(make_run, monkeypatch, console, environment, mode, table):
    """A terminal that can redraw, and nobody who asks for none."""
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with watch(console(), [make_run()], None, mode) as watcher:
        assert isinstance(watcher, Board if table else LogLines)


def test_table_fills(make_run):
    """Waiting; being measured; the first time; the metric so far; how all of a method's runs ended."""
    runs = [make_run(gradient, seed=seed) for gradient in ("naive", "adjoint") for seed in (0, 1)]
    board = Board(runs, Tally(runs, clock=Clock()))
    assert drawn(board).count("waiting") == 2
    board.started(runs[0])
    assert "seed 0" in drawn(board)
    board.heard(runs[0], {"pass": "time", "ended": "ok", "found": TIMED})
    board.paused(runs[0])
    text = drawn(board)
    assert "12.5 ms/iteration" in text
    assert text.count("waiting") == 1
    board.heard(runs[0], {"pass": "train", "iteration": 12, "of": 80, "loss": 0.31})
    assert "seed 0: train 12/80 l" in drawn(board)
    board.finished(ended(runs[0], 0.9))
    text = drawn(board)
    assert "accuracy ↑" in text
    assert "0.9000 1/2 ok" in text
    assert "train 12/80" not in text
    board.finished(ended(runs[1], 0.95))
    assert "0.9000 - 0.9500 2 ok" in drawn(board)
    board.finished(Record(runs[2], Status.DIVERGED, "loss: inf"))
    board.finished(Record(runs[3], Status.UNSUPPORTED, "no taps"))
    text = drawn(board)
    assert "1 diverged 1 refused" in text
    assert "4/4 runs" in text
    assert "waiting" not in text


def test_table_shows_what_was_there_before(make_run):
    """A sweep that goes on begins with the metrics of the folder."""
    runs = [make_run(seed=seed) for seed in range(2)]
    row = {"status": "ok", "metric_name": "nll", "metric_value": 1.5, "metric_higher_is_better": False}
    console = terminal()
    with watch(console, runs, {runs[0].run_id: row}, ProgressMode.TABLE) as board:
        text = drawn(board)
    assert "nll ↓" in text
    assert "1.500 1/2 ok" in text
    assert "1/2 runs" in text


def test_failures_are_told_in_full_beside_the_table(make_run, caplog):
    """The table has no room for a message."""
    run = make_run()
    board = Board([run], Tally([run]))
    board.finished(Record(run, Status.ERROR, "why it failed"))
    assert "digits ok dopri5 seed 0: error, why it failed" in caplog.text


@pytest.mark.parametrize(("width", "height"), [(80, 24), (50, 12), (40, 14)])
def test_what_does_not_fit_is_counted(make_run, width, height):
    """What is measured now is in the part that is drawn; how much is not is said."""
    runs = [make_run(f"method{i:02d}") for i in range(30)]
    board = Board(runs, Tally(runs))
    for run in runs[:20]:
        board.finished(ended(run))
    board.started(runs[22])
    text = drawn(board, width, height)
    assert "method22" in text
    assert "of 30" in " ".join(text.split())


def test_progress_message_in_words():
    """A message without iterations or with a loss that is no number is shown as far as it goes."""
    assert detail({"pass": "count"}) == "count"
    assert detail({"pass": "train", "loss": None, "iteration": 3}) == "train"


def test_a_worker_tells_the_end_of_each_pass(make_run, make_worker):
    """With what a reader waits for: the time of an iteration, then the metric; a failure has found nothing."""
    heard = []
    make_worker(("time", "first", "train"), rounds=1).measure(make_run(), {}, heard.append)
    ends = [message for message in heard if "ended" in message]
    assert [(m["pass"], m["ended"]) for m in ends] == [("time", "ok"), ("first", "ok"), ("train", "ok")]
    assert ends[0]["found"] == {"forward_seconds": 1.0}
    assert ends[2]["found"] == {"metric_name": "accuracy", "metric_value": 0.5}
    heard.clear()
    make_worker(("train",)).measure(make_run("diverges"), {}, heard.append)
    assert heard[-1] == {"pass": "train", "ended": "diverged", "found": {}}
