"""The library that gives a CPU build of torch a CUDA device's guard and hooks: built here, loaded before torch.

This module does not import torch, so that the library can be there first.
"""

import ctypes
import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

SOURCE = Path(__file__).parent / "guard.cpp"
VARIABLE = "SIMULATED_CARD_LIBRARY"
"""Of the environment: where the built library lies."""
COMPILERS = ("c++", "g++", "clang++")


def compiler() -> str | None:
    """Return the C++ compiler: ``$CXX``, or the first of the usual names."""
    names = (os.environ.get("CXX", ""), *COMPILERS)
    return next((found for name in names if name and (found := shutil.which(name))), None)


def reason_against() -> str | None:
    """Return why there can be no simulated card here, or None."""
    if sys.platform != "linux":
        return f"the simulated card is built on Linux only, and this is {sys.platform}"
    if _torch_version().cuda is not None:
        return "this torch is built for CUDA: the simulated card stands in for it in CPU builds only"
    found = compiler()
    if found is None:
        return f"the simulated card needs a C++ compiler, and there is none of {', '.join(COMPILERS)}, nor $CXX"
    # A compiler without the standard library's headers is as good as none; any other failure is the card's own.
    trial = subprocess.run(
        [found, "-std=c++20", "-fsyntax-only", "-x", "c++", "-"],
        input="#include <memory>\n", capture_output=True, text=True, check=False,
    )  # fmt: skip
    return None if trial.returncode == 0 else f"the C++ compiler {found} finds no C++20 standard library"


def build(folder: Path) -> Path:
    """Build the library into ``folder`` and return its path; it takes some seconds.

    Raises
    ------
    RuntimeError
        If the compiler fails; the message holds what it says.
    """
    torch, out = _torch_folder(), folder / "simulated_card.so"
    headers = torch / "include"
    command = [
        compiler() or COMPILERS[0], "-std=c++20", "-O1", "-shared", "-fPIC", f"-I{headers}",
        f"-I{headers / 'torch' / 'csrc' / 'api' / 'include'}", f"-L{torch / 'lib'}", f"-Wl,-rpath,{torch / 'lib'}",
        str(SOURCE), "-ltorch_cpu", "-lc10", "-o", str(out),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{SOURCE.name}: the compiler failed on it; has torch changed its hooks?\n{done.stderr}")
    return out


def load(library: Path) -> None:
    """Load torch's own libraries and then ``library``, so that torch finds its guard and hooks when it is imported.

    Raises
    ------
    RuntimeError
        If torch is imported already, and has made up its mind.
    """
    if "torch" in sys.modules:
        raise RuntimeError("simulated card: torch is imported already; start a process of its own for the card")
    folder = _torch_folder() / "lib"
    for path in (*sorted(folder.glob("libgomp*")), folder / "libc10.so", folder / "libtorch_cpu.so", library):
        ctypes.CDLL(str(path), ctypes.RTLD_GLOBAL)


def _torch_folder() -> Path:
    found = importlib.util.find_spec("torch")
    assert found is not None
    assert found.origin is not None
    return Path(found.origin).parent


def _torch_version() -> ModuleType:
    """Return ``torch.version`` without the rest of torch."""
    spec = importlib.util.spec_from_file_location("torch_version", _torch_folder() / "version.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
