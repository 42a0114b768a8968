"""Builds the base revision twice: each time a git worktree, and its wheel in a folder of packages of its own."""

import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

from odegrad.errors import BaselineError
from odegrad.gate.side import Environment
from odegrad.records.temporary import temporary_folder

BUILD_SECONDS = 600.0
_WORDS = 800
"""Characters of a failed command's output that are shown."""


BUILDS = ("base", "base-built-again")
"""Folders of the two builds. Their names differ in length because a path's length shifts the memory of a process."""


@contextmanager
def built_base(revision: str, folder: Path) -> Iterator[tuple[tuple[Environment, ...], str]]:
    """Yield two builds of ``revision`` of the git checkout around ``folder``, and its commit; removed at the end.

    Each build has a worktree of its own. If the checkout is a Python project, its wheel is built there, and installed
    beside the interpreter's packages, over which it wins; its requirements are those installed. Files of a user's own
    are found where they stand in ``folder``. The builds run at the same time.

    Raises
    ------
    BaselineError
        If there is no checkout or revision, or it cannot be built; the message ends with what git or pip said.
    """
    git = shutil.which("git")
    if git is None:
        raise BaselineError("--base: expected git on the PATH, got none; install it, or give --base-python PATH")
    root = Path(_run([git, "-C", str(folder), "rev-parse", "--show-toplevel"], f"--base {revision}"))
    try:
        commit = _run([git, "-C", str(root), "rev-parse", "--verify", f"{revision}^{{commit}}"], f"--base {revision}")
    except BaselineError as error:
        raise BaselineError(
            f"--base {revision}: expected a revision of the repository {root}, got none of that name; `git log` and "
            "`git branch -a` name them, a shallow clone lacks most"
        ) from error
    inside = folder.resolve().relative_to(root.resolve())
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(temporary_folder()))
        _run([git, "-C", str(root), "worktree", "prune"], f"--base {revision}")  # of gates that were killed
        for build in BUILDS:
            tree, what = str(scratch / build / "tree"), f"--base {revision}"
            _run([git, "-C", str(root), "worktree", "add", "--detach", tree, commit], what)
            stack.callback(_run, [git, "-C", str(root), "worktree", "remove", "--force", tree], what)
        with ThreadPoolExecutor(len(BUILDS)) as pool:
            builds = tuple(pool.map(lambda build: _installed(scratch / build, inside, revision), BUILDS))
        yield builds, commit[:12]


def _installed(build: Path, inside: Path, revision: str) -> Environment:
    """Return the environment of the worktree in ``build``, in its folder ``inside``, after its wheel is installed."""
    tree, packages = build / "tree", build / "packages"
    if not (tree / inside).is_dir():
        raise BaselineError(f"--base {revision}: expected the folder {inside} in that revision, got none")
    if not any((tree / name).is_file() for name in ("pyproject.toml", "setup.py")):
        return Environment(sys.executable, tree / inside)
    install = ["pip", "install", "--quiet", "--no-deps", "--target", str(packages), str(tree)]
    _run([sys.executable, "-m", *install], f"--base {revision}: cannot be built")
    return Environment(sys.executable, tree / inside, packages)


def _run(command: Sequence[str], what: str) -> str:
    """Return what a command printed."""
    try:
        done = subprocess.run(  # noqa: S603
            list(command), capture_output=True, text=True, timeout=BUILD_SECONDS, check=False
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise BaselineError(f"{what}: {error}") from error
    if done.returncode:
        said = (done.stderr or done.stdout).strip()[-_WORDS:]
        raise BaselineError(f"{what}: {' '.join(map(str, command[:4]))} ended with {done.returncode}: {said}")
    return done.stdout.strip()
