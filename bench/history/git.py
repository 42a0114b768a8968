"""Runs git in a repository; what it says becomes an error of the history."""

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from odegrad.errors import HistoryError

SECONDS = 120.0
_WORDS = 500
"""Characters of git's own words that are shown."""

_COMMITTER = {
    f"GIT_{role}_{key}": value
    for role in ("AUTHOR", "COMMITTER")
    for key, value in (("NAME", "odegrad"), ("EMAIL", "odegrad@localhost"))
}
"""Who commits where git knows nobody, as on a CI runner."""


@dataclass(frozen=True)
class Repository:
    """The git repository around a folder."""

    folder: Path

    def __post_init__(self) -> None:
        if shutil.which("git") is None:
            raise HistoryError("history: expected git on the PATH, got none; install it")
        done = self._run(("rev-parse", "--git-dir"))
        if done.returncode:
            said = done.stderr.decode(errors="replace").strip().partition("\n")[0]
            raise HistoryError(
                f"history: expected a git repository around {self.folder.resolve()}, got none ({said}); run odegrad in "
                "one, or give --history PATH and both --commit SHA and --date"
            )

    def says(self, *arguments: str) -> str | None:
        """Return what git prints, or None if it fails."""
        done = self._run(arguments)
        return None if done.returncode else done.stdout.decode(errors="replace").strip()

    def raw(self, *arguments: str, given: bytes | None = None, identified: bool = False) -> bytes:
        """Return the bytes that git prints, with ``given`` as its standard input.

        Parameters
        ----------
        arguments
            Of git.
        given
            Its standard input.
        identified
            Whether it needs to know who commits.

        Raises
        ------
        HistoryError
            If git fails; the message ends with what it said.
        """
        done = self._run(arguments, given, identified)
        if done.returncode:
            said = (done.stderr or done.stdout).decode(errors="replace").strip()[-_WORDS:]
            raise HistoryError(f"history: git {' '.join(arguments[:3])} ended with {done.returncode}: {said}")
        return done.stdout

    def text(self, *arguments: str, given: bytes | None = None, identified: bool = False) -> str:
        """Return what git prints as text; takes and raises what ``raw`` does."""
        return self.raw(*arguments, given=given, identified=identified).decode(errors="replace").strip()

    def _run(
        self, arguments: tuple[str, ...], given: bytes | None = None, identified: bool = False
    ) -> subprocess.CompletedProcess[bytes]:
        extra: dict[str, str] = {}
        if identified and self.says("var", "GIT_COMMITTER_IDENT") is None:
            extra = _COMMITTER
        try:
            return subprocess.run(  # noqa: S603
                [shutil.which("git") or "git", "-C", str(self.folder), *arguments],
                input=given or b"", capture_output=True, timeout=SECONDS, check=False, env={**os.environ, **extra},
            )  # fmt: skip
        except (OSError, subprocess.SubprocessError) as error:
            raise HistoryError(f"history: git {arguments[0]}: {error}") from error
