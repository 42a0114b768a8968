"""Optimizers: torch's own by name, SNOpt, and two optimizers side by side."""
