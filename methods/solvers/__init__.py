"""Solvers: tableaus and schemes, step control, the loops that solve and replay."""
