"""For every test."""

import os

os.environ.setdefault("LOKY_MAX_CPU_COUNT", "1")  # pytest itself uses the cores: figures are drawn in its processes
