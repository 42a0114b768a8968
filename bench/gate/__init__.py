"""The gate: a suite's deterministic figures held against a committed baseline, and times against another revision."""
