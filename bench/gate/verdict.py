"""What a gate found: findings, how they count, and the sentences that say it."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from odegrad.exits import ExitCode


class GateState(StrEnum):
    """What a finding means."""

    REGRESSED = "regressed"
    IMPROVED = "improved"
    """A win, which must be accepted by an update too: otherwise it can be lost again unseen."""
    CHANGED = "changed"
    GONE = "gone"
    NEW = "new"
    UNDECIDED = "undecided"
    FINE = "fine"
    MACHINE = "machine failed"


FAILING = frozenset({GateState.REGRESSED, GateState.IMPROVED, GateState.CHANGED, GateState.GONE})
"""Findings that fail a gate: whatever differs from the baseline, in either direction."""


@dataclass(frozen=True)
class GateFinding:
    """One figure that is not as the baseline says, or could not be judged."""

    run: str
    metric: str
    state: GateState
    baseline: Any
    measured: object
    why: str

    def change(self) -> str:
        """Return by how much it moved, in words; empty where that says nothing."""
        old, new = self.baseline, self.measured
        if not all(isinstance(v, (int, float)) and math.isfinite(v) for v in (old, new)):
            return ""
        if isinstance(old, int) and isinstance(new, int):
            return f"{new - old:+d}" + (f" ({(new - old) / old:+.1%})" if old else "")
        return f"x {new / old:.3g}" if old else f"{new - old:+.3g}"

    def row(self) -> dict[str, str]:
        """Return the finding as a row of a table."""
        return {
            "verdict": str(self.state),
            "run": self.run,
            "metric": self.metric,
            "baseline": shown(self.baseline),
            "now": shown(self.measured),
            "change": self.change(),
            "why": self.why,
        }

    def sentence(self) -> str:
        """Return the finding in one line."""
        change = self.change()
        by = f", {change}" if change else ""
        return f"{self.state}: {self.metric} {shown(self.baseline)} -> {shown(self.measured)}{by} ({self.why})"


@dataclass(frozen=True)
class GateVerdict:
    """All findings of a gate, and how much was compared."""

    findings: tuple[GateFinding, ...]
    compared: tuple[str, ...]
    """Names of the runs that were compared."""
    exact: int
    """Figures that had to be equal, or errors of one order of magnitude."""
    banded: int
    """Figures that had to stay within a declared band."""
    machine: Mapping[str, tuple[object, object]]
    """What of the machine class differs: of the baseline, now."""
    since: str = ""
    """When, at which commit and why the baseline was accepted."""
    command: str = ""
    """What repeats this gate."""
    notes: tuple[str, ...] = ()
    """More sentences."""
    timed: bool = False
    """Whether times were compared, which no update accepts."""

    @property
    def code(self) -> int:
        """Return the exit code: 1 if anything moved, 75 if the machine failed, 4 if undecided, 0 if fine."""
        states = {finding.state for finding in self.findings}
        if states & FAILING:
            return ExitCode.FAILED_CHECK
        if GateState.MACHINE in states:
            return ExitCode.TRY_AGAIN
        return ExitCode.UNDECIDED if GateState.UNDECIDED in states else ExitCode.FINE

    def of_run(self, name: str) -> list[GateFinding]:
        """Return the findings of one run."""
        return [finding for finding in self.findings if finding.run == name]

    def sentences(self) -> list[str]:
        """Return what was compared, against what, and what to do next."""
        what = "times" if self.timed else f"{self.exact} figures exactly, {self.banded} within bands"
        against = f"; base {self.since}" if self.timed else f"; baseline of {self.since}" if self.since else ""
        lines = [f"{len(self.compared)} runs compared: {what}{against}", *self.notes]
        if self.machine:
            changed = ", ".join(f"{key} {shown(old)} -> {shown(new)}" for key, (old, new) in self.machine.items())
            lines.append(f"another machine class than the baseline's, so bands instead of equal figures: {changed}")
        inexact = sorted({f.metric for f in self.findings if f.state is GateState.UNDECIDED})
        if inexact and not self.timed:
            lines.append(f"left out of the exact figures, because two measurements differ: {', '.join(inexact)}")
        counts = {state: sum(f.state is state for f in self.findings) for state in GateState}
        found = ", ".join(f"{count} {state}" for state, count in counts.items() if count)
        moved = "slower than the base" if self.timed else "not as the baseline says"
        word = {
            ExitCode.FINE: "fine",
            ExitCode.FAILED_CHECK: moved,
            ExitCode.UNDECIDED: "undecided",
            ExitCode.TRY_AGAIN: "the machine failed; try again",
        }[ExitCode(self.code)]
        lines.append(f"gate: {word}{f' ({found})' if found else ''}")
        if self.code == ExitCode.FAILED_CHECK:
            lines.append(f"repeat: {self.command}")
        if self.code == ExitCode.FAILED_CHECK and not self.timed:
            lines.append(f"accept: {self.command} --update --reason TEXT")
        return lines


def shown(value: object) -> str:
    """Return a value as a verdict shows it."""
    if value is None:
        return "-"
    return f"{value:.3g}" if isinstance(value, float) else str(value)
