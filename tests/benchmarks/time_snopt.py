"""Time an iteration of SNOpt: ``python tests/benchmarks/time_snopt.py [digits] [size] [rounds]``.

The kinds of iteration take turns in one process, from the same parameters and batch, so that a machine that slows down
slows all of them. Printed are medians, what an ordinary iteration costs beside SGD's, and what one refresh adds, as a
share of an epoch and, at the task's own refresh interval, of the training: by the loss's own costate (R = 1), and by
one backward pass for each class (R = 10 on the digits).
"""

import statistics
import sys
import time

import torch

from odegrad.binding import next_solve
from odegrad.contracts import ScoringProblem
from odegrad.registry import build_gradient, build_optimizer, build_solver, build_task

TOLERANCE = 1e-3


def iteration(problem, optimizer, method, solver):
    """Return the seconds of one iteration on the first batch."""
    batch = problem.batch(0)
    started = time.perf_counter()
    optimizer.zero_grad(set_to_none=True)
    loss = problem.loss(next_solve(optimizer, method, solver, batch), batch)
    loss.backward()
    optimizer.step()
    return time.perf_counter() - started


def measure(task, size, gradient, rounds):
    """Return kind -> seconds of each round, and SNOpt's settings at this size."""
    problem = build_task(task).build(size, 0, torch.device("cpu"), torch.float32)
    method, solver = build_gradient(gradient), build_solver("dopri5", TOLERANCE, TOLERANCE)
    optimizers = {
        "first order": build_optimizer("sgd", problem),
        "ordinary": build_optimizer("snopt", problem, {"update_freq": 10**9}),
        "refresh": build_optimizer("snopt", problem, {"update_freq": 1}),
    }
    if isinstance(problem, ScoringProblem):
        optimizers["R-fold refresh"] = build_optimizer(
            "snopt", problem, {"update_freq": 1, "curvature": "gauss_newton"}
        )
    parameters = [p.detach().clone() for p in problem.model.parameters()]
    seconds = {kind: [] for kind in optimizers}
    for i in range(rounds + 2):
        for kind, optimizer in optimizers.items():
            took = iteration(problem, optimizer, method, solver)
            if i >= 2:  # the first round of "ordinary" is a refresh, and all of the first are cold
                seconds[kind].append(took)
            with torch.no_grad():
                for p, value in zip(problem.model.parameters(), parameters, strict=True):
                    p.copy_(value)
    return seconds, problem


def main(task="digits", size="default", rounds="40"):
    """Print the page."""
    for gradient in ("adjoint", "interpolation", "anode", "aca", "naive"):
        seconds, problem = measure(task, size, gradient, int(rounds))
        median = {kind: statistics.median(values) for kind, values in seconds.items()}
        batches = len(problem.data.train[1]) // problem.batch_size
        interval = problem.training.optimizers["snopt"]["update_freq"]
        print(
            f"{task} {size} {gradient}: "
            + ", ".join(f"{kind} {1e3 * value:.1f} ms" for kind, value in median.items())
            + f"; ordinary / first order {median['ordinary'] / median['first order']:.3f}"
        )
        for kind in ("refresh", "R-fold refresh"):
            if kind in median:
                extra = median[kind] - median["ordinary"]
                print(
                    f"  a {kind} adds {100 * extra / (batches * median['ordinary']):.1f} % of an epoch of {batches} "
                    f"batches, {100 * extra / (interval * median['ordinary'] + extra):.2f} % of the training "
                    f"(every {interval})"
                )


if __name__ == "__main__":
    main(*sys.argv[1:])
