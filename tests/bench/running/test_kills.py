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
from collections import Counter
from pathlib import Path

import pytest

from odegrad.records.shard import RECORDS

HERE = Path(__file__).parents[1]
WAIT_SECONDS = 300.0
RUN_SECONDS = 0.1


def started(folder, mark, runs, seconds):
    """Start a sweep of stub measurements: the real store, executor and fork server."""
    settings = {
        "FAKE_SECONDS": str(seconds), "FAKE_PID_FILE": str(folder / "pid"), "OMP_NUM_THREADS": "1",
        "FAKE_MARK": mark, "TMPDIR": str(folder / "tmp"),
    }  # fmt: skip
    return subprocess.Popen(
        [sys.executable, str(HERE / "fake_sweep.py"), str(folder / "results"), str(runs)],
        env={**os.environ, **settings},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
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


def wait_until(true):
    """Look often; return whether it came true in time."""
    end = time.monotonic() + WAIT_SECONDS
    while not true():
        if time.monotonic() > end:
            return False
        time.sleep(0.005)
    return True


def kill_over_and_over(folder, kills, runs, seed):
    """Kill a sweep again and again at instants that ``seed`` draws, then let it end; return what went wrong, by kind.

    An instant is some time after the start, or after some runs have been recorded: within a measurement, a write, the
    start or the end of a process.
    """
    (folder / "tmp").mkdir(parents=True)
    draw, found = random.Random(seed), Counter(kills=0, lost=0, repeated=0, orphans=0, files=0)
    before = b""
    for _ in range(kills):
        mark, wanted = uuid.uuid4().hex, before.count(b"\n") + draw.randrange(4)
        more = draw.random() * (2 * RUN_SECONDS if wanted > before.count(b"\n") else 10.0)
        sweep = started(folder, mark, runs, RUN_SECONDS)
        assert wait_until(lambda n=wanted, p=sweep: whole_records(folder).count(b"\n") >= n or p.poll() is not None)
        time.sleep(more)
        found["kills"] += sweep.poll() is None
        sweep.send_signal(signal.SIGKILL)
        sweep.wait()
        after = whole_records(folder)
        found["lost"] += not after.startswith(before)
        before = after
        found["orphans"] += not wait_until(lambda name=mark: not marked(name))
    last = started(folder, uuid.uuid4().hex, runs, 0.0)
    print(f"{dict(found)} before the end", flush=True)
    assert last.wait(WAIT_SECONDS + 20.0 * runs) == 0
    after = whole_records(folder)
    seeds = Counter(json.loads(line)["seed"] for line in after.splitlines())
    found["lost"] += (not after.startswith(before)) + len(set(range(runs)) - set(seeds))
    found["repeated"] += sum(seeds.values()) - len(seeds)
    temporary = [path.name for path in (folder / "tmp").iterdir()]
    found["files"] += sum(not name.startswith("torchinductor_") for name in temporary)  # torch's, for all processes
    beside = {path.name for path in (folder / "results").iterdir()}
    found["files"] += len(beside - {RECORDS, "suite.json", ".lock", ".lock-1-of-1"})
    return found


@pytest.fixture
def folder():
    """Yield a folder whose name is short: the fork server's socket lies in it, and its address holds 107 characters."""
    with tempfile.TemporaryDirectory(prefix="kill", dir="/tmp") as name:
        yield Path(name)


@pytest.mark.skipif(sys.platform != "linux", reason="processes are found by /proc")
@pytest.mark.timeout(600)
def test_a_killed_sweep_loses_and_repeats_nothing(folder):
    """At an instant after its first run."""
    found = kill_over_and_over(folder, kills=1, runs=4, seed=1)
    assert found == {"kills": 1, "lost": 0, "repeated": 0, "orphans": 0, "files": 0}


@pytest.mark.minutes
@pytest.mark.timeout(0)
def test_a_sweep_killed_at_200_instants(folder):
    """Each sweep goes on where the one before was killed: lost 0, repeated 0, orphans 0, temporary files 0."""
    found = kill_over_and_over(folder, kills=200, runs=500, seed=0)
    print(dict(found))
    assert found == {"kills": found["kills"], "lost": 0, "repeated": 0, "orphans": 0, "files": 0}
    assert found["kills"] >= 190, "most are killed before they end by themselves"
