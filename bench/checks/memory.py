"""Checks of memory: how it grows with steps and outputs (G7), and what the method predicts of it (G17)."""

import gc
from collections.abc import Iterator

import torch

from odegrad.checks.choice import fixed_solver
from odegrad.checks.problems import SmoothNet, StepLog
from odegrad.checks.result import CheckResult, at_most
from odegrad.contracts import GradientMethod, PredictsBytes
from odegrad.measuring.cost import SolveCost, graph_bytes, predicted_bytes, sizes_of
from odegrad.measuring.memory import cheap_collections
from odegrad.measuring.meters import memory_meter
from odegrad.methods.solvers.solver import OneStepSolver

CHECKED_STEPS = (4, 8, 16, 32, 64)
BATCH = 64


def memory_slopes(method: GradientMethod, solver: OneStepSolver) -> Iterator[CheckResult]:
    """G7: the bytes kept between forward and backward grow with the steps as predicted, to the byte."""
    fixed = fixed_solver(method, solver, 1)
    if not isinstance(method, PredictsBytes) or method.refuses(fixed) is not None:
        return
    with cheap_collections():
        saved_bytes(method, fixed, outputs=2)  # a scheme's weights stay from its first solve on
        found = [saved_bytes(method, fixed_solver(method, solver, n), outputs=2) for n in CHECKED_STEPS]
    wrong = sum(abs((measured - found[0][0]) - (predicted - found[0][1])) for measured, predicted in found[1:])
    slope = (found[-1][0] - found[0][0]) / (CHECKED_STEPS[-1] - CHECKED_STEPS[0])
    yield at_most("G7 memory slope", wrong, 0, f"{fixed.name}, {CHECKED_STEPS} steps: {slope:g} bytes a step, saved")


def predicted_memory(method: GradientMethod, solver: OneStepSolver) -> Iterator[CheckResult]:
    """G17: the bytes kept between forward and backward are within 5 % of the prediction, at 1 and 8 outputs."""
    fixed = fixed_solver(method, solver, 8)
    if not isinstance(method, PredictsBytes) or method.refuses(fixed) is not None:
        return
    with cheap_collections():
        found = [(outputs, *saved_bytes(method, fixed, outputs)) for outputs in (2, 9)]
    for outputs, measured, predicted in found:
        detail = f"{fixed.name}, {outputs - 1} x 8 steps: {measured} bytes saved, predicted {predicted}"
        yield at_most("G17 memory", abs(measured / predicted - 1.0), 0.05, detail)


def saved_bytes(method: GradientMethod, solver: OneStepSolver, outputs: int) -> tuple[int, int]:
    """Return measured and predicted bytes between forward and backward on a small net; ``outputs`` times in [0, 1]."""
    small = method.traits.state_from == "columns"  # which grow with the number of parameters
    field = SmoothNet(d=2, hidden=4) if small else SmoothNet(d=8, hidden=32)
    generator = torch.Generator().manual_seed(1)
    y0 = torch.randn(
        2 if small else BATCH, 2 if small else 8, generator=generator, dtype=torch.float64
    ).requires_grad_()
    ts, log = torch.linspace(0.0, 1.0, outputs, dtype=torch.float64), StepLog()
    gc.collect()
    with memory_meter(torch.device("cpu")) as meter:
        ys = method(field, solver.observed_by(log), y0, ts)
        measured = meter.current_bytes()
    del ys
    sizes = sizes_of(field, y0, outputs, graph_bytes(field, ts[0], y0))
    steps = solver.counted(outputs - 1, (len(log.ends), log.rejections), works=log.works)
    predicted = predicted_bytes(method, [SolveCost(steps, sizes)])
    return measured, 0 if predicted is None else predicted.saved


MEMORY_CHECKS = (memory_slopes, predicted_memory)
"""Every check of this page; each takes a method and an adaptive solver."""
