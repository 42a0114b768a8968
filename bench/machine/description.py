"""A record's circumstances: hardware, versions, commit and settings. No host name, no user name, no paths."""

import os
import platform
import re
import shutil
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil
import torch

from odegrad.machine.conditions import cpu_quota, governor, huge_pages

ALLOCATOR_VARIABLES = (
    "MALLOC_MMAP_MAX_",
    "MALLOC_TRIM_THRESHOLD_",
    "MALLOC_TOP_PAD_",
    "MALLOC_ARENA_MAX",
    "LD_PRELOAD",
)
"""Environment variables that decide how fast tensors are allocated on a CPU."""

DISTRIBUTIONS = ("odegrad", "torch", "torchdiffeq", "numpy")


def machine() -> dict[str, Any]:
    """Return what describes this process and the machine under it, as plain data.

    Memory is in bytes; the control group's quota of processor time in cores, None where there is none. It is meant to
    be called in a process that measures, because threads, allocator settings and flags are the calling process's own.
    """
    return {
        "cpu": cpu_model(),
        "cpu_model": cpu_numbers(),
        "cores": psutil.cpu_count(logical=False),
        "logical_cores": psutil.cpu_count(logical=True),
        "memory_bytes": psutil.virtual_memory().total,
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "cuda": torch.version.cuda,
        "os": f"{platform.system()} {platform.release()}",
        "architecture": platform.machine(),
        "python": platform.python_version(),
        **{name: package_version(name) for name in DISTRIBUTIONS},
        "commit": commit() or commit_of_version(package_version("odegrad") or ""),
        "threads": torch.get_num_threads(),
        "instruction_set": torch.backends.cpu.get_cpu_capability(),
        "blas": blas(),
        "tf32_matmul": torch.backends.cuda.matmul.allow_tf32,
        "tf32_cudnn": torch.backends.cudnn.allow_tf32,
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "malloc": allocator(),
        "governor": governor(),
        "huge_pages": huge_pages(),
        "cpu_quota": cpu_quota(),
    }


def machine_of_process(_progress: object) -> dict[str, object]:
    """Return the machine as seen by the calling process, which a worker started for that."""
    return machine()


def cpu_model() -> str:
    """Return the processor's model name."""
    return cpu_info().get("model name") or platform.processor() or platform.machine()


def cpu_numbers() -> str | None:
    """Return the processor's family and model numbers: on a virtual machine one name covers several."""
    found = cpu_info()
    return "/".join(found[key] for key in ("cpu family", "model") if key in found) or None


def cpu_info() -> dict[str, str]:
    """Return what Linux says of the first processor; nothing elsewhere."""
    info = Path("/proc/cpuinfo")
    if not info.is_file():
        return {}
    first = info.read_text(encoding="utf-8", errors="replace").split("\n\n", 1)[0]
    pairs = (line.partition(":") for line in first.splitlines())
    return {key.strip(): value.strip() for key, _, value in pairs}


def package_version(name: str) -> str | None:
    """Return the installed version of the distribution ``name``, or None."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def blas() -> str:
    """Return the name of the library behind torch's matrix products on the CPU."""
    for word in torch.__config__.show().replace(",", " ").split():
        key, _, value = word.partition("=")
        if key == "BLAS_INFO":
            return value
    return "unknown"


def allocator() -> dict[str, str]:
    """Return the allocator settings in the environment; a preloaded library is named without its folder."""
    found = {}
    for name in ALLOCATOR_VARIABLES:
        words = os.environ.get(name, "").replace(":", " ").split()
        if words:
            found[name] = " ".join(Path(word).name for word in words)
    return found


def commit_of_version(text: str) -> str | None:
    """Return the commit that an installed version was built from (``0.1.dev7+g1a2b3c4d5``), ``-dirty`` if changed.

    None if the version names no commit.
    """
    found = re.search(r"\+g([0-9a-f]{7,40})(\.d\d+)?$", text)
    return None if found is None else found[1] + ("-dirty" if found[2] else "")


def commit(folder: Path | None = None) -> str | None:
    """Return the short commit of the checkout around ``folder``, with ``-dirty`` if files are changed.

    Without a folder it is that of the checkout that odegrad is imported from; None if odegrad was installed without
    one, or there is no checkout or no git.
    """
    root, git = folder or Path(__file__).resolve().parents[2], shutil.which("git")
    if git is None or (folder is None and not (root / ".git").exists()):
        return None
    answers = []
    for arguments in (["rev-parse", "--short=12", "HEAD"], ["status", "--porcelain", "--untracked-files=no"]):
        command = [git, "-C", str(root), *arguments]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30)  # noqa: S603
        except (OSError, subprocess.SubprocessError):
            return None
        answers.append(done.stdout.strip())
    return answers[0] + ("-dirty" if answers[1] else "")
