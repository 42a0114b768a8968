"""The package on a simulated card: files of cases in processes of their own, which know the card from their start.

Skipped, with the reason, where the card's library cannot be built: on another system than Linux, without a C++
compiler, or where torch is built for CUDA.
"""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from filelock import FileLock

HERE, ROOT = Path(__file__).parent, Path(__file__).parents[2]
CASES = sorted((HERE / "cases").glob("*.py"))
HALVES = (CASES[::2], CASES[1::2])
"""Of two processes: starting one takes as long as the cases of a file."""
MARKED = [path for path in sorted((ROOT / "tests").rglob("test_*.py")) if "mark.gpu" in path.read_text()]
"""Files with tests of a real card, which the simulated one must pass too."""


def _library_module() -> ModuleType:
    """Return ``library.py``, by its path: the root need not be on ``sys.path`` here."""
    spec = importlib.util.spec_from_file_location("card_library", HERE / "library.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


card_library = _library_module()


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the built library, one for all processes that share out the tests."""
    reason = card_library.reason_against()
    if reason is not None:
        pytest.skip(reason)
    base = tmp_path_factory.getbasetemp()
    folder = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    with FileLock(folder / "simulated_card.lock"):
        built = folder / "simulated_card.so"
        return built if built.exists() else Path(card_library.build(folder))


@pytest.mark.timeout(900)  # as much as the cases of several files
@pytest.mark.parametrize("cases", HALVES, ids=lambda paths: ",".join(path.stem for path in paths))
def test_on_the_simulated_card(cases: list[Path], library: Path) -> None:
    found = run_on_card(library, "-vv", *map(str, cases))
    assert found.returncode == 0, found.stdout + found.stderr
    for path in cases:
        assert re.search(rf"cases/{path.stem}\.py::.+ PASSED", found.stdout)


def test_tests_of_a_real_card_pass_on_the_simulated_one(library: Path) -> None:
    files = [str(path) for path in MARKED if path != Path(__file__)]
    found = run_on_card(library, "-m", "gpu", *files)
    assert found.returncode == 0, found.stdout + found.stderr
    assert " skipped" not in found.stdout


def run_on_card(library: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run pytest with ``arguments`` in a process that has the card."""
    command = [sys.executable, "-m", "pytest", "-p", "tests.card.plugin", "-p", "no:cacheprovider", "-q", "-x"]
    environment = os.environ | {card_library.VARIABLE: str(library), "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    environment.pop("PYTEST_XDIST_WORKER", None)
    return subprocess.run(
        [*command, *arguments], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
