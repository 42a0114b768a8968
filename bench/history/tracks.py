"""The lines of a history in order: its commits, and for each run those of machines whose figures compare."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from odegrad.gate.metrics import machine_class
from odegrad.history.line import Line
from odegrad.reports.machines import HARDWARE
from odegrad.reports.trends import Mark

Key = tuple[tuple[str, object], ...]
"""What two machines share whose figures compare: names and values."""

TIMED = (*HARDWARE, "cpu_model", "instruction_set")
"""What of a machine decides about its times; on virtual machines one name of a processor covers several models."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Track:
    """The lines of one run on machines whose figures compare, in the order of commits."""

    lines: Sequence[Line]
    places: Sequence[int]
    """Which commits, as indices of the marks."""
    machine: str
    """Letter (exact figures) or number (times) of the machines."""

    def release(self, marks: Sequence[Mark]) -> int | None:
        """Return the index of the last line of a release; None if there is none, or nothing after it."""
        found = [index for index, place in enumerate(self.places) if marks[place].release]
        return found[-1] if found and found[-1] < len(self.lines) - 1 else None


@dataclass(frozen=True)
class Machines:
    """One kind of machines of a history: what tells two apart, and how they are called."""

    key_of: Callable[[Line], Key]
    names: dict[Key, str]
    """Key -> letter or number; it grows with every machine that is met."""
    call: Callable[[int], str]

    def tracks(self, lines: Sequence[Line], place_of: Mapping[str, int]) -> dict[Key, Track]:
        """Return the tracks of one run's lines, which are in the order of commits."""
        groups: dict[Key, list[Line]] = {}
        for line in lines:
            groups.setdefault(self.key_of(line), []).append(line)
        return {
            key: Track(mine, [place_of[line.commit] for line in mine], self.name(key)) for key, mine in groups.items()
        }

    def name(self, key: Key) -> str:
        """Return the letter or number of a machine."""
        return self.names.setdefault(key, self.call(len(self.names)))

    def words(self) -> dict[str, str]:
        """Return letter or number -> the machine in words."""
        return {
            name: ", ".join(f"{word} {value}" for word, value in key if value is not None) or "not recorded"
            for key, name in self.names.items()
        }


def classes() -> Machines:
    """Return the machine classes: what decides about a figure's last bit, and the GPU of a run on one; A, B, ..."""
    return Machines(_class_of, {}, _letter)


def kinds_of_hardware() -> Machines:
    """Return the kinds of hardware, which decide about times; 1, 2, ..."""
    return Machines(_hardware_of, {}, lambda number: str(number + 1))


def _class_of(line: Line) -> Key:
    gpu = {} if line.device == "cpu" else {"gpu": line.machine.get("gpu")}
    return tuple((machine_class(line.machine) | gpu).items())


def _hardware_of(line: Line) -> Key:
    return tuple((name, line.machine.get(name)) for name in TIMED)


def _letter(number: int) -> str:
    """Return A, B, ..., Z, AA, AB, ..."""
    rest, last = divmod(number, 26)
    return (_letter(rest - 1) if rest else "") + chr(ord("A") + last)


def marks_of(lines: Sequence[Line]) -> list[Mark]:
    """Return the commits in order: after all their ancestors; where one's place among them is not known, by date."""
    known = {line.commit: line for line in lines}
    releases = {line.commit: line.release for line in lines if line.release}
    by_date = any(line.order is None for line in known.values())
    if by_date and any(line.order is not None for line in known.values()):
        _log.warning("history: some commits were added without their repository, so all are ordered by date")
    ordered = sorted(known.values(), key=lambda line: ((0 if by_date else line.order or 0), line.date, line.commit))
    return [Mark(each.commit, each.date, releases.get(each.commit, ""), each.parent or "") for each in ordered]
