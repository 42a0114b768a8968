"""The benchmarks that ``pytest --odegrad`` adds: one a run of a suite. Only pytest collects this module."""

import sys
from contextlib import redirect_stdout
from pathlib import Path
from types import ModuleType

import pytest
import torch

from odegrad.errors import SuiteError, UnsupportedError
from odegrad.gate.baseline import run_name
from odegrad.records.record import Run
from odegrad.suites.suite import load_suite
from odegrad.testing.fixture import GradientBenchmark


def runs_of_suite(name: str) -> tuple[dict[str, Run], Path]:
    """Return a suite's runs by their names in a gate's baseline, and the folder of its relative names.

    Raises
    ------
    UnknownNameError
        If there is no such suite.
    SuiteError
        If something in it is wrong, it tunes, or it has no runs.
    """
    with redirect_stdout(sys.stderr):  # a user's own file may print
        suite = load_suite(name)
    if suite.tuned:
        raise SuiteError(f"suite {suite.name}: expected fixed settings, got tuning; write the chosen ones into it")
    runs = {run_name(run): run for run in suite.runs("cpu")}
    if not runs:
        raise SuiteError(f"suite {suite.name}: expected runs, got none; look at its include and exclude")
    return runs, suite.folder


class Cases(pytest.Module):
    """Collects this very module, under a name that does not depend on where it is installed."""

    def _getobj(self) -> ModuleType:
        return sys.modules[__name__]


@pytest.mark.odegrad
def test_gradient(
    odegrad_case: str,  # noqa: ARG001 (what the test is parametrized by)
    odegrad_run: tuple[Run, Path],
    gradient_benchmark: GradientBenchmark,
    benchmark: object,  # noqa: ARG001 (asked for, so that the gradient is timed)
) -> None:
    """Time one forward and one backward pass; what the method cannot do is skipped with its reason."""
    run, folder = odegrad_run
    if run.device == "cuda" and not torch.cuda.is_available():
        pytest.skip("there is no CUDA device that torch can use")
    try:
        gradient_benchmark.of_run(run, folder)
    except UnsupportedError as refusal:
        pytest.skip(str(refusal))
