"""Builds the base revision: a git worktree of it, and its wheel in a folder of packages of its own."""

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from odegrad.errors import BaselineError
from odegrad.gate.side import Environment

BUILD_SECONDS = 600.0
WORDS = 800
"""Characters of a failed command's output that are shown."""


@contextmanager
def built_base(revision: str, folder: Path) -> Iterator[tuple[Environment, str]]:
    """Yield the environment of ``revision`` of the git checkout around ``folder``, and its commit; removed at the end.

    If the checkout is a Python project its wheel is built and installed beside the interpreter's packages, over which
    it wins; its requirements are those installed. Files of a user's own are found where they stand in ``folder``.

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
    with tempfile.TemporaryDirectory(prefix="odegrad-base-", ignore_cleanup_errors=True) as scratch:
        tree, packages = Path(scratch) / "tree", Path(scratch) / "packages"
        _run([git, "-C", str(root), "worktree", "add", "--detach", str(tree), commit], f"--base {revision}")
        try:
            inside = tree / folder.resolve().relative_to(root.resolve())
            if not inside.is_dir():
                raise BaselineError(f"--base {revision}: expected the folder {folder} in that revision, got none")
            path = None
            if (tree / "pyproject.toml").is_file() or (tree / "setup.py").is_file():
                install = ["pip", "install", "--quiet", "--no-deps", "--target", str(packages), str(tree)]
                _run([sys.executable, "-m", *install], f"--base {revision}: cannot be built")
                path = packages
            yield Environment(sys.executable, inside, path), commit[:12]
        finally:
            _run([git, "-C", str(root), "worktree", "remove", "--force", str(tree)], f"--base {revision}")


def _run(command: Sequence[str], what: str) -> str:
    """Return what a command printed."""
    try:
        done = subprocess.run(  # noqa: S603
            list(command), capture_output=True, text=True, timeout=BUILD_SECONDS, check=False
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise BaselineError(f"{what}: {error}") from error
    if done.returncode:
        said = (done.stderr or done.stdout).strip()[-WORDS:]
        raise BaselineError(f"{what}: {' '.join(map(str, command[:4]))} ended with {done.returncode}: {said}")
    return done.stdout.strip()
