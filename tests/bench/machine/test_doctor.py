"""Each finding of the doctor from readings made up, and the command on this machine."""

import json

import pytest

import odegrad.machine.doctor
from odegrad.machine.conditions import Snapshot
from odegrad.machine.doctor import (
    Level,
    of_allocator,
    of_battery,
    of_cores,
    of_governor,
    of_gpu,
    of_huge_pages,
    of_load,
    of_noise,
    of_steal,
    of_swap,
    of_throttling,
)
from odegrad.machine.gpu_state import GpuState
from odegrad.machine.noise import Noise
from odegrad.processes.listening import Reply
from odegrad.processes.process import ALLOCATOR
from odegrad.records.record import Status

CALM = Snapshot(seconds=0.0, busy_seconds=0.0, own_seconds=0.0)
KINDS = [
    "load", "steal", "cores", "governor", "throttling", "huge pages", "allocator", "swap", "battery", "gpu", "noise",
]  # fmt: skip


def later(busy=0.0, steal=0.0):
    return Snapshot(seconds=1.0, busy_seconds=busy, own_seconds=0.0, steal_seconds=steal)


def gpu(others=0, slowed=()):
    return GpuState(others, tuple(slowed), 1200, 1980)


def told(slow_down):
    return Noise(30, 1.001, 0.99, 1.01, slow_down)


@pytest.mark.parametrize(
    ("finding", "level", "words"),
    [
        (of_load(CALM, later(busy=0.1), 4), Level.FINE, "0.06 of 4 logical cores"),
        (of_load(CALM, later(busy=1.04), 4), Level.WARNING, "use 1 of 4"),
        (of_steal(CALM, later(steal=0.04), 4), Level.FINE, "no other guest"),
        (of_steal(CALM, later(steal=0.4), 4), Level.WARNING, "gave 10% of"),
        (of_cores(8, None), Level.FINE, "8 cores without a quota"),
        (of_cores(2, None), Level.NOTE, "2 cores"),
        (of_cores(8, 2.5), Level.WARNING, "2.5 of 8 cores"),
        (of_cores(8, 8.0), Level.FINE, "8 cores"),
        (of_governor("performance"), Level.FINE, "performance"),
        (of_governor("powersave"), Level.WARNING, "governor powersave"),
        (of_governor("performance/powersave"), Level.WARNING, "performance/powersave"),
        (of_governor(None), Level.NOTE, "unknown"),
        (of_throttling(0, 0), Level.FINE, "never"),
        (of_throttling(5, 5), Level.NOTE, "5 times"),
        (of_throttling(5, 7), Level.WARNING, "2 times for heat or power just now"),
        (of_throttling(None, None), Level.NOTE, "unknown"),
        (of_huge_pages("always"), Level.FINE, "are on"),
        (of_huge_pages("never"), Level.NOTE, "`never`"),
        (of_huge_pages(None), Level.NOTE, "unknown"),
        (of_allocator(ALLOCATOR), Level.FINE, "keep freed memory"),
        (of_allocator({**ALLOCATOR, "MALLOC_TOP_PAD_": "7"}), Level.WARNING, "MALLOC_TOP_PAD_ is 7 in a worker"),
        (of_allocator({}), Level.WARNING, "MALLOC_MMAP_MAX_ is None"),
        (of_allocator({**ALLOCATOR, "LD_PRELOAD": "libjemalloc.so.2"}), Level.NOTE, "libjemalloc.so.2"),
        (of_swap(0), Level.FINE, "no memory"),
        (of_swap(5_000_000), Level.NOTE, "5 MB"),
        (of_battery(None), Level.FINE, "no battery"),
        (of_battery(True), Level.FINE, "plugged in"),
        (of_battery(False), Level.WARNING, "on battery"),
        (of_gpu(False, False, None), Level.FINE, "no CUDA device"),
        (of_gpu(True, False, None), Level.NOTE, "nvidia-ml-py is not installed"),
        (of_gpu(True, True, None), Level.NOTE, "does not answer"),
        (of_gpu(True, True, gpu()), Level.FINE, "1200 of 1980 MHz"),
        (of_gpu(True, True, gpu(others=2)), Level.WARNING, "2 other processes"),
        (of_gpu(True, True, gpu(slowed=["power cap"])), Level.WARNING, "slowed down by power cap"),
        (of_noise(told(0.02), ""), Level.FINE, "slow-downs below 2.0% cannot be told from noise"),
        (of_noise(told(0.08), ""), Level.NOTE, "below 8.0%"),
        (of_noise(told(0.3), ""), Level.WARNING, "below 30.0%"),
        (of_noise(None, "stopped after 120 s"), Level.WARNING, "stopped after 120 s"),
    ],
)
def test_finding(finding, level, words):
    """The level is the expected one, the sentence says why, and there is a next step unless all is fine."""
    assert (finding.level, finding.about in KINDS) == (level, True)
    assert words in finding.finding
    assert (finding.next_step == "") == (level is Level.FINE)


def test_doctor_looks_at_everything_and_exits_with_0(run_main):
    """As JSON: all findings once, the noise of the pairs that were asked for, the machine of a worker process."""
    code, out, _ = run_main("doctor", "--json", "--pairs", "6")
    found = json.loads(out)
    assert code == 0
    assert [row["about"] for row in found["findings"]] == KINDS
    assert found["noise"]["pairs"] == 6
    assert found["noise"]["low"] <= found["noise"]["ratio"] <= found["noise"]["high"]
    assert found["machine"]["threads"] == 1
    assert set(ALLOCATOR) <= set(found["machine"]["malloc"])


def test_doctor_says_if_no_process_can_be_started(run_main, monkeypatch):
    """That too is a finding, not a failure; the machine is then described by this process."""
    failed = Reply(Status.INFRASTRUCTURE, "no process could be started: OSError")
    monkeypatch.setattr(odegrad.machine.doctor, "call_in_process", lambda *_, **__: failed)
    code, out, _ = run_main("doctor")
    assert code == 0
    assert "unknown: no process could be started: OSError" in out
    assert all(kind in out for kind in KINDS)


def test_too_few_pairs_are_wrong_usage(run_main):
    """Exit code 2 and the option's name."""
    code, _, error = run_main("doctor", "--pairs", "1")
    assert code == 2
    assert "--pairs" in error
