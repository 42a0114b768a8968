"""What on this machine makes timings untrustworthy, and how noisy a fixed kernel is right now: ``odegrad doctor``."""

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

import psutil
import torch

from odegrad.machine.conditions import (
    MIN_STEAL,
    Snapshot,
    disturbing_load,
    others_load,
    snapshot,
    thermal_throttles,
)
from odegrad.machine.description import machine
from odegrad.machine.gpu_state import DISTRIBUTION, GpuState, gpu_state, is_installed
from odegrad.machine.noise import Noise, noise
from odegrad.processes.link import Call
from odegrad.processes.listening import Reply
from odegrad.processes.process import ALLOCATOR, call_in_process, prepare
from odegrad.records.record import Status

LOOK_SECONDS = 0.5
"""How long the load of other processes is watched."""

TIMEOUT_SECONDS = 120.0
FEW_CORES = 2
FINE_SLOW_DOWN, NOTED_SLOW_DOWN = 0.05, 0.10
"""Smallest slow-down to be trusted, up to which the noise is fine, and up to which it is worth a note."""


class Level(StrEnum):
    """How much a finding matters for timings."""

    FINE = "fine"
    NOTE = "note"
    WARNING = "warning"


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    about: str
    level: Level
    finding: str
    next_step: str = ""
    """What to do about it; empty where all is fine."""


@dataclass(frozen=True)
class MachineFindings:
    """All findings, the noise (None if no process could measure it) and the machine as a worker sees it."""

    findings: list[Finding]
    noise: Noise | None
    machine: Mapping[str, object]

    def rows(self) -> list[dict[str, Any]]:
        """Return the findings as plain rows."""
        return [{**asdict(each), "level": str(each.level)} for each in self.findings]

    def to_dict(self) -> dict[str, object]:
        """Return everything as plain data."""
        told = None if self.noise is None else asdict(self.noise)
        return {"findings": self.rows(), "noise": told, "machine": dict(self.machine)}


def examine_machine(pairs: int = 30, seed: int = 0) -> MachineFindings:
    """Look at the machine for about a second, time the kernel in ``pairs`` in a fresh process, and return all of it."""
    cores = psutil.cpu_count() or 1
    before = snapshot()
    time.sleep(LOOK_SECONDS)
    after = snapshot()
    throttles = thermal_throttles()
    prepare(["odegrad.machine.noise"])
    described = _in_worker("odegrad.machine.description:machine_of_process")
    timed = _in_worker("odegrad.machine.noise:measured_ratios", pairs, seed)
    circumstances = described.value if described.status is Status.OK else machine()
    found = noise(timed.value) if timed.status is Status.OK else None
    swap = psutil.swap_memory()
    battery = psutil.sensors_battery() if hasattr(psutil, "sensors_battery") else None
    there = torch.cuda.is_available()
    return MachineFindings(
        [
            of_load(before, after, cores),
            of_steal(before, after, cores),
            of_cores(circumstances["cores"] or cores, circumstances["cpu_quota"]),
            of_governor(circumstances["governor"]),
            of_throttling(throttles, thermal_throttles()),
            of_huge_pages(circumstances["huge_pages"]),
            of_allocator(circumstances["malloc"]),
            of_swap(swap.used),
            of_battery(None if battery is None else battery.power_plugged),
            of_gpu(there, is_installed(), gpu_state() if there else None),
            of_noise(found, timed.message),
        ],
        found,
        circumstances,
    )


def _in_worker(function: str, *arguments: object) -> Reply:
    call = Call(function, arguments, threads=1, folder=".", output="")
    return call_in_process(call, timeout=TIMEOUT_SECONDS, progress=lambda _message: None)


def of_load(before: Snapshot, after: Snapshot, cores: int) -> Finding:
    """Return the finding on other processes, from two snapshots between which this one slept."""
    load = others_load(before, after, cores)
    told = f"other processes use {load:.2g} of {cores} logical cores"
    if load > disturbing_load(cores):
        return Finding("load", Level.WARNING, told, "end them or wait; the busiest are in `top`")
    return Finding("load", Level.FINE, told)


def of_steal(before: Snapshot, after: Snapshot, cores: int) -> Finding:
    """Return the finding on the host of a virtual machine."""
    share = (after.steal_seconds - before.steal_seconds) / (cores * max(after.seconds - before.seconds, 1e-9))
    if share > MIN_STEAL:
        told = f"the host of this virtual machine gave {share:.0%} of its cores' time to other guests"
        return Finding("steal", Level.WARNING, told, "time on dedicated cores, or compare counts and bytes only")
    return Finding("steal", Level.FINE, "no other guest of a host takes processor time")


def of_cores(physical: int, quota: float | None) -> Finding:
    """Return the finding on the number of cores that this process may use."""
    usable = physical if quota is None else min(physical, quota)
    if quota is not None and quota < physical:
        told = f"the control group may use the time of {quota:g} of {physical} cores, and is stopped when it is used up"
        return Finding("cores", Level.WARNING, told, "raise or remove the container's processor limit")
    if usable <= FEW_CORES:
        told = f"{usable:g} cores: whatever else runs here shares them with the timing"
        return Finding("cores", Level.NOTE, told, "run nothing beside it, and one run at a time")
    return Finding("cores", Level.FINE, f"{usable:g} cores without a quota")


