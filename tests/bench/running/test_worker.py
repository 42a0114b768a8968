"""One run to one record, whatever the method does in its process."""

import os
import time
from pathlib import Path

import psutil
import pytest

from odegrad.processes import process
from odegrad.processes.child import describe, not_plain, status_of
from odegrad.processes.deaths import death
from odegrad.processes.link import Call
from odegrad.processes.preload import PASSES_MODULE, preload
from odegrad.processes.process import ALLOCATOR, call_in_process, prepare
from odegrad.records.record import Run, Status
from odegrad.records.temporary import clean_up, own_prefix
from odegrad.running.worker import Worker

CHEAT = """
import time
from odegrad.methods.gradients.naive import Naive

true = time.perf_counter
time.perf_counter = lambda: true() / 10


class Cheat(Naive):
    pass
"""


def measure(worker, run, heard=None):
    return worker.measure(run, {"cpu": "test"}, (lambda m: None) if heard is None else heard.append)


def test_columns_of_all_passes_come_together(make_worker, make_run):
    """A run that works has every pass's columns, its circumstances, and the wall-clock of the whole."""
    heard = []
    record = measure(make_worker(), make_run(seed=3), heard)
    assert record.status is Status.OK, record.message
    assert record.message == ""
    assert record.measured["nfe_forward"] == 13
    assert record.measured["metric_value"] == 0.5
    assert str(record.measured["train_loss"]) == "[1.0, nan]"
    assert record.measured["process_seconds"] > 0
    assert record.machine == {"cpu": "test"}
    assert {"pass": "second", "iteration": 1, "of": 2, "loss": 0.5} in heard


@pytest.mark.parametrize(
    ("behaviour", "status", "words"),
    [
        (
            "raises",
            Status.ERROR,
            "second pass: ZeroDivisionError: first line\nsecond line\nthird line (fake_passes.py:",
        ),
        ("diverges", Status.DIVERGED, "second pass: NonFiniteError: loss: inf at iteration 3"),
        ("refuses", Status.UNSUPPORTED, "second pass: UnsupportedError: no taps"),
        ("machine_fails", Status.INFRASTRUCTURE, "InfrastructureError: the disk is full"),
        ("no_gpu_memory", Status.OUT_OF_MEMORY, "OutOfMemoryError: CUDA out of memory"),
        ("no_memory", Status.OUT_OF_MEMORY, "DefaultCPUAllocator"),
        ("killed", Status.INFRASTRUCTURE, "second pass: the process was killed from outside by SIGKILL"),
        ("killed_with_child", Status.INFRASTRUCTURE, "second pass: the process was killed from outside by SIGKILL"),
        ("segfaults", Status.ERROR, "second pass: the process was killed by SIGSEGV"),
        ("exits", Status.ERROR, "second pass: the process ended with exit code 7 and without a result"),
        ("system_exit", Status.ERROR, "second pass: SystemExit: enough"),
        ("returns_tensor", Status.ERROR, "a Tensor as value['metric_value']; plain data is expected"),
        ("returns_list", Status.ERROR, "second pass: returned list; expected a dict of columns"),
        ("writes_garbage", Status.ERROR, "second pass: the process wrote into the reply channel what is no message"),
        ("writes_a_head", Status.ERROR, "second pass: the process wrote into the reply channel what is no message"),
        ("half_a_character", Status.ERROR, "second pass: column 'metric_name': expected text in Unicode"),
        ("too_large", Status.ERROR, "second pass: ValueError: Exceeds the limit"),
        ("a_float_as_count", Status.ERROR, "column 'nfe_forward': expected a whole number of 64 bits, got 1e+308"),
        ("ragged_trace", Status.ERROR, "column 'trace_metric': expected 2 values as in 'trace_iteration', got 1"),
        ("text_in_a_list", Status.ERROR, "column 'train_loss': expected a list of numbers, got 'x' in it"),
        ("deep", Status.ERROR, "second pass: RecursionError: maximum recursion depth exceeded"),
        ("raises_half_a_character", Status.ERROR, "ValueError: a?b\N{REPLACEMENT CHARACTER}c"),
        ("returns_unknown", Status.ERROR, "second pass: returned unknown column 'metric_valu'"),
    ],
)
def test_every_failure_is_a_status_with_its_message(make_worker, make_run, behaviour, status, words):
    """The record says what happened, keeps the columns of the pass before, and no later pass runs."""
    record = measure(make_worker(("first", "second", "first")), make_run(behaviour))
    assert (record.status, words in record.message) == (status, True), record.message
    assert record.measured["nfe_forward"] == 10
    assert "metric_value" not in record.measured


