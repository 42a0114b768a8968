"""Per-sample steps: every sample of a batch has its own time, step size, acceptance and error norm."""
