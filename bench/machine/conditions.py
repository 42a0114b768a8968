"""What on a machine disturbs timings, read from the kernel; a reading that a machine does not offer is None.

``root`` is where ``/sys`` and ``/proc`` are; containers often show only a part of them.
"""

import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

from odegrad.machine.gpu_state import GpuState, gpu_state

ROOT = Path("/")

TICK_SECONDS = 0.01
"""The kernel tells processor time in ticks of this size; a shorter load cannot be seen."""

MIN_LOAD, LOAD_SHARE = 0.2, 0.1
"""Cores used by others that disturb: so many at least, and this share of all."""

MIN_STEAL = 0.02
"""Cores taken by the host of a virtual machine that disturb."""


def governor(root: Path = ROOT) -> str | None:
    """Return the processor's frequency governor, or several with a slash between them."""
    pattern = "sys/devices/system/cpu/cpu[0-9]*/cpufreq/scaling_governor"
    return "/".join(sorted({text for path in root.glob(pattern) if (text := _text(path))})) or None


def huge_pages(root: Path = ROOT) -> str | None:
    """Return the setting of transparent huge pages: ``always``, ``madvise`` or ``never``."""
    found = re.search(r"\[(\w+)\]", _text(root / "sys/kernel/mm/transparent_hugepage/enabled") or "")
    return None if found is None else found[1]


def cpu_quota(root: Path = ROOT) -> float | None:
    """Return how many cores' time the control group of this process may use; None without a limit."""
    quotas = []
    for folder in _groups(root):
        text = _text(folder / "cpu.max")
        if text is None:
            quota, period = _text(folder / "cpu.cfs_quota_us"), _text(folder / "cpu.cfs_period_us")
            text = f"{quota} {period}"
        words = text.split()
        if len(words) == 2 and all(word.isdigit() for word in words):
            quotas.append(int(words[0]) / int(words[1]))
    return min(quotas, default=None)


def quota_waits(root: Path = ROOT) -> int | None:
    """Return in how many periods the control group has been held back because its quota was used up."""
    found = [
        int(line.split()[1])
        for folder in _groups(root)
        for line in (_text(folder / "cpu.stat") or "").splitlines()
        if line.startswith("nr_throttled ")
    ]
    return sum(found) if found else None


def thermal_throttles(root: Path = ROOT) -> int | None:
    """Return how many times the cores have been slowed down for heat or power since the machine started."""
    pattern = "sys/devices/system/cpu/cpu[0-9]*/thermal_throttle/core_throttle_count"
    found = [int(text) for path in root.glob(pattern) if (text := _text(path)) and text.isdigit()]
    return sum(found) if found else None


def _groups(root: Path) -> Iterator[Path]:
    """Yield the folders of this process's control group and of those around it, of version 2 and of version 1."""
    for line in (_text(root / "proc/self/cgroup") or "").splitlines():
        _, controllers, name = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        top = root / "sys/fs/cgroup" / ("cpu" if controllers else "")
        folder = top / name.lstrip("/")
        yield folder
        if folder != top:  # a container may show its own group as the top, under a name from outside
            yield from (parent for parent in folder.parents if parent == top or top in parent.parents)


def _text(path: Path) -> str | None:
    """Return a file's stripped text; None if it cannot be read."""
    try:
        return path.read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return None


@dataclass(frozen=True)
class Snapshot:
    """Counters at one moment; two of them tell what happened between."""

    seconds: float
    """Of a clock that only goes forward."""
    busy_seconds: float
    """Processor time of everybody, all cores together."""
    own_seconds: float
    """Processor time of this process."""
    steal_seconds: float = 0.0
    """Time that the host of a virtual machine gave to others."""
    thermal_throttles: int | None = None
    quota_waits: int | None = None
    swapped_in_bytes: int = 0
    gpu: GpuState | None = None


def snapshot(device: str = "cpu", root: Path = ROOT) -> Snapshot:
    """Return the counters now; those of the GPU too if ``device`` is ``cuda``."""
    cpu = psutil.cpu_times()
    idle = cpu.idle + getattr(cpu, "iowait", 0.0) + getattr(cpu, "steal", 0.0)
    guests = getattr(cpu, "guest", 0.0) + getattr(cpu, "guest_nice", 0.0)  # counted in user and nice already
    return Snapshot(
        seconds=time.monotonic(),
        busy_seconds=sum(cpu) - idle - guests,
        own_seconds=time.process_time(),
        steal_seconds=getattr(cpu, "steal", 0.0),
        thermal_throttles=thermal_throttles(root),
        quota_waits=quota_waits(root),
        swapped_in_bytes=psutil.swap_memory().sin,
        gpu=gpu_state() if device == "cuda" else None,
    )


def others_load(before: Snapshot, after: Snapshot, cores: int) -> float:
    """Return how many cores other processes used between two snapshots, what the ticks leave open not counted."""
    others = (after.busy_seconds - before.busy_seconds) - (after.own_seconds - before.own_seconds)
    return max(0.0, others - TICK_SECONDS * cores) / max(after.seconds - before.seconds, TICK_SECONDS)


def disturbing_load(cores: int) -> float:
    """Return from how many cores on the load of other processes disturbs timings."""
    return max(MIN_LOAD, LOAD_SHARE * cores)


def taints(before: Snapshot, after: Snapshot, cores: int) -> list[str]:
    """Return what disturbed timings taken between two snapshots on a machine of ``cores`` logical cores.

    ``load``: other processes used the processor; ``steal``: so did other guests of a virtual machine's host;
    ``throttled``: cores were slowed down for heat or power; ``quota``: the control group's time was used up;
    ``swapping``: memory came back from disk; ``gpu_shared``: others had work on the GPU; ``gpu_throttled``: its clock
    was slowed down.
    """
    seconds = max(after.seconds - before.seconds, TICK_SECONDS)
    stolen = (after.steal_seconds - before.steal_seconds - TICK_SECONDS * cores) / seconds
    states = [s.gpu for s in (before, after) if s.gpu is not None]
    found = {
        "load": others_load(before, after, cores) > disturbing_load(cores),
        "steal": stolen > MIN_STEAL,
        "throttled": (after.thermal_throttles or 0) > (before.thermal_throttles or 0),
        "quota": (after.quota_waits or 0) > (before.quota_waits or 0),
        "swapping": after.swapped_in_bytes > before.swapped_in_bytes,
        "gpu_shared": any(s.other_processes for s in states),
        "gpu_throttled": any(s.slowed_by for s in states),
    }
    return [name for name, there in found.items() if there]