def test_timeout_kills_the_whole_family(make_worker, make_run, tmp_path):
    """A run that sleeps for ever ends at its time limit, and so do the processes that it started."""
    begin = time.monotonic()
    record = measure(make_worker(timeout=1.0), make_run("sleeps_with_child", file=str(tmp_path / "pid")))
    assert record.status is Status.TIMEOUT
    assert "more than 1 s together; give a larger --timeout" in record.message
    assert time.monotonic() - begin < 30
    pid = int((tmp_path / "pid").read_text())
    assert not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def test_output_of_a_run_stays_away(make_worker, make_run, capfd):
    """Megabytes printed by a run, by Python and by compiled code, do not reach our standard output or error."""
    assert measure(make_worker(), make_run("prints")).status is Status.OK
    captured = capfd.readouterr()
    assert (captured.out, captured.err) == ("", "")


def test_processes_have_tuned_allocator_and_threads(make_worker, make_run, tmp_path, monkeypatch):
    """The allocator's settings, the threads and the working folder hold in the process, not in ours."""
    monkeypatch.delenv("MALLOC_MMAP_MAX_", raising=False)
    record = measure(make_worker(threads=2, folder=str(tmp_path)), make_run("where"))
    assert record.status is Status.OK, record.message
    assert record.measured["metric_name"].split()[0] == "0"
    assert record.measured["metric_name"].split()[-1] == str(tmp_path)
    assert record.measured["metric_value"] == 2.0
    assert "MALLOC_MMAP_MAX_" not in os.environ


def test_collections_pass_over_what_the_fork_server_has_loaded(make_worker, make_run):
    """Torch's own objects alone are hundreds of thousands, and live as long as the process."""
    record = measure(make_worker(), make_run("frozen"))
    assert record.measured["nfe_forward"] > 100_000


def test_machine_is_described_in_a_process(make_worker):
    """The circumstances are those of the processes that measure."""
    found = make_worker().machine()
    assert found["threads"] == 1
    assert found["malloc"].items() >= ALLOCATOR.items()


def test_function_that_does_not_exist_is_an_error(make_worker):
    """A wrong name is the caller's error, not the machine's."""
    call = Call("fake_passes:nothing", (), 1, ".", output="")
    reply = call_in_process(call, timeout=None, progress=lambda m: None)
    assert reply.status is Status.ERROR
    assert "AttributeError" in reply.message


def test_folder_that_does_not_exist_is_an_error(make_worker, make_run, tmp_path):
    """A working folder that has gone is named."""
    record = measure(make_worker(folder=str(tmp_path / "gone")), make_run())
    assert record.status is Status.ERROR
    assert "FileNotFoundError" in record.message


def test_kills_from_outside_are_told_from_crashes_and_from_lack_of_memory():
    """A process that held most of the memory ran out of it; another one was killed, and may be tried again."""
    assert death(-9, held_most=True, memory_ran_out=True)[0] is Status.OUT_OF_MEMORY
    others = (Status.INFRASTRUCTURE, "the kernel killed the process because other processes took the memory")
    assert death(-9, held_most=False, memory_ran_out=True) == others
    assert death(-9, False, False) == (Status.INFRASTRUCTURE, "the process was killed from outside by SIGKILL")
    assert death(-15, False, False) == (Status.INFRASTRUCTURE, "the process was killed from outside by SIGTERM")
    assert death(-11, True, True) == (Status.ERROR, "the process was killed by SIGSEGV")
    assert death(-63, False, False) == (Status.INFRASTRUCTURE, "the process was killed from outside by signal 63")


