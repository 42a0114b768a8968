"""Solves that end where an event function of time and state crosses zero, and the gradient of when and where."""
