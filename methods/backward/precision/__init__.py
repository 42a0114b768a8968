"""Backward passes through a field in a low type."""
