"""odegrad compares the ways to train a Neural ODE.

The face of the package: ``odeint`` and ``odeint_adjoint`` solve with a choice of gradient method, ``odeint_event`` up
to an event, ``regularised`` with penalties on the dynamics,
``compare_gradients`` says which method suits a model, ``SNOpt`` trains it by second-order steps, ``log_norms`` takes
the logarithmic norms of its dynamics; ``load(results)`` gives the records of a results folder as a dataframe and
``figure(frame, name)`` draws them, both without torch.
"""

import importlib
import sys
import warnings
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from odegrad.advice.comparison import compare_gradients
    from odegrad.diagnosis.trajectory import log_norms
    from odegrad.interface import odeint, odeint_adjoint, odeint_event, regularised
    from odegrad.methods.optimizers.snopt.optimizer import SNOpt
    from odegrad.reports.figures.kinds import figure
    from odegrad.reports.frame import load

__all__ = [
    "SNOpt",
    "compare_gradients",
    "figure",
    "load",
    "log_norms",
    "odeint",
    "odeint_adjoint",
    "odeint_event",
    "regularised",
]

_HOMES = {
    "SNOpt": "odegrad.methods.optimizers.snopt.optimizer",
    "compare_gradients": "odegrad.advice.comparison",
    "figure": "odegrad.reports.figures.kinds",
    "load": "odegrad.reports.frame",
    "log_norms": "odegrad.diagnosis.trajectory",
    "odeint": "odegrad.interface",
    "odeint_adjoint": "odegrad.interface",
    "odeint_event": "odegrad.interface",
    "regularised": "odegrad.interface",
}

_MOVED = {
    "odegrad.trajectory": "odegrad.diagnosis.trajectory",
    "odegrad.datasets.layers": "odegrad.datasets.nets.layers",
    "odegrad.datasets.flow": "odegrad.datasets.nets.flow",
    "odegrad.datasets.series_classification": "odegrad.datasets.nets.ode_rnn",
}
"""Names of 0.1 that its documents handed out -> where they are now; they go with 0.3."""


def __getattr__(name: str) -> object:
    """Import what the face hands out on first use (PEP 562)."""
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    if f"odegrad.{name}" in _MOVED:
        return importlib.import_module(f"odegrad.{name}")
    raise AttributeError(f"module 'odegrad' has no attribute {name!r}; it hands out {__all__}")


class _MovedModules:
    """Finds a module under its old name, and says where it is now."""

    @staticmethod
    def find_spec(name: str, path: object = None, target: object = None) -> ModuleSpec | None:  # noqa: ARG004
        return ModuleSpec(name, _MovedModules) if name in _MOVED else None  # type: ignore[arg-type]

    @staticmethod
    def create_module(spec: ModuleSpec) -> None:
        """Leave it to Python to make the module that ``exec_module`` replaces."""

    @staticmethod
    def exec_module(module: ModuleType) -> None:
        new = _MOVED[module.__name__]
        message = f"{module.__name__} is {new} now; the old name goes with odegrad 0.3"
        warnings.warn(message, DeprecationWarning, stacklevel=2)
        sys.modules[module.__name__] = importlib.import_module(new)


sys.meta_path.append(_MovedModules)
