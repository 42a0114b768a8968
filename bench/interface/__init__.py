"""torchdiffeq's functions and arguments, on the solvers and gradient methods of this package."""

from odegrad.interface.events import odeint_event
from odegrad.interface.penalties import regularised
from odegrad.interface.solves import odeint, odeint_adjoint

__all__ = ["odeint", "odeint_adjoint", "odeint_event", "regularised"]
