"""What there is, as rows for ``odegrad list``: names, families and sentences from the catalogue, without torch."""

from collections.abc import Callable, Mapping
from typing import Any

from odegrad.catalogue import METHODS, OPTIMIZERS, REGULARISERS, SOLVERS, TASKS, offered
from odegrad.suites.shipped import suite_description, suite_names

ListedRow = dict[str, Any]


def methods() -> list[ListedRow]:
    """Return one row for every gradient method and published pair; of another package's it is not known if exact."""
    rows = [{"name": e.name, "family": e.family, "exact": e.exact, "summary": e.sentence} for e in METHODS]
    return rows + _of_others("methods", "family", "exact")


def optimizers() -> list[ListedRow]:
    """Return one row for every optimizer."""
    rows = [{"name": e.name, "family": e.family, "summary": e.sentence} for e in OPTIMIZERS]
    return rows + _of_others("optimizers", "family")


def regularisers() -> list[ListedRow]:
    """Return one row for every regulariser."""
    return [{"name": e.name, "kind": e.family, "summary": e.sentence} for e in REGULARISERS]


def solvers() -> list[ListedRow]:
    """Return one row for every solver."""
    return [{"name": e.name, "family": e.family, "summary": e.sentence} for e in SOLVERS]


def tasks() -> list[ListedRow]:
    """Return one row for every task; of another package's it is not known if it works offline."""
    rows = [{"name": e.name, "kind": e.family, "offline": e.offline, "summary": e.sentence} for e in TASKS]
    return rows + _of_others("tasks", "kind", "offline")


def suites() -> list[ListedRow]:
    """Return one row for every suite that comes with odegrad."""
    return [{"name": name, "description": suite_description(name)} for name in suite_names()]


def _of_others(kind: str, *unknown: str) -> list[ListedRow]:
    """Return a row for each thing that another package offers; it is not imported, so columns are ``unknown``."""
    return [
        {"name": entry.name, **dict.fromkeys(unknown), "summary": f"of another package: {entry.value}"}
        for entry in offered(kind)
    ]


LISTINGS: Mapping[str, Callable[[], list[ListedRow]]] = {
    "methods": methods,
    "optimizers": optimizers,
    "regularisers": regularisers,
    "solvers": solvers,
    "tasks": tasks,
    "suites": suites,
}
"""What can be listed."""

LEGENDS: Mapping[str, str] = {
    "methods": "exact: the gradient of the computed loss; other methods give that of the continuous loss, off by "
    "O(tolerance). --details tells memory and costs, --json options too.",
    "optimizers": "--details tells the options.",
    "regularisers": "Sums over steps need a method that walks back through them: naive, aca, anode, revolve or "
    "symplectic_adjoint. --details tells the options.",
    "solvers": "Any Runge-Kutta method becomes algebraically reversible with the option coupling = 0.99. --details "
    "tells calls per step, dense output and source.",
    "tasks": "What is not offline is fetched once into the user's cache folder, or where ODEGRAD_DATA says. --details "
    "tells sizes, parameters, state, metric and target.",
}
"""What stands under a listing."""
