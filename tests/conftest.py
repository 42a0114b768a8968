"""For every test."""

import gc
import os

os.environ.setdefault("LOKY_MAX_CPU_COUNT", "1")  # pytest itself uses the cores: figures are drawn in its processes


def pytest_collection_finish() -> None:
    """Let garbage collections pass over what lives until the end: the modules and the thousands of tests."""
    gc.collect()
    gc.freeze()
