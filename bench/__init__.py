"""odegrad compares the ways to train a Neural ODE.

The face of the package: ``odeint`` and ``odeint_adjoint`` solve with a choice of gradient method,
``compare_gradients`` says which method suits a model, ``SNOpt`` trains it by second-order steps; ``load(results)``
gives the records of a results folder as a dataframe and ``figure(frame, name)`` draws them, both without torch.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from odegrad.advice.comparison import compare_gradients
    from odegrad.interface import odeint, odeint_adjoint
    from odegrad.methods.optimizers.snopt.optimizer import SNOpt
    from odegrad.reports.figures.kinds import figure
    from odegrad.reports.frame import load

__all__ = ["SNOpt", "compare_gradients", "figure", "load", "odeint", "odeint_adjoint"]

_HOMES = {
    "SNOpt": "odegrad.methods.optimizers.snopt.optimizer",
    "compare_gradients": "odegrad.advice.comparison",
    "figure": "odegrad.reports.figures.kinds",
    "load": "odegrad.reports.frame",
    "odeint": "odegrad.interface",
    "odeint_adjoint": "odegrad.interface",
}


def __getattr__(name: str) -> Any:
    """Import what the face hands out on first use (PEP 562)."""
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'odegrad' has no attribute {name!r}; it hands out {__all__}")
