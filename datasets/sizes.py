"""A task's sizes: settings by name."""

from collections.abc import Mapping
from typing import TypeVar

from odegrad.errors import UnknownNameError

SettingsT = TypeVar("SettingsT")


def settings_of(task: str, settings: Mapping[str, SettingsT], size: str) -> SettingsT:
    """Return the settings of ``task`` at ``size``.

    Raises
    ------
    UnknownNameError
        If the task has no such size; the message names those it has.
    """
    if size not in settings:
        raise UnknownNameError(f"size of task {task!r}", size, settings)
    return settings[size]
