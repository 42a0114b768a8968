"""Passes that do what methods do at their worst; a run's gradient method names the behaviour."""

import ctypes
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import torch

from odegrad.errors import InfrastructureError, NonFiniteError, UnsupportedError


def run_pass(name, run, scratch, progress):
    """Behave as ``run.gradient`` says; the pass ``first`` always succeeds."""
    progress({"pass": name, "iteration": 1, "of": 2, "loss": 0.5})
    if name == "first":
        return {"nfe_forward": 10 + run.seed}
    if name == "time":
        return timed(run)
    return BEHAVIOURS[run.gradient](run)


def ok(run):
    return {"metric_name": "accuracy", "metric_value": 0.5, "train_loss": [1.0, float("nan")]}


def timed(run):
    """Say when this round began and ended, and on which cores, as if these were measured times."""
    begin = time.time()
    time.sleep(0.05)
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    return {
        "forward_seconds": 1.0,
        "forward_seconds_raw": [begin, time.time()],
        "backward_seconds_raw": [2.0, 2.0],
        "update_seconds_raw": [0.5, 0.5],
        "warmup_seconds_raw": cores,
    }


def interval(run):
    """Say when this pass began and ended."""
    begin = time.time()
    time.sleep(0.3)
    return {"trace_seconds": [begin, time.time()]}


def allocates(run):
    """Allocate without end, a gigabyte at a time, and touch every page."""
    kept = []
    while True:
        kept.append(torch.ones(2**28))


def child_allocates(run):
    """Let a child of this process lift its limit and allocate without end."""
    lift = "import resource; resource.setrlimit(resource.RLIMIT_DATA, (-1, -1)); "
    subprocess.run([sys.executable, "-c", lift + "kept = [b'x' * 2**27 for _ in range(64)]"], check=True)


def fails_once(run):
    """Fail because of the machine at the first try only."""
    mark = Path(dict(run.gradient_options)["file"])
    if not mark.exists():
        mark.touch()
        raise InfrastructureError("the network is down")
    return ok(run)


def slow(run):
    """From the third seed on write this process's id down, and take as long as the environment says."""
    if run.seed > 1:
        Path(os.environ["FAKE_PID_FILE"]).write_text(str(os.getpid()))
        time.sleep(float(os.environ["FAKE_SECONDS"]))
    return ok(run)


def raises(run):
    raise ZeroDivisionError("first line\nsecond line\nthird line\nfourth line")


def diverges(run):
    raise NonFiniteError("loss: inf at iteration 3")


def refuses(run):
    raise UnsupportedError("no taps")


def machine_fails(run):
    raise InfrastructureError("the disk is full")


def no_gpu_memory(run):
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")


def no_memory(run):
    torch.empty(2**60)


def sleeps_with_child(run):
    """Start a child that would outlive us, write its id down, and sleep for ever."""
    child = subprocess.Popen(["sleep", "1000"])
    Path(dict(run.gradient_options)["file"]).write_text(str(child.pid))
    time.sleep(1000)


def killed(run):
    os.kill(os.getpid(), signal.SIGKILL)


def killed_with_child(run):
    """Die while a child of ours holds every open file, the channel to the parent included."""
    if os.fork() == 0:
        time.sleep(1000)
    os.kill(os.getpid(), signal.SIGKILL)


def segfaults(run):
    ctypes.string_at(0)


def exits(run):
    os._exit(7)


def system_exit(run):
    sys.exit("enough")


def prints(run):
    for _ in range(64):
        print("x" * 2**15)
        os.write(1, b"y" * 2**15)
        print("z" * 2**15, file=sys.stderr)
    return ok(run)


def returns_tensor(run):
    return {"metric_value": torch.tensor(1.0)}


def returns_list(run):
    return [1]


def returns_unknown(run):
    return {"metric_valu": 1.0}


def where(run):
    """Tell the process's settings through columns that hold text and numbers."""
    settings = [os.environ.get("MALLOC_MMAP_MAX_", ""), os.environ.get("OMP_NUM_THREADS", ""), str(Path.cwd())]
    return {"metric_name": " ".join(settings), "metric_value": float(torch.get_num_threads())}


BEHAVIOURS = {name: thing for name, thing in globals().items() if callable(thing) and name != "run_pass"}
