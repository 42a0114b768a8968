"""Which cores and GPUs each of several workers on one machine has for itself."""

import os
from dataclasses import dataclass

import torch

from odegrad.errors import UsageError


@dataclass(frozen=True)
class Slot:
    """The place of one worker."""

    cores: tuple[int, ...]
    """Logical cores; empty where the system does not let processes be kept on some."""
    gpu: str | None
    """What ``CUDA_VISIBLE_DEVICES`` is for it; None: as it is."""


def available_cores() -> tuple[int, ...]:
    """Return the logical cores that this process may use; empty where the system does not say."""
    return tuple(sorted(os.sched_getaffinity(0))) if hasattr(os, "sched_getaffinity") else ()


def visible_gpus() -> tuple[str, ...]:
    """Return the names under which CUDA makes this process's GPUs visible."""
    named = [name.strip() for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
    return tuple(named) or tuple(str(i) for i in range(torch.cuda.device_count()))


def slots(cores: tuple[int, ...], gpus: tuple[str, ...], workers: int, threads: int) -> tuple[Slot, ...]:
    """Return the places of ``workers`` workers of ``threads`` threads each.

    The cores are dealt out in runs of neighbours; one worker has them all. With GPUs every worker has one, and one
    worker sees whatever is visible.

    Raises
    ------
    UsageError
        If a worker would have fewer cores than threads, or no GPU of its own.
    """
    if cores and workers > 1 and len(cores) < workers * threads:
        raise UsageError(
            f"--workers {workers}: expected at most {max(len(cores) // threads, 1)} with {threads} thread(s) each on "
            f"{len(cores)} cores, got {workers}; give fewer workers or --threads"
        )
    if gpus and workers > len(gpus):
        raise UsageError(
            f"--workers {workers}: expected at most one run a GPU, and {len(gpus)} are visible; give fewer workers"
        )
    share = len(cores) // workers
    return tuple(
        Slot(
            cores if workers == 1 else cores[i * share : (i + 1) * share],
            gpus[i] if gpus and workers > 1 else None,
        )
        for i in range(workers)
    )