def of_governor(name: str | None) -> Finding:
    """Return the finding on the processor's frequency governor."""
    if name is None:
        told = "unknown: the kernel shows no frequency governor, as in containers and virtual machines"
        return Finding("governor", Level.NOTE, told, "trust pairs of runs that took turns, not single times")
    if name != "performance":
        told = f"governor {name}: the clock follows the load"
        return Finding("governor", Level.WARNING, told, "sudo cpupower frequency-set --governor performance")
    return Finding("governor", Level.FINE, "governor performance")


def of_throttling(before: int | None, after: int | None) -> Finding:
    """Return the finding on slow-downs for heat, from counts before and after some work."""
    if before is None or after is None:
        told = "unknown: the kernel does not count slow-downs for heat here"
        return Finding("throttling", Level.NOTE, told, "look at the host's temperatures")
    if after > before:
        told = f"the cores were slowed down {after - before} times for heat or power just now"
        return Finding("throttling", Level.WARNING, told, "let the machine cool down, improve the cooling")
    if after > 0:
        told = f"the cores were slowed down {after} times for heat or power since the start, not just now"
        return Finding("throttling", Level.NOTE, told, "watch the column taints for `throttled`")
    return Finding("throttling", Level.FINE, "the cores were never slowed down for heat or power")


def of_huge_pages(setting: str | None) -> Finding:
    """Return the finding on transparent huge pages."""
    if setting is None:
        told = "unknown: the kernel does not say whether it uses transparent huge pages"
        return Finding("huge pages", Level.NOTE, told, "compare times of this machine only")
    if setting == "always":
        return Finding("huge pages", Level.FINE, "transparent huge pages are on")
    told = f"transparent huge pages are `{setting}`: large tensors cost more page faults and address look-ups"
    return Finding("huge pages", Level.NOTE, told, "echo always | sudo tee /sys/kernel/mm/transparent_hugepage/enabled")


def of_allocator(settings: Mapping[str, str]) -> Finding:
    """Return the finding on the allocator's ``settings`` in a worker's environment."""
    if "LD_PRELOAD" in settings:
        told = f"workers preload {settings['LD_PRELOAD']}, which may replace the C library's allocator"
        return Finding("allocator", Level.NOTE, told, "compare only with runs that preload the same")
    other = {name: settings.get(name) for name, wanted in ALLOCATOR.items() if settings.get(name) != wanted}
    if other:
        name, value = next(iter(other.items()))
        told = f"{name} is {value} in a worker, not {ALLOCATOR[name]}: freed tensors may go back to the kernel"
        return Finding("allocator", Level.WARNING, told, f"unset {' '.join(other)}")
    return Finding("allocator", Level.FINE, "workers keep freed memory instead of returning it to the kernel")


def of_swap(used_bytes: int) -> Finding:
    """Return the finding on memory that lies on disk."""
    if used_bytes:
        told = f"{used_bytes / 1e6:.3g} MB of memory lie in swap"
        return Finding("swap", Level.NOTE, told, "free memory; watch the column taints for `swapping`")
    return Finding("swap", Level.FINE, "no memory lies in swap")


def of_battery(plugged: bool | None) -> Finding:
    """Return the finding on the power supply; None without a battery."""
    if plugged is False:
        told = "on battery, which lowers the clock on most machines"
        return Finding("battery", Level.WARNING, told, "plug it in")
    return Finding("battery", Level.FINE, "no battery" if plugged is None else "plugged in")


def of_gpu(there: bool, installed: bool, state: GpuState | None) -> Finding:
    """Return the finding on the current CUDA device."""
    if not there:
        return Finding("gpu", Level.FINE, "no CUDA device, nothing to say of it")
    if not installed:
        told = f"unknown: {DISTRIBUTION} is not installed, so other processes and clocks cannot be seen"
        return Finding("gpu", Level.NOTE, told, f"pip install {DISTRIBUTION}")
    if state is None:
        told = "unknown: the management library does not answer for this GPU"
        return Finding("gpu", Level.NOTE, told, "look at nvidia-smi on the host")
    clocks = f"clock at {state.clock_mhz} of {state.most_clock_mhz} MHz"
    if state.other_processes:
        told = f"{state.other_processes} other processes have work on the GPU, {clocks}"
        return Finding("gpu", Level.WARNING, told, "end them, or choose another GPU by CUDA_VISIBLE_DEVICES")
    if state.slowed_by:
        told = f"the GPU is slowed down by {', '.join(state.slowed_by)}, {clocks}"
        return Finding("gpu", Level.WARNING, told, "let it cool down, or lower its clock to one that it holds")
    return Finding("gpu", Level.FINE, f"no other process on the GPU, {clocks}")


def of_noise(found: Noise | None, message: str) -> Finding:
    """Return the finding on the kernel's noise; ``message`` says why there is none."""
    if found is None:
        return Finding("noise", Level.WARNING, f"unknown: {message}", "see that processes can be started here")
    trust = found.smallest_slow_down
    told = (
        f"a fixed kernel against itself: ratio {found.ratio:.4f}, 95 % interval {found.low:.4f} to {found.high:.4f} "
        f"from {found.pairs} pairs; slow-downs below {trust:.1%} cannot be told from noise"
    )
    if trust <= FINE_SLOW_DOWN:
        return Finding("noise", Level.FINE, told)
    level = Level.NOTE if trust <= NOTED_SLOW_DOWN else Level.WARNING
    return Finding("noise", level, told, "see the findings above; take more pairs, or compare counts and bytes only")
