"""Control groups: where they are made, what they hold, and what is changed where there can be none.

The tree is one of plain files; the last test asks the kernel, where it shows groups that this user may divide.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from odegrad.processes import groups
from odegrad.processes.deaths import death
from odegrad.processes.groups import ControlGroup, group_of_call, own_group, prepared_home
from odegrad.records.record import Status
from odegrad.records.temporary import own_prefix

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="control groups are Linux's")

FILES = ("cgroup.procs", "cgroup.subtree_control", "cgroup.kill", "pids.max", "memory.max", "memory.swap.max",
         "memory.oom.group")  # fmt: skip


@pytest.fixture
def tree(tmp_path, monkeypatch):
    """Return a tree as the kernel shows it to a container: this process alone in its first group.

    A folder that is made there has the kernel's files, and can be removed in spite of them.
    """
    make, remove = Path.mkdir, Path.rmdir

    def mkdir(path, *arguments, **options):
        make(path, *arguments, **options)
        for name in FILES:
            (path / name).write_text("")

    def rmdir(path):
        for name in FILES:
            (path / name).unlink(missing_ok=True)
        remove(path)

    monkeypatch.setattr(Path, "mkdir", mkdir)
    monkeypatch.setattr(Path, "rmdir", rmdir)
    (tmp_path / "cgroup.controllers").write_text("cpu memory pids\n")
    (tmp_path / "cgroup.subtree_control").write_text("")
    (tmp_path / "cgroup.procs").write_text(f"{os.getpid()}\n")
    (tmp_path / "membership").write_text("4:memory:/old\n0::/\n")
    return tmp_path


def test_a_group_of_its_own_is_divided(tree):
    """The command moves into a leaf, and limits are allowed below."""
    home = prepared_home(own_group(tree, tree / "membership"))
    assert home == tree
    leaf = tree / f"{own_prefix(os.getpid())}command"
    assert (leaf / "cgroup.procs").read_text() == f"{os.getpid()}\n"
    assert (tree / "cgroup.subtree_control").read_text() == "+memory +pids\n"


def test_a_call_has_its_limits(tree, monkeypatch):
    """In bytes, without swap, killed as a whole; and in processes. It is gone at the end."""
    monkeypatch.setattr(groups, "home_of_groups", lambda: tree)
    with group_of_call(2**31, 1004) as group:
        found = {name: (group.path / name).read_text().strip() for name in FILES[3:]}
        assert found == {"pids.max": "1004", "memory.max": str(2**31), "memory.swap.max": "0", "memory.oom.group": "1"}
        groups.enter(str(group.path))
        assert (group.path / "cgroup.procs").read_text() == "0\n"
        assert not group.ran_out_of_memory
    assert not group.path.exists()
    with group_of_call(None, 1004) as group:
        assert (group.path / "memory.max").read_text() == ""


def test_a_group_that_ran_out_of_memory_is_told(tmp_path):
    """By its count of killed processes, and the run is out_of_memory."""
    group = ControlGroup(tmp_path)
    (tmp_path / "memory.events").write_text("low 0\nhigh 0\nmax 12\noom 1\noom_kill 0\n")
    assert not group.ran_out_of_memory
    (tmp_path / "memory.events").write_text("low 0\nhigh 0\nmax 12\noom 1\noom_kill 3\n")
    assert group.ran_out_of_memory
    assert death(-9, held_most=group.ran_out_of_memory, memory_ran_out=True)[0] is Status.OUT_OF_MEMORY


@pytest.mark.parametrize("why", ["no version 2", "no controllers", "shared", "refused", "not handed over", "elsewhere"])
def test_where_there_can_be_none_nothing_is_changed(tree, monkeypatch, why):
    """Version 1, missing controllers, other processes beside this one, a kernel that refuses, a group of root's."""
    if why == "no version 2":
        (tree / "cgroup.controllers").unlink()
    elif why == "no controllers":
        (tree / "cgroup.controllers").write_text("cpu memory\n")
    elif why == "shared":
        (tree / "cgroup.procs").write_text(f"{os.getpid()}\n1\n")
    elif why == "refused":
        (tree / "cgroup.subtree_control").unlink()
    elif why == "not handed over":
        monkeypatch.setattr(os, "geteuid", lambda: 0)
        (tree / "session").mkdir()
        (tree / "membership").write_text("0::/session\n")
    else:
        (tree / "membership").write_text("0::/../above\n")
    before = sorted(tree.iterdir())
    assert prepared_home(own_group(tree, tree / "membership")) is None
    assert why == "refused" or sorted(tree.iterdir()) == before
    monkeypatch.setattr(groups, "home_of_groups", lambda: None)
    with group_of_call(2**31, 1004) as group:
        assert group is None


def test_a_kernel_that_makes_no_group_costs_nothing(tree, monkeypatch):
    """The call is measured without one."""
    monkeypatch.setattr(groups, "home_of_groups", lambda: tree / "gone")
    with group_of_call(2**31, 1004) as group:
        assert group is None


def test_groups_of_killed_commands_go(tree):
    """Those of living ones stay."""
    gone = tree / own_prefix(os.getpid()).replace(str(os.getpid()), str(2**22 + 1))
    gone.mkdir()
    kept = tree / f"{own_prefix(os.getpid())}1"
    kept.mkdir()
    prepared_home(tree)
    assert not gone.exists()
    assert kept.exists()


def test_the_kernel_s_own_groups(monkeypatch):
    """A process enters a group by itself, and ends with it, with its children."""
    mounts = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
    mount = next((Path(words[1]) for words in mounts if words[2] == "cgroup2"), None)
    home = None if mount is None else own_group(mount, Path("/proc/self/cgroup"))
    if home is None or not os.access(home, os.W_OK) or (home / "cgroup.type").exists():
        pytest.skip("needs a tree of version 2 whose first group this user may write")
    group = ControlGroup(home / f"{own_prefix(os.getpid())}test")
    group.path.mkdir()
    code = "import sys, time; from odegrad.processes.groups import enter; enter(sys.argv[1]); print(1, flush=True); "
    code += "import subprocess; subprocess.Popen(['sleep', '1000']); print(2, flush=True); time.sleep(1000)"
    process = subprocess.Popen([sys.executable, "-c", code, str(group.path)], stdout=subprocess.PIPE)
    try:
        assert process.stdout.read(4) == b"1\n2\n"
        inside = [int(word) for word in (group.path / "cgroup.procs").read_text().split()]
        assert process.pid in inside
        assert len(inside) == 2
        group.end()
        assert process.wait(10) == -9
        assert not group.path.exists()
    finally:
        process.kill()
        process.stdout.close()