def test_a_run_that_was_killed_from_outside_is_tried_again(make_worker, make_run, tmp_path):
    """What killed it may be gone: the machine's failure, not the method's."""
    record = measure(make_worker(), make_run("killed_once", file=str(tmp_path / "mark")))
    assert record.status is Status.OK, record.message


@pytest.mark.parametrize("dies", [False, True])
def test_daemons_of_a_run_end_with_it(make_worker, make_run, tmp_path, dies):
    """A process that detached itself, twice removed and in a session of its own, does not disturb later runs."""
    record = measure(make_worker(), make_run("daemonises", file=str(tmp_path / "pid"), dies=dies))
    assert (record.status is Status.OK) is not dies
    pid = int((tmp_path / "pid").read_text())
    assert not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def zombie(pid):
    return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def test_a_run_may_not_start_processes_without_end(make_worker, make_run, tmp_path, monkeypatch):
    """Beyond the limit it ends, with all of them; what only sleeps holds no memory that would end it."""
    monkeypatch.setattr("odegrad.processes.listening.MAX_PROCESSES", 20)
    record = measure(make_worker(timeout=30), make_run("forks", file=str(tmp_path / "pids")))
    assert (record.status, record.message) == (
        Status.ERROR, "second pass: stopped because it had started more than 20 processes",
    )  # fmt: skip
    started = [int(pid) for pid in (tmp_path / "pids").read_text().split()]
    assert started
    assert not [pid for pid in started if psutil.pid_exists(pid) and not zombie(pid)]


def test_a_channel_that_is_closed_is_told(make_worker, make_run):
    """The run goes on without it and can have no result."""
    record = measure(make_worker(), make_run("closes_the_channel"))
    assert record.message == "second pass: the process closed the reply channel and went on without a result"


def test_what_killed_commands_left_is_cleaned_up(tmp_path):
    """Files and folders of processes that are gone go; those of living ones, of other hosts and of others stay."""
    (gone := tmp_path / own_prefix(os.getpid()).replace(str(os.getpid()), str(2**22 + 1))).mkdir()
    (gone / "file").write_text("x")
    kept = {own_prefix(os.getpid()) + "mine", "odegrad-elsewhere-1-1-x", "odegrad-data", "other"}
    for name in kept:
        (tmp_path / name).touch()
    assert clean_up(str(tmp_path)) == 1
    assert {path.name for path in tmp_path.iterdir()} == kept


def test_plain_data_is_told_from_objects():
    """Numbers, text, lists and dictionaries pass; what only looks like them does not."""
    assert not_plain({"a": [1, 2.5, None, "x", True, {"b": []}]}) is None
    assert not_plain({"a": [1, Path("x")]}) == f"a {type(Path('x')).__name__} as value['a'][1]"
    assert not_plain({"a": {1: 2}}) == "a key of type int in value['a']"
    assert not_plain((1,)) == "a tuple as value"


def test_errors_are_described_in_few_words():
    """An error without text is its type; a long text is cut."""
    assert describe(KeyError()) == "KeyError"
    assert len(describe(ValueError("x" * 10_000))) < 600
    assert status_of(MemoryError()) is Status.OUT_OF_MEMORY


def test_the_server_imports_what_this_process_has_imported(monkeypatch):
    """Otherwise every process would import it again with the main module that it runs: the start took three times."""
    asked = []
    monkeypatch.setattr(process._context, "set_forkserver_preload", asked.extend)
    process.prepare(["json"])
    assert {"torch", "json", "odegrad.processes.process", "odegrad.records.record"} <= set(asked)


def test_a_method_that_replaces_the_clock_is_an_error(tmp_path):
    """Its time pass is no measurement, whatever it says: the row names what was replaced."""
    prepare(preload())
    (tmp_path / "cheat.py").write_text(CHEAT)
    run = Run("mine", "linear", "tiny", "cheat.py:Cheat", "sgd", "rk4", 0, 1e-3, 1e-3, 2)
    worker = Worker(("time",), f"{PASSES_MODULE}:run_pass", folder=str(tmp_path), rounds=1)
    record = measure(worker, run)
    assert record.status is Status.ERROR
    assert "time pass: InstrumentsError: time.perf_counter is not the function" in record.message
    assert "forward_seconds" not in record.measured
