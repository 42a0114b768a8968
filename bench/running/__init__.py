"""Sweeps: plan, resume, execute on one machine or many, tell of progress."""
