"""The GPU's state from a management library made up; its names are those of nvidia-ml-py."""

import importlib
import importlib.util
import sys
from types import SimpleNamespace

import pytest
import torch

from odegrad.machine import gpu_state as gpu
from odegrad.machine.gpu_state import SLOW_DOWNS, GpuState, gpu_state, state_of


class FakeLibrary:
    """Tells one GPU's state as ``nvidia-ml-py`` does."""

    NVML_CLOCK_SM = 1

    class NVMLError(Exception):
        pass

    def __init__(self, processes, reasons):
        self.processes, self.reasons = processes, reasons

    def nvmlInit(self):
        pass

    def nvmlDeviceGetHandleByUUID(self, uuid):
        if uuid != "GPU-1234":
            raise self.NVMLError("not found")
        return "handle"

    def nvmlDeviceGetComputeRunningProcesses(self, handle):
        return [object()] * self.processes

    def nvmlDeviceGetCurrentClocksThrottleReasons(self, handle):
        return self.reasons

    def nvmlDeviceGetClockInfo(self, handle, kind):
        return 1200

    def nvmlDeviceGetMaxClockInfo(self, handle, kind):
        return 1980


def test_own_work_is_not_anothers():
    """Of two processes one is this one, if it has work on the GPU; idling (1) and fixed clocks (2) slow nothing."""
    assert state_of(FakeLibrary(2, 0b11), "1234", own_context=True) == GpuState(1, (), 1200, 1980)
    assert state_of(FakeLibrary(2, 0b11), "GPU-1234", own_context=False) == GpuState(2, (), 1200, 1980)
    assert state_of(FakeLibrary(0, 0), "1234", own_context=True) == GpuState(0, (), 1200, 1980)


def test_slow_downs_are_named():
    """Every bit that slows down, by its name, beside one that does not."""
    found = state_of(FakeLibrary(0, 0x04 | 0x40 | 0x01), "1234", own_context=False)
    assert found.slowed_by == ("power cap", "heat, by hardware")


def test_a_gpu_that_the_library_does_not_know_is_unknown():
    """An error of the library is no state."""
    assert state_of(FakeLibrary(0, 0), "5678", own_context=False) is None


@pytest.mark.parametrize(("at_work", "others"), [(False, 2), (True, 1)])
def test_asking_for_the_state_is_no_work_on_the_gpu(monkeypatch, at_work, others):
    """To ask initialises CUDA; a process that had no context before is none of the two that the library tells of."""
    initialised = [at_work]

    def properties(_device):
        initialised[0] = True
        return SimpleNamespace(uuid="1234")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: initialised[0])
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "get_device_properties", properties)
    monkeypatch.setattr(torch._C, "_cuda_hasPrimaryContext", lambda _device: at_work, raising=False)
    monkeypatch.setattr(gpu, "is_installed", lambda: True)
    monkeypatch.setitem(sys.modules, gpu.MODULE, FakeLibrary(2, 0))
    assert gpu.gpu_state().other_processes == others


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_no_gpu_has_no_state():
    """None without a device."""
    assert gpu_state() is None


@pytest.mark.skipif(importlib.util.find_spec("pynvml") is None, reason="nvidia-ml-py is not installed")
def test_bits_are_those_of_the_library():
    """Each bit has a name there that ends in what it means."""
    nvml = importlib.import_module("pynvml")
    names = ["SwPowerCap", "HwSlowdown", "SwThermalSlowdown", "HwThermalSlowdown", "HwPowerBrakeSlowdown"]
    assert [getattr(nvml, f"nvmlClocksEventReason{name}") for name in names] == list(SLOW_DOWNS)
