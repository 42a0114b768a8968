"""What everything that a name stands for states about itself, as rows for ``odegrad list --details``."""

import inspect
import json
from collections.abc import Callable, Mapping, Sequence

import torch

from odegrad.catalogue import METHODS, OPTIMIZERS, PAIRS, REGULARISERS
from odegrad.commands.listing import ListedRow, suites
from odegrad.contracts import TaskInfo, Traits
from odegrad.errors import DataError, OdegradError
from odegrad.methods.regularisers.chosen import OPTIONS
from odegrad.methods.solvers.solver import make_solver, solver_names
from odegrad.processes.guarded import guarded
from odegrad.registry import build_task, gradients, is_foreign, optimizers, options_of, tasks

FOREIGN_SECONDS = 60.0
"""How long what another package offers may take to be asked."""

UNLOADABLE = "cannot be loaded:"
"""What the summary of a thing begins with that cannot be asked."""

DETAILED_LEGENDS: Mapping[str, str] = {
    "methods": "N accepted and R rejected steps of s f calls (N', R' in the backward solve), K outputs, d numbers in a "
    "state, p parameters, n nodes, M blocks, A the graph of one f call, F an f call, B a vector-Jacobian product. "
    "--json tells the options, too.",
    "optimizers": "Options with their defaults, which a task may set otherwise.",
    "regularisers": 'Options with their defaults; a suite sets them beside the weights, as "taylor.order" = 3.',
    "solvers": "Any Runge-Kutta method becomes algebraically reversible with the option coupling = 0.99.",
    "tasks": "Parameters, and numbers of a sample's state, of the tiny size. What is not offline is fetched once into "
    "the user's cache folder, or where ODEGRAD_DATA says.",
}
"""What stands under a listing."""


def methods() -> list[ListedRow]:
    """Return one row for every gradient method and published pair."""
    rows = _rows("methods", gradients.names())
    by_name = {row["name"]: row for row in rows}
    for name, pair in PAIRS.items():
        own = {"name": name, "family": pair.family, "summary": pair.sentence, "paper": pair.paper}
        by_name[name] = by_name[pair.gradient] | own
    order = dict.fromkeys(entry.name for entry in METHODS) | by_name
    return [by_name[name] for name in order]


def _method(name: str) -> ListedRow:
    families = {entry.name: entry.family for entry in METHODS}
    traits: Traits = gradients.get(name).traits
    return {
        "name": name,
        "family": families.get(name),
        "summary": traits.summary,
        "exact": traits.exact,
        "output_times": traits.times,
        "options": _options(gradients.get(name)),
        "memory": traits.memory,
        "cost_forward": traits.cost_forward,
        "cost_backward": traits.cost_backward,
        "curvature_samples": traits.taps,
        "paper": traits.paper,
    }


def optimizer_rows() -> list[ListedRow]:
    """Return one row for every optimizer."""
    return _rows("optimizers", optimizers.names())


def _optimizer(name: str) -> ListedRow:
    sentences = {entry.name: entry.sentence for entry in OPTIMIZERS}
    return {
        "name": name,
        "summary": sentences.get(name) or _first_line(optimizers.get(name)),
        "options": _options(optimizers.get(name), given=1),
    }


def regulariser_rows() -> list[ListedRow]:
    """Return one row for every regulariser."""
    return [
        {
            "name": entry.name,
            "kind": entry.family,
            "summary": entry.sentence,
            "options": {name: value for name, value in OPTIONS.items() if name.startswith(f"{entry.name}.")},
        }
        for entry in REGULARISERS
    ]


def _options(factory: object, given: int = 0) -> Mapping[str, object]:
    """Return the options of a method or an optimizer and their defaults, None for one that has none."""
    return {
        name: None if p.default is p.empty else p.default
        for name, p in options_of(factory, given).items()
        if p.kind is not p.VAR_KEYWORD
    }


def solvers() -> list[ListedRow]:
    """Return one row for every solver."""
    return [
        {
            "name": name,
            "order": solver.order,
            "calls_per_step": solver.scheme.evaluations,
            "adaptive": solver.estimates_error,
            "dense_output": solver.has_dense_output,
            "source": solver.scheme.source,
        }
        for name, solver in ((name, make_solver(name)) for name in solver_names())
    ]


def task_rows() -> list[ListedRow]:
    """Return one row for every task."""
    return _rows("tasks", tasks.names())


def _task(name: str) -> ListedRow:
    info: TaskInfo = tasks.get(name).info
    shape = _shape(name) if info.offline else {}
    return {
        "name": name,
        "kind": info.kind,
        "summary": info.summary,
        "metric": info.metric_name,
        "target": dict(info.target),
        "offline": info.offline,
        "sizes": ", ".join(info.sizes),
        "parameters": shape.get("parameters"),
        "state": shape.get("state"),
        "limit": info.limit,
        "licence": info.licence,
        "citation": info.citation,
    }


_ROW: Mapping[str, Callable[[str], ListedRow]] = {"methods": _method, "optimizers": _optimizer, "tasks": _task}


def _rows(kind: str, names: Sequence[str]) -> list[ListedRow]:
    """Return the row of every name; what other packages offer is asked in a measuring process."""
    own = [_ROW[kind](name) for name in names if not is_foreign(name)]
    return own + [_foreign_row(kind, name, own[0]) for name in names if is_foreign(name)]


def _foreign_row(kind: str, name: str, like: ListedRow) -> ListedRow:
    """Return the row of another package's thing, or one that says why it cannot be loaded."""
    try:
        found: ListedRow = guarded(f"{__name__}:row_of", kind, name, what=f"{kind} {name}", timeout=FOREIGN_SECONDS)
    except OdegradError as error:
        return dict.fromkeys(like) | {"name": name, "summary": f"{UNLOADABLE} {error}"}
    return found


def row_of(kind: str, name: str, _progress: object) -> ListedRow:
    """Return the row of one thing as plain data; called in a measuring process."""
    plain: ListedRow = json.loads(json.dumps(_ROW[kind](name), default=str))
    return plain


def _shape(name: str) -> Mapping[str, int]:
    """Return the trained parameters and the numbers of a sample's state, of the tiny size; nothing without the data."""
    try:
        problem = build_task(name).build("tiny", 0, torch.device("cpu"), torch.float32)
    except DataError:
        return {}
    _, state, _ = problem.dynamics(problem.probe_batch())
    parts = (state,) if isinstance(state, torch.Tensor) else state
    return {
        "parameters": sum(p.numel() for p in problem.model.parameters() if p.requires_grad),
        "state": sum(p[0].numel() for p in parts),
    }


def _first_line(thing: object) -> str:
    return (inspect.getdoc(thing) or "").split("\n", 1)[0].replace("``", "").removeprefix("Return ")


DETAILED_LISTINGS: Mapping[str, Callable[[], list[ListedRow]]] = {
    "methods": methods,
    "optimizers": optimizer_rows,
    "regularisers": regulariser_rows,
    "solvers": solvers,
    "tasks": task_rows,
    "suites": suites,
}
"""What can be listed."""

SHOWN: Mapping[str, tuple[str, ...]] = {
    "methods": ("name", "exact", "memory", "cost_forward", "cost_backward", "paper"),
    "optimizers": ("name", "summary", "options"),
    "regularisers": ("name", "kind", "options"),
    "solvers": ("name", "order", "calls_per_step", "adaptive", "dense_output", "source"),
    "tasks": ("name", "kind", "sizes", "parameters", "state", "offline", "metric", "target"),
    "suites": ("name", "description"),
}
"""The columns of each listing that fit into a table on a terminal."""
