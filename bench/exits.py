"""How a command ends: every exit code and its meaning, and which command ends with which; the documents are made of it.

A command ends with 0 only if all that was asked was measured, decided and written.
"""

from collections.abc import Mapping
from enum import IntEnum


class ExitCode(IntEnum):
    """The exit codes of every command."""

    FINE = 0
    FAILED_CHECK = 1
    USAGE = 2
    FAILED_RUNS = 3
    UNDECIDED = 4
    TRY_AGAIN = 75
    INTERRUPTED = 130


UNFINISHED = "was spent: "
"""What a sentence holds that tells what a budget of seconds left open."""

EXIT_MEANINGS: Mapping[ExitCode, str] = {
    ExitCode.FINE: "all that was asked was measured, decided and written",
    ExitCode.FAILED_CHECK: "a check failed, a gate found a change, or data or records are missing or damaged",
    ExitCode.USAGE: "wrong usage: an argument, a file or a folder that cannot be used, code of your own that cannot be "
    "loaded",
    ExitCode.FAILED_RUNS: "some runs failed, and their rows say why; what a method or an optimizer refuses is a row "
    "`unsupported` and no failure",
    ExitCode.UNDECIDED: "something is not decided: two measurements of the same code differ, or times are too noisy "
    "for a gate; a gradient has nothing to be held against or is too close to what is accurate; or a budget of "
    "seconds ended before all was measured",
    ExitCode.TRY_AGAIN: "the machine failed, and runs are missing: the same command again measures them",
    ExitCode.INTERRUPTED: "interrupted by Ctrl-C, SIGTERM or SIGHUP",
}
"""What each means."""

_READS = (ExitCode.FINE, ExitCode.USAGE, ExitCode.INTERRUPTED)
_COMPUTES = (*_READS, ExitCode.FAILED_CHECK, ExitCode.TRY_AGAIN)

EXITS_OF: Mapping[str, tuple[ExitCode, ...]] = {
    "run": (*_COMPUTES, ExitCode.FAILED_RUNS),
    "paper": (*_COMPUTES, ExitCode.FAILED_RUNS),
    "plan": _COMPUTES,
    "report": _READS,
    "compare-results": _READS,
    "list": (*_READS, ExitCode.FAILED_CHECK),
    "check": _COMPUTES,
    "advise": (*_COMPUTES, ExitCode.FAILED_RUNS, ExitCode.UNDECIDED),
    "compare": (*_COMPUTES, ExitCode.FAILED_RUNS, ExitCode.UNDECIDED),
    "diagnose": (*_COMPUTES, ExitCode.UNDECIDED),
    "gate": (*_COMPUTES, ExitCode.UNDECIDED),
    "doctor": _READS,
    "history add": _READS,
    "history report": _READS,
    "results check": (*_READS, ExitCode.FAILED_CHECK),
    "results repair": (*_READS, ExitCode.FAILED_CHECK),
}
"""Command -> the codes that it ends with."""


def exit_table() -> str:
    """Return the exit codes as a table in Markdown: code, meaning, and the commands that end with it."""
    lines = ["| Code | Means | Of |", "|---|---|---|"]
    for code, meaning in EXIT_MEANINGS.items():
        commands = [name for name, codes in EXITS_OF.items() if code in codes]
        told = "every command" if len(commands) == len(EXITS_OF) else ", ".join(f"`{name}`" for name in commands)
        lines.append(f"| {code.value} | {meaning} | {told} |")
    return "\n".join(lines) + "\n"
