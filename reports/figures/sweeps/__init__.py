"""Figures over a setting that a sweep varies: depth, end time, nodes, an option."""
