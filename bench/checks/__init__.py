"""Conformance checks: the same functions behind the tests and ``odegrad check``."""
