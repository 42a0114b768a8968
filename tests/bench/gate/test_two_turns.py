"""Every run of a gate is measured twice, and counted as two of one sweep."""

import io

from rich.console import Console

from odegrad.gate.baseline import run_name
from odegrad.gate.measure import measure_runs_twice
from odegrad.records.record import Record, Status


class Counting:
    """Measures at once how many it has measured before."""

    def __init__(self):
        self.measured = 0

    def execute(self, runs, watcher):
        for run in runs:
            watcher.started(run)
            self.measured += 1
            yield Record(run, Status.OK, "", {"nfe_forward": self.measured})


def test_second_turn_comes_after_all_of_the_first(make_run, caplog):
    """Pairs by the run's name; progress goes on to the number of both turns."""
    runs = [make_run(seed=0), make_run(seed=1)]
    with caplog.at_level("INFO"):
        pairs = measure_runs_twice(runs, Counting(), Console(file=io.StringIO()))
    counts = {name: [record.measured["nfe_forward"] for record in pair] for name, pair in pairs.items()}
    assert counts == {run_name(runs[0]): [1, 3], run_name(runs[1]): [2, 4]}
    assert [record.getMessage().split()[0] for record in caplog.records] == ["1/4", "2/4", "3/4", "4/4"]
