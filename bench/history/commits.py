"""The commit that results belong to: its date, and its place among its ancestors."""

import datetime as dt
import re
from dataclasses import dataclass
from pathlib import Path

from odegrad.errors import HistoryError
from odegrad.history.git import Repository

_HASH = re.compile("[0-9a-f]{7,64}")


@dataclass(frozen=True)
class Commit:
    """A commit as a history keeps it."""

    sha: str
    date: str
    """Of the committer, ISO 8601 in UTC."""
    order: int | None
    """How many commits it descends from, itself included: greater than that of every ancestor. None: not known."""
    parent: str | None
    """Its first parent."""


def find_commit(folder: Path, revision: str, date: str, history: Path | None) -> Commit:
    """Return the commit that results measured in ``folder`` belong to.

    Parameters
    ----------
    folder
        Inside of the repository.
    revision
        Anything that git takes for a commit; empty: HEAD, whose files must not be changed. Files that git does not
        know of do not count.
    date
        ISO 8601, instead of the commit's own; empty: its own.
    history
        The folder of the history, which may lie in the repository and be changed.

    Returns
    -------
    Commit
        If there is no repository, but revision and date are given, one without a place among others.

    Raises
    ------
    HistoryError
        If there is no repository, no such commit, only a part of the history (a shallow clone), or changed files.
    """
    if revision and date and _HASH.fullmatch(revision):
        try:
            git = Repository(folder)
        except HistoryError:
            return Commit(revision, _utc(date), None, None)
    else:
        git = Repository(folder)
    if git.says("rev-parse", "--is-shallow-repository") == "true":
        raise HistoryError(
            "history: expected a whole repository, got a shallow clone, in which commits have no order; fetch it with "
            "git fetch --unshallow (GitHub Actions: fetch-depth: 0; GitLab CI: GIT_DEPTH: 0)"
        )
    sha = git.says("rev-parse", "--verify", "--quiet", f"{revision or 'HEAD'}^{{commit}}")
    if sha is None:
        raise HistoryError(
            f"--commit {revision}: expected a commit of the repository, got none of that name; git log names them"
            if revision
            else "history: expected a repository with a commit, got an empty one; commit first"
        )
    if not revision:
        _refuse_changes(git, history)
    parents = git.text("rev-list", "--parents", "--max-count=1", sha).split()[1:]
    when = date or git.text("show", "--no-patch", "--format=%cI", sha)
    return Commit(sha, _utc(when), int(git.text("rev-list", "--count", sha)), parents[0] if parents else None)


def _refuse_changes(git: Repository, history: Path | None) -> None:
    """Refuse changed files: what was measured is then no commit's."""
    root = Path(git.text("rev-parse", "--show-toplevel")).resolve()
    command = ["status", "--porcelain", "--untracked-files=no", "--", ":(top)"]
    if history is not None and history.resolve().is_relative_to(root) and history.resolve() != root:
        command.append(f":(top,exclude){history.resolve().relative_to(root).as_posix()}")
    changed = git.text(*command).splitlines()
    if changed:
        first = changed[0].split(maxsplit=1)[-1]
        raise HistoryError(
            f"history: expected the files of HEAD, got {len(changed)} changed ones, among them {first}; commit them "
            "and measure, or name the commit that was measured with --commit SHA"
        )


def _utc(text: str) -> str:
    try:
        found = dt.datetime.fromisoformat(text)
    except ValueError as error:
        raise HistoryError(f"--date {text}: expected ISO 8601 such as 2026-01-31T12:00:00+00:00 ({error})") from error
    aware = found if found.tzinfo else found.replace(tzinfo=dt.UTC)
    return aware.astimezone(dt.UTC).isoformat(timespec="seconds")
