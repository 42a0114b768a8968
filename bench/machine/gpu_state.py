"""Who else is on the GPU and whether its clock is slowed down, from NVIDIA's management library if it is installed."""

import importlib
import importlib.util
from dataclasses import dataclass
from typing import Any

import torch

MODULE, DISTRIBUTION = "pynvml", "nvidia-ml-py"
"""The optional library: what to import, and what to install."""

SLOW_DOWNS = {
    0x04: "power cap",
    0x08: "hardware slow-down",
    0x20: "heat, by software",
    0x40: "heat, by hardware",
    0x80: "power brake",
}
"""Bits of the clocks' event reasons (nvml.h) that make the same work slower; idling and fixed clocks are none."""


@dataclass(frozen=True)
class GpuState:
    """The state of one GPU at one moment."""

    other_processes: int
    """Processes with work on it beside this one."""
    slowed_by: tuple[str, ...]
    """Why its clock is below what it could be; empty if it is not."""
    clock_mhz: int
    most_clock_mhz: int


def is_installed() -> bool:
    """Return whether the management library is there."""
    return importlib.util.find_spec(MODULE) is not None


def gpu_state() -> GpuState | None:
    """Return the state of the current CUDA device; None without one, or without the library."""
    if not (torch.cuda.is_available() and is_installed()):
        return None
    # Before anything else: to ask for the device initialises CUDA, which is not yet work on the GPU.
    used = _has_work()
    uuid = str(torch.cuda.get_device_properties(torch.cuda.current_device()).uuid)
    return state_of(importlib.import_module(MODULE), uuid, used)


def _has_work() -> bool:
    """Return whether this process has a context on the current device, by which the library counts it."""
    if not torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        return False
    asked = getattr(torch._C, "_cuda_hasPrimaryContext", None)
    return asked is None or bool(asked(torch.cuda.current_device()))


def state_of(nvml: Any, uuid: str, own_context: bool) -> GpuState | None:
    """Return the state of the GPU with ``uuid`` as the library ``nvml`` tells it; None where it does not.

    The library tells the host's process ids, which say nothing inside of a container: this process is told apart by
    ``own_context``, whether it has work on the GPU itself.
    """
    try:
        nvml.nvmlInit()
        handle = nvml.nvmlDeviceGetHandleByUUID(f"GPU-{uuid.removeprefix('GPU-')}")
        processes = len(nvml.nvmlDeviceGetComputeRunningProcesses(handle))
        reasons = nvml.nvmlDeviceGetCurrentClocksThrottleReasons(handle)
        clocks = [f(handle, nvml.NVML_CLOCK_SM) for f in (nvml.nvmlDeviceGetClockInfo, nvml.nvmlDeviceGetMaxClockInfo)]
    except nvml.NVMLError:
        return None
    slowed_by = tuple(why for bit, why in SLOW_DOWNS.items() if reasons & bit)
    return GpuState(max(0, processes - own_context), slowed_by, *clocks)
