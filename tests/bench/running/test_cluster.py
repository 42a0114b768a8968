"""Runs on a Dask cluster: real schedulers and workers on loopback, some of which are killed."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections import Counter
from pathlib import Path
from queue import SimpleQueue
from types import SimpleNamespace

import psutil
import pytest

pytest.importorskip("distributed")
pytest.importorskip("cryptography")

from distributed import Client
from distributed.security import Security

from odegrad.errors import InfrastructureError
from odegrad.processes.process import ALLOCATOR
from odegrad.records.columns import COLUMNS
from odegrad.records.record import Record, Status
from odegrad.records.shard import RECORDS
from odegrad.records.store import Store, SuiteIdentity
from odegrad.running.cluster import DaskExecutor, _record, at_address, on_this_machine, slurm_cluster
from odegrad.running.progress import LogLines
from odegrad.running.runner import missing, sweep
from odegrad.running.tally import Tally
from odegrad.running.worker import Worker

HERE = Path(__file__).parents[1]
FAKE = SuiteIdentity("fake", "abc")
WAIT_SECONDS = 60.0


@pytest.fixture
def worker(monkeypatch):
    """Return a worker on ``fake_passes``, importable in every process that is started from here."""
    monkeypatch.setenv("PYTHONPATH", str(HERE))
    return Worker(("second",), "fake_passes:run_pass")


def rows_of(folder):
    return [json.loads(line) for line in (folder / RECORDS).read_text().splitlines()]


def wait_for(condition, what):
    end = time.monotonic() + WAIT_SECONDS
    while not condition():
        assert time.monotonic() < end, f"{what} did not happen within {WAIT_SECONDS:g} s"
        time.sleep(0.05)


class Cluster:
    """A scheduler and workers in processes of their own, as somebody starts them by hand."""

    def __init__(self, stack, folder):
        self.stack, self.folder = stack, folder
        self.port_file = folder / "scheduler.json"
        self.scheduler = self.start(
            "scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard", "--scheduler-file", self.port_file
        )
        wait_for(lambda: self.port_file.exists() and self.port_file.read_text(), "the scheduler's start")
        self.address = json.loads(self.port_file.read_text())["address"]
        self.workers = [self.worker(), self.worker()]

    def worker(self):
        return self.start("worker", self.address, "--nthreads", "1", "--no-nanny", "--no-dashboard")

    def start(self, *arguments):
        process = subprocess.Popen(
            [sys.executable, "-m", "distributed.cli.dask_" + arguments[0], *map(str, arguments[1:])],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            cwd=self.folder,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        self.stack.callback(process.wait)
        self.stack.callback(process.kill)
        return process


@pytest.fixture
def cluster(worker, tmp_path):
    with contextlib.ExitStack() as stack:
        yield Cluster(stack, tmp_path)


class KillAt(LogLines):
    """Kills ``process`` once ``number`` runs have ended."""

    def __init__(self, runs, number, process):
        super().__init__(Tally(runs))
        self.number, self.process = number, process

    def finished(self, record):
        super().finished(record)
        if self.tally.done == self.number:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait()


def test_what_a_cluster_s_worker_imports_is_small():
    """The module whose function is sent to the workers needs neither torch nor pandas."""
    code = "import sys, odegrad.running.remote; print('torch' in sys.modules, 'pandas' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]


def test_every_run_has_its_record(worker, make_run, tmp_path):
    """Failures are rows here too, with the circumstances of the process that measured."""
    before = {name: os.environ.get(name) for name in ALLOCATOR}
    runs = [make_run(), make_run("segfaults"), make_run("diverges"), make_run("machine_fails"), make_run(seed=2)]
    with Store(tmp_path, FAKE) as store, on_this_machine(2, "cpu", worker) as executor:
        outcome = sweep(runs, runs, store, executor, LogLines(Tally(runs)))
    records = {record.run: record for record in map(Record.from_row, rows_of(tmp_path))}
    expected = [Status.OK, Status.ERROR, Status.DIVERGED, Status.INFRASTRUCTURE, Status.OK]
    assert [records[run].status for run in runs] == expected
    assert all(record.machine["threads"] == 1 for record in records.values())
    assert all(record.machine["malloc"].items() >= ALLOCATOR.items() for record in records.values())
    assert {name: os.environ.get(name) for name in ALLOCATOR} == before
    assert (outcome.measured, outcome.infrastructure) == (5, 1)


@pytest.mark.parametrize(
    ("changes", "said"),
    [({}, ""), ({"run_id": "ab"}, "is of run ab"), ({"nfe_forward": "x"}, "is no record: column 'nfe_forward'"),
     (None, "is no record")],
)  # fmt: skip
def test_what_is_no_row_of_the_run_is_the_machines_failure(make_run, changes, said):
    """A worker of another odegrad may answer anything."""
    run = make_run()
    row = None if changes is None else Record(run, Status.OK, "", {"nfe_forward": 3}).to_row() | changes
    record = _record(run, SimpleNamespace(status="finished", result=lambda: row))
    assert record.run == run
    assert record.status is (Status.INFRASTRUCTURE if said else Status.OK)
    assert said in record.message


def test_killed_worker_costs_nothing(cluster, worker, make_run, tmp_path):
    """The run that it had is measured on the other one; every run has one record, and the sweep is complete."""
    runs = [make_run("interval", seed=seed) for seed in range(12)]
    with Store(tmp_path / "results", FAKE) as store, at_address(cluster.address, worker) as executor:
        executor.client.wait_for_workers(2, timeout=WAIT_SECONDS)
        outcome = sweep(runs, runs, store, executor, KillAt(runs, 3, cluster.workers[0]))
    assert outcome.statuses == {Status.OK: 12}
    assert Counter(row["seed"] for row in rows_of(tmp_path / "results")) == dict.fromkeys(range(12), 1)


def test_result_that_is_lost_with_its_worker_is_waited_for(worker):
    """Dask measures it again; the scheduler is there all the while."""

    class Lost:
        looks = 0

        @property
        def status(self):
            self.looks += 1
            return "lost" if self.looks < 4 else "finished"

    class Client:
        status = "running"

    ended, future = SimpleQueue(), Lost()
    ended.put(future)
    assert DaskExecutor(Client(), worker)._next(ended) is future
    assert ended.empty()


def test_killed_scheduler_loses_no_record(cluster, worker, make_run, tmp_path, monkeypatch):
    """The sweep ends with a sentence; on a new cluster the same command measures what is missing, nothing twice."""
    monkeypatch.setattr("odegrad.running.cluster.CONNECT_SECONDS", 5.0)
    runs = [make_run("interval", seed=seed) for seed in range(12)]
    folder = tmp_path / "results"
    with Store(folder, FAKE) as store, pytest.raises(InfrastructureError, match=r"scheduler has gone; every fin"):  # noqa: SIM117
        with at_address(cluster.address, worker) as executor:
            sweep(runs, runs, store, executor, KillAt(runs, 3, cluster.scheduler))
    before = (folder / RECORDS).read_bytes()
    assert before.count(b"\n") >= 3
    with Store(folder, FAKE) as store, on_this_machine(1, "cpu", worker) as executor:
        todo = missing(runs, store.statuses())
        sweep(runs, todo, store, executor, LogLines(Tally(todo)))
    assert (folder / RECORDS).read_bytes().startswith(before)
    assert Counter(row["seed"] for row in rows_of(folder)) == dict.fromkeys(range(12), 1)


def test_address_without_a_scheduler_is_answered(worker, monkeypatch):
    """The error says how to start one."""
    monkeypatch.setattr("odegrad.running.cluster.CONNECT_SECONDS", 1.0)
    with (
        pytest.raises(InfrastructureError, match=r"--address tcp://127\.0\.0\.1:9: expected a Dask scheduler there"),
        at_address("tcp://127.0.0.1:9", worker),
    ):
        pass


@pytest.mark.parametrize(
    ("scheme", "security"),
    [("tls", None), ("tls", Security.temporary()), ("tcp", None)],
    ids=["none", "of another", "in the open"],
)
def test_who_has_no_certificate_of_the_run_cannot_attach(worker, scheme, security):
    """The scheduler runs code for those who hold the certificates that were made for this command, and nobody else."""
    with on_this_machine(0, "cpu", worker) as executor:
        address = executor.client.scheduler.address
        assert address.startswith("tls://127.0.0.1:")
        assert executor.client.run_on_scheduler(lambda: 2) == 2
        with pytest.raises((OSError, TypeError)):
            Client(address.replace("tls", scheme, 1), security=security, timeout=5.0, set_as_default=False)


def test_slurm_s_scheduler_is_secured_and_shows_nothing(worker, monkeypatch, tmp_path):
    """By default TLS and no dashboard; the interface that is named is the one it listens on."""
    monkeypatch.chdir(tmp_path)
    options = {"queue": "gpu", "memory": "8GB", "walltime": "01:00:00", "interface": "lo"}
    with slurm_cluster("cpu", worker, options) as cluster:
        script = cluster.job_script()
        assert cluster.scheduler_address.startswith("tls://127.0.0.1:")
        port = cluster.scheduler_info["services"]["dashboard"]
        listening = {c.laddr.ip for c in psutil.Process().net_connections("tcp") if c.laddr.port == port}
        assert listening == {"127.0.0.1"}
        for page in ("status", "info/main/workers.html", "json/identity.json"):
            with pytest.raises(urllib.error.HTTPError, match="404"):
                urllib.request.urlopen(f"http://127.0.0.1:{port}/{page}", timeout=10)
    assert "--tls-ca-file" in script
    assert "--interface lo" in script


def test_slurm_jobs_ask_for_a_gpu_and_the_user_s_options(worker):
    """Each job is one Dask worker with the cores of one run."""
    options = {"queue": "gpu", "memory": "8GB", "walltime": "01:00:00", "interface": "lo"}
    with slurm_cluster("cuda", worker, options) as cluster:
        script = cluster.job_script()
    assert "#SBATCH -p gpu" in script
    assert "#SBATCH --gpus=1" in script
    assert "#SBATCH --cpus-per-task=1" in script
    assert "--resources GPU=1" in script
    assert "--nthreads 1" in script


SUITE = """
name = "two"
methods = ["naive", "adjoint"]
seeds = [0]
passes = ["count", "memory", "train", "diagnose"]

[[solvers]]
name = "dopri5"

[[tasks]]
name = "linear"
size = "tiny"
iterations = 3
"""


def test_dask_and_local_give_the_same_records(run_main, tmp_path, monkeypatch):
    """Every deterministic column of every run is equal, bit for bit."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("odegrad.commands.running.write_report", lambda folder: None)
    Path("two.toml").write_text(SUITE)
    found = {}
    for executor in ("local", "dask"):
        code, _, errors = run_main("run", "two.toml", "--device", "cpu", "--executor", executor, "--results", executor)
        assert code == 0, errors
        found[executor] = {row["run_id"]: row for row in rows_of(tmp_path / executor)}
    assert len(found["local"]) == 2
    assert found["local"].keys() == found["dask"].keys()
    for run_id, row in found["local"].items():
        for column in COLUMNS:
            if column.deterministic and column.name != "machine":
                other = found["dask"][run_id][column.name]
                assert json.dumps(row[column.name]) == json.dumps(other), column.name


def test_options_of_a_cluster_need_one(run_main):
    """An address without the executor that uses it is wrong use."""
    code, _, errors = run_main("run", "quick", "--address", "tcp://127.0.0.1:1")
    assert code == 2
    assert "expected --executor dask beside them" in errors
