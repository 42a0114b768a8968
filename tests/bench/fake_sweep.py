"""A sweep over fake runs in a process of its own: ``fake_sweep.py FOLDER [RUNS]``; prints how many were measured."""

import multiprocessing
import signal
import sys
from pathlib import Path

from odegrad.records.record import Run
from odegrad.records.store import Store, SuiteIdentity
from odegrad.running.local import LocalExecutor
from odegrad.running.progress import LogLines
from odegrad.running.runner import missing, sweep
from odegrad.running.tally import Tally
from odegrad.running.worker import Worker

RUNS = 6

LIGHT = ["odegrad.processes.reaping_server", "torch", "odegrad.processes.child"]


def main():
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job starts with SIGINT ignored
    sys.path.insert(0, str(Path(__file__).parent))
    number = int(sys.argv[2]) if len(sys.argv) > 2 else RUNS
    cell = {"optimizer": "adam", "solver": "dopri5", "rtol": 1e-3, "atol": 1e-3, "iterations": 2}
    runs = [Run("fake", "digits", "tiny", "slow", seed=seed, **cell) for seed in range(number)]
    multiprocessing.get_context("forkserver").set_forkserver_preload(LIGHT)  # what stubs need of ``prepare``
    executor = LocalExecutor((Worker(("second",), "fake_passes:run_pass"),))
    with Store(Path(sys.argv[1]), SuiteIdentity("fake", "abc")) as store:
        todo = missing(runs, store.statuses())
        outcome = sweep(runs, todo, store, executor, LogLines(Tally(runs)))
    print(outcome.measured)
    sys.exit(130 if outcome.interrupted else 0)


if __name__ == "__main__":
    main()
