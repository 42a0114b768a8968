"""What pytest loads: the option ``--odegrad`` and the fixture ``gradient_benchmark``.

Every pytest run on a machine with odegrad imports this module, so it imports nothing but pytest; torch comes with the
first use.
"""

# ruff: noqa: PLC0415

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from odegrad.records.record import Run
    from odegrad.testing.fixture import GradientBenchmark

CASE = "odegrad_case"
"""The argument of the collected test that names its run."""

NODE = "odegrad"
"""Begins the node ids of the cases, wherever the package lies: results of two environments compare."""

_suite = pytest.StashKey["tuple[dict[str, Run], Path]"]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add ``--odegrad``."""
    parser.getgroup("odegrad", "benchmarks of Neural ODE gradients").addoption(
        "--odegrad",
        nargs="?",
        const="gate",
        default=None,
        metavar="SUITE",
        help="Add a benchmark for every run of SUITE, one that comes with odegrad or a path to a .toml file "
        "(default: gate): times of pytest-benchmark; calls, steps, bytes and FLOPs in its extra_info.",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Load the suite, so that a mistake is answered before anything is collected."""
    config.addinivalue_line("markers", f"{NODE}: the cases that --odegrad adds")
    suite = config.getoption("--odegrad")
    if suite is None:
        return
    if not config.pluginmanager.hasplugin("benchmark"):
        raise pytest.UsageError(
            "--odegrad: expected pytest-benchmark, which times the cases, got none: pip install pytest-benchmark"
        )
    from odegrad.errors import OdegradError
    from odegrad.testing.cases import runs_of_suite

    try:
        config.stash[_suite] = runs_of_suite(suite)
    except OdegradError as error:
        taken = not suite.endswith(".toml") and Path(suite.partition("::")[0]).exists()
        hint = f"; for the suite gate beside those tests write --odegrad=gate {suite}" if taken else ""
        raise pytest.UsageError(f"--odegrad: {error}{hint}") from error


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(session: pytest.Session, config: pytest.Config, items: list[pytest.Item]) -> None:
    """Add the cases behind the tests that were collected, before any of them is deselected or skipped."""
    if _suite in config.stash:
        from odegrad.testing import cases

        module = cases.Cases.from_parent(session, path=Path(cases.__file__), name=NODE, nodeid=NODE)
        items += session.genitems(module)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Make one case a run."""
    if CASE in metafunc.fixturenames and _suite in metafunc.config.stash:
        runs, _ = metafunc.config.stash[_suite]
        metafunc.parametrize(CASE, list(runs), ids=list(runs))


@pytest.fixture
def odegrad_run(request: pytest.FixtureRequest) -> "tuple[Run, Path]":
    """Return the run of a case that ``--odegrad`` adds, and the folder of its relative names."""
    runs, folder = request.config.stash[_suite]
    return runs[request.getfixturevalue(CASE)], folder


@pytest.fixture
def gradient_benchmark(request: pytest.FixtureRequest) -> "GradientBenchmark":
    """Return ``gradient_benchmark(method, task, solver=..., rtol=..., ...)``, which gives exact numbers to assert on.

    In a test that asks for pytest-benchmark's ``benchmark`` it takes the times, too, and the numbers stand in
    ``extra_info``. ``odegrad.testing.fixture.GradientBenchmark`` names every argument.
    """
    from odegrad.testing.fixture import GradientBenchmark

    benchmark = request.getfixturevalue("benchmark") if "benchmark" in request.fixturenames else None
    return GradientBenchmark(
        request.path.parent,
        benchmark,
        int(request.config.getoption("benchmark_min_rounds", default=5)),
        float(request.config.getoption("benchmark_max_time", default=1.0)),
    )
