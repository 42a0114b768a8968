"""The circumstances of a record."""

import json
import platform
import subprocess
from pathlib import Path

import psutil
import pytest
import torch

import odegrad.machine.description
from odegrad.machine.conditions import cpu_quota, governor, huge_pages
from odegrad.machine.description import allocator, blas, commit, commit_of_version, cpu_model, machine, package_version


def test_machine_is_plain_data_and_true():
    """Versions, threads and memory are what the libraries themselves say."""
    found = machine()
    assert json.loads(json.dumps(found)) == found
    assert found["torch"] == torch.__version__
    assert found["python"] == platform.python_version()
    assert found["threads"] == torch.get_num_threads()
    assert found["memory_bytes"] == psutil.virtual_memory().total
    assert found["logical_cores"] == psutil.cpu_count()
    assert (found["governor"], found["huge_pages"], found["cpu_quota"]) == (governor(), huge_pages(), cpu_quota())
    assert (found["gpu"] is None) == (not torch.cuda.is_available())


def test_machine_names_no_host_and_no_place():
    """Neither the host's name nor a path of this machine is recorded."""
    text = json.dumps(machine())
    assert str(Path(torch.__file__).parent) not in text
    assert str(Path.cwd()) not in text
    assert "hostname" not in text
    assert f'"{platform.node()}"' not in text


def test_allocator_settings_are_named_without_folders(monkeypatch):
    """A preloaded allocator is named by its file only; unset variables are left out."""
    for name in odegrad.machine.description.ALLOCATOR_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MALLOC_MMAP_MAX_", "0")
    monkeypatch.setenv("LD_PRELOAD", "/usr/lib/libjemalloc.so.2:/opt/other.so")
    assert allocator() == {"MALLOC_MMAP_MAX_": "0", "LD_PRELOAD": "libjemalloc.so.2 other.so"}


def test_commit_is_the_checkouts_and_says_if_files_are_changed(tmp_path, monkeypatch):
    """The commit is git's own, ``-dirty`` after a change, None without a checkout or without a commit."""
    module = tmp_path / "bench" / "machine" / "description.py"
    module.parent.mkdir(parents=True)
    module.write_text("first")
    monkeypatch.setattr(odegrad.machine.description, "__file__", str(module))
    assert commit() is None

    def git(*arguments):
        settings = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
        done = subprocess.run(
            ["git", "-C", str(tmp_path), *settings, *arguments], check=True, capture_output=True, text=True
        )
        return done.stdout.strip()

    git("init", "-q")
    assert commit() is None
    git("add", ".")
    git("commit", "-q", "-m", "first")
    clean = commit()
    assert clean is not None
    assert git("rev-parse", "HEAD").startswith(clean)
    assert len(clean) >= 12
    module.write_text("second")
    assert commit() == clean + "-dirty"


@pytest.mark.parametrize(
    ("version", "expected"),
    [
        ("0.1.dev7+g1a2b3c4d5", "1a2b3c4d5"),
        ("0.1.dev7+g1a2b3c4d5.d20260101", "1a2b3c4d5-dirty"),
        ("0.1.0", None),
        ("", None),
    ],
)
def test_commit_of_an_installed_version(version, expected):
    """A version built from a checkout names its commit and whether files were changed."""
    assert commit_of_version(version) == expected


def test_no_git_means_no_commit(monkeypatch):
    """Without git on the machine there is no commit and no error."""
    monkeypatch.setenv("PATH", "")
    assert commit() is None


def test_package_that_is_not_installed_has_no_version():
    """An absent distribution is None, not an error."""
    assert package_version("no-such-distribution-of-anyone") is None
    assert package_version("torch") == torch.__version__


@pytest.mark.skipif(not Path("/proc/cpuinfo").is_file(), reason="Linux only")
def test_processor_and_matrix_library_are_named():
    """The processor's name is in the kernel's list; the library behind matrix products is in torch's build settings."""
    assert cpu_model() in Path("/proc/cpuinfo").read_text()
    assert blas() == "unknown" or f"BLAS_INFO={blas()}" in torch.__config__.show()
