"""The adjoint method with the seminorm: the parameter gradient is solved along, and left out of the error norm."""

from dataclasses import dataclass, replace
from typing import ClassVar

from odegrad.contracts import Traits
from odegrad.errors import UsageError
from odegrad.methods.backward.costate import Parameters
from odegrad.methods.gradients.adjoint import Adjoint


@dataclass(frozen=True)
class AdjointSeminorm(Adjoint):
    """Solve ``(y, a, g)`` back with ``g`` in the state and outside of the error norm (Kidger et al. 2021).

    Nothing feeds back from ``g``, so its error need not choose the steps. On accepted steps the quadrature of
    ``Adjoint`` gives the same numbers without carrying ``g``; this is the published form, with the costate as it comes.

    Raises
    ------
    UsageError
        If an option is out of range.
    """

    parameters: Parameters = "seminorm"
    normalize_costate: bool = False

    traits: ClassVar[Traits] = replace(
        Adjoint.traits,
        name="adjoint_seminorm",
        summary="the adjoint method, parameter gradient outside of the error norm",
        paper='Kidger et al., "Hey, that\'s not an ODE": Faster ODE Adjoints via Seminorms, ICML 2021',
    )

    def __post_init__(self) -> None:
        """Check the options."""
        super().__post_init__()
        if self.parameters != "seminorm":
            raise UsageError(
                f"parameters: adjoint_seminorm has 'seminorm' only, got {self.parameters!r}; use method adjoint"
            )
