"""odegrad compares the ways to train a Neural ODE.

The face of the package: ``load(results)`` gives the records of a results folder as a dataframe, without torch.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from odegrad.reports.frame import load

__all__ = ["load"]


def __getattr__(name: str) -> Any:
    """Import what the face hands out on first use (PEP 562)."""
    if name == "load":
        from odegrad.reports.frame import load  # noqa: PLC0415

        return load
    raise AttributeError(f"module 'odegrad' has no attribute {name!r}; it hands out {__all__}")
