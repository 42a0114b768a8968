"""The pytest plug-in: exact numbers of a gradient to assert on, and a suite's runs as benchmarks."""
