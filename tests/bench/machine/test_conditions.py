"""Readings from folders made up, and taints from counters made up."""

import dataclasses
import time

import psutil
import pytest

from odegrad.machine.conditions import (
    Snapshot,
    cpu_quota,
    disturbing_load,
    governor,
    huge_pages,
    others_load,
    quota_waits,
    snapshot,
    taints,
    thermal_throttles,
)
from odegrad.machine.gpu_state import GpuState

CORES = 4
GPU = GpuState(other_processes=0, slowed_by=(), clock_mhz=1980, most_clock_mhz=1980)
BEFORE = Snapshot(seconds=100.0, busy_seconds=50.0, own_seconds=7.0, thermal_throttles=3, quota_waits=2, gpu=GPU)
QUIET = dataclasses.replace(BEFORE, seconds=101.0, busy_seconds=51.0, own_seconds=8.0)
"""A second later, in which this process alone used one core."""


def write(root, path, text):
    file = root / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


def test_what_the_kernel_does_not_show_is_unknown(tmp_path):
    """An empty root has no readings, and none is zero."""
    assert [f(tmp_path) for f in (governor, huge_pages, cpu_quota, quota_waits, thermal_throttles)] == [None] * 5


def test_governor_of_all_cores(tmp_path):
    """One name if all cores have the same, else each once."""
    for core, name in enumerate(("powersave", "powersave")):
        write(tmp_path, f"sys/devices/system/cpu/cpu{core}/cpufreq/scaling_governor", f"{name}\n")
    assert governor(tmp_path) == "powersave"
    write(tmp_path, "sys/devices/system/cpu/cpu10/cpufreq/scaling_governor", "performance\n")
    assert governor(tmp_path) == "performance/powersave"


def test_huge_pages_are_what_stands_in_brackets(tmp_path):
    """As the kernel writes its choices."""
    write(tmp_path, "sys/kernel/mm/transparent_hugepage/enabled", "always [madvise] never\n")
    assert huge_pages(tmp_path) == "madvise"


def test_throttles_of_all_cores_together(tmp_path):
    """The sum; a file that holds no number does not count."""
    for core, text in enumerate(("3\n", "4\n", "odd\n")):
        write(tmp_path, f"sys/devices/system/cpu/cpu{core}/thermal_throttle/core_throttle_count", text)
    assert thermal_throttles(tmp_path) == 7


def test_quota_of_version_2_is_the_tightest_on_the_way_up(tmp_path):
    """The group has none, the one around it two and a half cores, the outermost four."""
    write(tmp_path, "proc/self/cgroup", "0::/a/b\n")
    write(tmp_path, "sys/fs/cgroup/a/b/cpu.max", "max 100000\n")
    assert cpu_quota(tmp_path) is None
    write(tmp_path, "sys/fs/cgroup/a/cpu.max", "250000 100000\n")
    write(tmp_path, "sys/fs/cgroup/cpu.max", "400000 100000\n")
    write(tmp_path, "sys/fs/cgroup/a/cpu.stat", "usage_usec 5\nnr_periods 9\nnr_throttled 6\n")
    assert cpu_quota(tmp_path) == 2.5
    assert quota_waits(tmp_path) == 6


def test_quota_of_version_1_in_a_container(tmp_path):
    """The group's name is the host's, its files lie at the top; -1 means no quota."""
    write(tmp_path, "proc/self/cgroup", "5:cpuset:/x\n4:cpu,cpuacct:/docker/1234\n1:name=systemd:/x\n0::/\n")
    write(tmp_path, "sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000\n")
    write(tmp_path, "sys/fs/cgroup/cpu/cpu.cfs_quota_us", "-1\n")
    assert cpu_quota(tmp_path) is None
    write(tmp_path, "sys/fs/cgroup/cpu/cpu.cfs_quota_us", "150000\n")
    write(tmp_path, "sys/fs/cgroup/cpu/cpu.stat", "nr_periods 1\nnr_throttled 0\n")
    assert (cpu_quota(tmp_path), quota_waits(tmp_path)) == (1.5, 0)


def test_nothing_happened():
    """A process's own work is no taint, whether or not there are counters."""
    assert taints(BEFORE, QUIET, CORES) == []
    assert taints(Snapshot(0.0, 0.0, 0.0), Snapshot(1.0, 1.0, 1.0), CORES) == []


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("load", {"busy_seconds": 51.5}),
        ("steal", {"steal_seconds": 0.1}),
        ("throttled", {"thermal_throttles": 4}),
        ("quota", {"quota_waits": 3}),
        ("swapping", {"swapped_in_bytes": 4096}),
        ("gpu_shared", {"gpu": dataclasses.replace(GPU, other_processes=1)}),
        ("gpu_throttled", {"gpu": dataclasses.replace(GPU, slowed_by=("power cap",))}),
    ],
)
def test_each_disturbance_is_a_taint_of_its_own(name, changes):
    """Whatever moved between the two moments, and only that; the GPU also if it was so before."""
    assert taints(BEFORE, dataclasses.replace(QUIET, **changes), CORES) == [name]
    if name.startswith("gpu"):
        assert taints(dataclasses.replace(BEFORE, **changes), QUIET, CORES) == [name]


def test_load_is_that_of_the_others_less_a_tick_a_core():
    """Half a core for a second on four cores: 0.5 - 0.04. One tick in a pass of 20 ms is no load."""
    assert others_load(BEFORE, dataclasses.replace(QUIET, busy_seconds=51.5), CORES) == pytest.approx(0.46)
    assert others_load(BEFORE, dataclasses.replace(BEFORE, seconds=100.02, busy_seconds=50.01), CORES) == 0.0
    assert (disturbing_load(1), disturbing_load(64)) == (0.2, 6.4)


def test_snapshot_follows_the_clocks():
    """Time goes on, own work shows as own, and busy time is the system's without idling."""
    first = snapshot()
    end = time.process_time() + 0.05
    while time.process_time() < end:
        pass
    second = snapshot()
    assert second.own_seconds - first.own_seconds >= 0.05
    assert second.seconds - first.seconds >= 0.04
    cpu = psutil.cpu_times()
    assert first.busy_seconds <= second.busy_seconds <= cpu.user + cpu.system + sum(cpu) - cpu.idle
    assert first.gpu is None
