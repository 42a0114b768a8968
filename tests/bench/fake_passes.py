"""Passes that do what methods do at their worst; a run's gradient method names the behaviour."""

import ctypes
import gc
import os
import signal
import subprocess
import sys
import time
from multiprocessing.connection import Connection
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


def frozen(run):
    """Say how many objects garbage collections pass over."""
    return {"nfe_forward": gc.get_freeze_count()}


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


def reply_channel():
    """Return the descriptor of the reply channel, as a program would find it that looks for it."""
    gc.unfreeze()  # what is frozen is not among the objects
    found = [each for each in gc.get_objects() if isinstance(each, Connection) and not each.closed and each.writable]
    return found[0].fileno()


def writes_garbage(run):
    """Write what is no message into the reply channel, and hang."""
    os.write(reply_channel(), b"\xff" * 100)
    time.sleep(1000)


def writes_a_head(run):
    """Write what a message of the standard library would begin with, and nothing behind it."""
    os.write(reply_channel(), b"\x00\x00\x00\x10" + b"half a message")
    time.sleep(1000)


def closes_the_channel(run):
    os.close(reply_channel())
    time.sleep(1000)


def killed_once(run):
    """Be killed, as if from outside, at the first try only."""
    mark = Path(dict(run.gradient_options)["file"])
    if not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return ok(run)


def daemonises(run):
    """Leave a daemon in a session of its own, of which no parent knows, and end well."""
    file = Path(dict(run.gradient_options)["file"])
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            file.write_text(str(os.getpid()))
            time.sleep(1000)
        os._exit(0)
    while not file.exists() or not file.read_text():
        time.sleep(0.01)
    if dict(run.gradient_options).get("dies"):
        os._exit(7)
    return ok(run)


def forks(run):
    """Start thirty processes in sessions of their own, each of which starts another one, and sleep for ever."""
    for _ in range(30):
        if os.fork() == 0:
            os.setsid()
            os.fork()
            with Path(dict(run.gradient_options)["file"]).open("a") as file:
                file.write(f"{os.getpid()}\n")
            time.sleep(1000)
    time.sleep(1000)


def half_a_character(run):
    return {"metric_name": "a\ud800b"}


def too_large(run):
    return {"nfe_forward": 10**5000}


def a_float_as_count(run):
    return {"nfe_forward": 1e308}


def ragged_trace(run):
    return {"trace_iteration": [0, 1], "trace_metric": [0.5]}


def text_in_a_list(run):
    return {"train_loss": [1.0, "x"]}


def deep(run):
    value = []
    for _ in range(100_000):
        value = [value]
    return {"train_loss": value}


def raises_half_a_character(run):
    raise ValueError("a\ud800b\x00c")


def where(run):
    """Tell the process's settings through columns that hold text and numbers."""
    settings = [os.environ.get("MALLOC_MMAP_MAX_", ""), os.environ.get("OMP_NUM_THREADS", ""), str(Path.cwd())]
    return {"metric_name": " ".join(settings), "metric_value": float(torch.get_num_threads())}


BEHAVIOURS = {name: thing for name, thing in globals().items() if callable(thing) and name != "run_pass"}
