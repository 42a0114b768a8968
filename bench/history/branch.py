"""A history on a git branch of its own, written through git's plumbing: no working tree or index is touched."""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from odegrad.errors import HistoryError
from odegrad.history.folder import SUFFIX
from odegrad.history.git import Repository

TRIES = 5
"""Of moving the branch, while other processes move it."""

_FILE = re.compile(rf"[0-9a-f]{{7,64}}{re.escape(SUFFIX)}")
_NONE = ""
"""What git takes for the hash of a reference that must not exist."""


@dataclass(frozen=True)
class BranchStore:
    """A branch whose top folder holds ``COMMIT.jsonl`` files; where it is missing, that of ``origin`` is taken."""

    repository: Repository
    branch: str

    def __post_init__(self) -> None:
        if self.repository.says("check-ref-format", "--branch", self.branch) != self.branch:
            raise HistoryError(f"--branch {self.branch}: expected a name that git takes for a branch, got another")

    @property
    def name(self) -> str:
        """Return what messages call it."""
        return f"branch {self.branch}"

    @property
    def option(self) -> tuple[str, str]:
        """Return the option that names it on a command line."""
        return ("--branch", self.branch)

    def files(self) -> Iterator[tuple[str, bytes]]:
        """Yield name and content of every file, in the order of names.

        Raises
        ------
        HistoryError
            If there is no such branch, or it holds no history.
        """
        tip = self._tip()
        if tip is None:
            raise HistoryError(
                f"--branch {self.branch}: expected a branch, got none of that name here or of origin's; fetch it with "
                f"git fetch origin {self.branch}:{self.branch}, or begin it with odegrad history add RESULTS "
                f"--branch {self.branch}"
            )
        entries = {name: entry.split()[2] for name, entry in self._entries(tip).items() if _FILE.fullmatch(name)}
        asked = "".join(f"{blob}\n" for blob in entries.values()).encode()
        answer, place = self.repository.raw("cat-file", "--batch", given=asked), 0
        for name in entries:
            end = answer.index(b"\n", place)
            size = int(answer[place:end].split()[2])
            yield name, answer[end + 1 : end + 1 + size]
            place = end + 1 + size + 1

    def update(self, commit: str, change: Callable[[bytes], bytes]) -> str:
        """Commit to the branch what ``change`` makes of the file of ``commit``; return where it is.

        Raises
        ------
        HistoryError
            If the branch holds something else, is checked out, or is moved all the time.
        """
        git, reference, name = self.repository, f"refs/heads/{self.branch}", f"{commit}{SUFFIX}"
        listed = git.text("worktree", "list", "--porcelain").splitlines()
        if f"branch {reference}" in listed:
            raise HistoryError(
                f"--branch {self.branch}: expected a branch that is not checked out, got one that is; leave it with "
                "git switch --detach, or give another branch"
            )
        for _ in range(TRIES):
            tip = self._tip()
            entries = {} if tip is None else self._entries(tip)
            old = git.raw("cat-file", "blob", f"{tip}:{name}") if name in entries else b""
            new = change(old)
            if new == old and git.says("rev-parse", "--verify", "--quiet", reference) == tip:
                return f"{self.branch}:{name}"
            blob = git.text("hash-object", "-w", "--stdin", given=new)
            entries[name] = f"100644 blob {blob}"
            listing = "".join(f"{entry}\t{file}\0" for file, entry in entries.items()).encode()
            tree = git.text("mktree", "-z", given=listing)
            parent = () if tip is None else ("-p", tip)
            made = git.text("commit-tree", tree, *parent, "-m", f"Add results of {commit[:12]}", identified=True)
            before = git.says("rev-parse", "--verify", "--quiet", reference) or _NONE
            if before in {tip, _NONE} and git.says("update-ref", reference, made, before) is not None:
                return f"{self.branch}:{name}"
        raise HistoryError(f"--branch {self.branch}: other processes moved it {TRIES} times meanwhile; try again")

    def _tip(self) -> str | None:
        """Return the commit of the branch, or of origin's where there is no local one."""
        for reference in (f"refs/heads/{self.branch}", f"refs/remotes/origin/{self.branch}"):
            found = self.repository.says("rev-parse", "--verify", "--quiet", f"{reference}^{{commit}}")
            if found is not None:
                return found
        return None

    def _entries(self, tip: str) -> dict[str, str]:
        """Return name -> mode, type and hash of the branch's top folder; refuse a branch of something else."""
        listed = self.repository.raw("ls-tree", "-z", tip).decode(errors="surrogateescape").split("\0")
        entries = {name: entry for entry, _, name in (line.partition("\t") for line in listed if line)}
        if entries and not any(_FILE.fullmatch(name) for name in entries):
            raise HistoryError(
                f"--branch {self.branch}: expected a branch that holds a history and nothing else, got one with "
                f"{min(entries)}; give a name of its own, such as odegrad-history"
            )
        return entries
