"""Solves whose end is found on the way: landing on it, and steps that are kept until it is known."""
