"""A sweep that is killed at any instant loses nothing, repeats nothing and leaves nothing behind."""

import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from pathlib import Path

import pytest

from odegrad.records.shard import RECORDS

HERE = Path(__file__).parents[1]
RUNS = 6
WAIT_SECONDS = 120.0


def started(folder, mark, seconds):
    """Start a sweep of stub measurements: the real store, executor and fork server."""
    settings = {
        "FAKE_SECONDS": str(seconds), "FAKE_PID_FILE": str(folder / "pid"), "OMP_NUM_THREADS": "1",
        "FAKE_MARK": mark, "TMPDIR": str(folder / "tmp"),
    }  # fmt: skip
    return subprocess.Popen(
        [sys.executable, str(HERE / "fake_sweep.py"), str(folder / "results")],
        env={**os.environ, **settings},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )


def marked(mark):
    """Return the processes that carry ``mark`` in the environment that they started with."""
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            if mark.encode() in path.read_bytes():
                found.append(int(path.parent.name))
        except OSError:
            continue
    return found


def whole_records(folder):
    """Return the bytes of the records up to the last end of a line."""
    path = folder / "results" / RECORDS
    content = path.read_bytes() if path.is_file() else b""
    return content[: content.rfind(b"\n") + 1]


@pytest.fixture
def folder():
    """Yield a folder whose name is short: the fork server's socket lies in it, and its address holds 107 characters."""
    with tempfile.TemporaryDirectory(prefix="kill", dir="/tmp") as name:
        yield Path(name)


def kill_once(folder, seed):
    """Kill a sweep at an instant that ``seed`` draws, let another one end it, and look at what is there."""
    (folder / "tmp").mkdir(parents=True)
    mark, draw = uuid.uuid4().hex, random.Random(seed)
    wanted, more = draw.randrange(RUNS), draw.random() * 0.4
    first = started(folder, mark, 0.2)
    end = time.monotonic() + WAIT_SECONDS
    while whole_records(folder).count(b"\n") < wanted and first.poll() is None and time.monotonic() < end:
        time.sleep(0.005)
    time.sleep(more)
    first.send_signal(signal.SIGKILL)
    first.communicate()
    before = whole_records(folder)
    while (left := marked(mark)) and time.monotonic() < end:
        time.sleep(0.05)
    assert not left, "orphans"
    second = started(folder, mark, 0.0)
    second.communicate(timeout=WAIT_SECONDS)
    after = whole_records(folder)
    assert second.returncode == 0
    assert after.startswith(before), "lost"
    assert sorted(json.loads(line)["seed"] for line in after.splitlines()) == list(range(RUNS)), "lost or repeated"
    assert list((folder / "tmp").iterdir()) == [], "temporary files"
    assert {path.name for path in (folder / "results").iterdir()} == {RECORDS, "suite.json", ".lock", ".lock-1-of-1"}


@pytest.mark.skipif(sys.platform != "linux", reason="processes are found by /proc")
@pytest.mark.timeout(600)
def test_a_killed_sweep_loses_and_repeats_nothing(folder):
    """At an instant after its fourth run, that of its fifth."""
    kill_once(folder, 0)


@pytest.mark.minutes
@pytest.mark.parametrize("seed", range(200))
def test_sweeps_killed_at_200_instants(folder, seed):
    """Lost 0, repeated 0, orphans 0, temporary files 0."""
    kill_once(folder, seed)
