"""One side of a process pair: builds every cell once, then times a block of one whenever it is told to.

Run by its path under the base's and the head's environment alike, so that both are measured by the same code. It reads
requests and writes answers as JSON lines, with the key of the request; what a user's own file prints goes to standard
error.
"""

import json
import os
import select
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Mapping
from time import perf_counter, process_time
from typing import Any

import torch

from odegrad.registry import build_gradient, build_solver, build_task

try:
    from odegrad.binding import solve_with
    from odegrad.records.record import Run
except ModuleNotFoundError:  # a base of 0.1, whose modules lay side by side
    from odegrad.record import Run  # type: ignore[import-not-found, no-redef]

try:
    from odegrad.binding import solve_with
except ModuleNotFoundError:  # a base of 0.1, whose tasks end at no events

    def solve_with(method: Any, solver: Any) -> Any:  # type: ignore[misc]
        """Return the method bound to its solver."""
        return lambda field, y0, ts: method(field, solver, y0, ts)


def _leave_orphans() -> None:
    """Leave orphans to the system."""


def _leave_family(pid: int, but: Iterable[int] = ()) -> None:
    """Leave the process group to whoever kills it."""


try:
    from odegrad.processes.reaping import become_reaper, end_family
except ModuleNotFoundError:  # a base that ends no descendants
    become_reaper, end_family = _leave_orphans, _leave_family


_WARM_UPS = 3
_MIN_REPEATS = 3


Iteration = Callable[[], tuple[float, float]]
"""Times one forward and backward pass: the seconds of both, and of the backward pass."""


def iteration_of(run: Run) -> Iteration:
    """Return a function that times one forward and backward pass of ``run`` on its first batch.

    With one thread it is the process's own time on its core, which leaves out what other processes take; with more the
    wall clock.
    """
    clock = process_time if torch.get_num_threads() == 1 else perf_counter
    torch.manual_seed(run.seed)
    method = build_gradient(run.gradient, dict(run.gradient_options))
    solver = build_solver(run.solver, run.rtol, run.atol, run.told_solver)
    dtype = torch.float64 if run.dtype == "float64" else torch.float32
    problem = build_task(run.task).build(run.size, run.seed, torch.device("cpu"), dtype)
    batch = problem.batch(0)
    solve = solve_with(method, solver)

    def iterate() -> tuple[float, float]:
        problem.model.zero_grad(set_to_none=True)
        start = clock()
        loss = problem.loss(solve, batch)
        middle = clock()
        loss.backward()  # type: ignore[no-untyped-call]
        end = clock()
        return end - start, end - middle

    for _ in range(_WARM_UPS):
        iterate()
    return iterate


def block(iterate: Iteration, seconds: float) -> list[float]:
    """Return the shortest whole and backward pass of at least three iterations that take ``seconds`` together.

    What disturbs an iteration only ever lengthens it, so that the shortest is the least disturbed.
    """
    found = [iterate() for _ in range(_MIN_REPEATS)]
    while sum(whole for whole, _ in found) < seconds:
        found.append(iterate())
    return [min(part) for part in zip(*found, strict=True)]


def answer(request: Mapping[str, Any], cells: dict[str, Iteration]) -> dict[str, object]:
    """Return the answer to one request: so many threads, keep to some cores, build a cell, or time a block of it."""
    if "threads" in request:
        torch.set_num_threads(request["threads"])
        return {}
    if "cores" in request:
        if request["cores"] and hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(0, request["cores"])
        return {}
    name = request["cell"]
    try:
        if "run" in request:
            cells[name] = iteration_of(Run.from_dict(request["run"]))
            return {"built": name}
        return {"seconds": block(cells[name], request["seconds"])}
    except (Exception, SystemExit) as error:  # a user's file may raise anything
        return {"error": f"{type(error).__name__}: {error}"}


def end_with_parent() -> None:
    """Kill this process and all that it has started once nobody holds the other end of standard input."""
    watch = select.poll()
    watch.register(0, 0)  # which hears of the end alone
    watch.poll()
    end_family(os.getpid())
    os.killpg(0, signal.SIGKILL)


def main() -> None:
    """Serve until standard input ends."""
    become_reaper()
    threading.Thread(target=end_with_parent, daemon=True).start()
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    cells: dict[str, Iteration] = {}
    for line in sys.stdin:
        request = json.loads(line)
        replies.write(json.dumps({**answer(request, cells), "key": request["key"]}) + "\n")
        replies.flush()
    # Here and in the watching thread, for either may be the first to hear of the end.
    end_family(os.getpid())


if __name__ == "__main__":
    main()
