"""Figures: pure functions from a frame of records to a matplotlib figure."""
