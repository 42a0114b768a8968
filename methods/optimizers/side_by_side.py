"""Several optimizers as one, each over parameters of its own."""

from collections import ChainMap
from collections.abc import Callable, Sequence

import torch
from torch import optim
from torch.optim.optimizer import StateDict

from odegrad.errors import UsageError


class SideBySide(optim.Optimizer):
    """Optimizers that step together; their parameter groups are this one's, in order.

    Parameters
    ----------
    parts
        The optimizers; no parameter belongs to two of them.
    """

    def __init__(self, parts: Sequence[optim.Optimizer]) -> None:
        self.parts = list(parts)
        super().__init__([group for part in self.parts for group in part.param_groups], {})
        self._share()

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Let every part step; a closure is evaluated once, before."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for part in self.parts:
            part.step()
        return loss

    def state_dict(self) -> StateDict:
        """Return the states of the parts."""
        return {"parts": [part.state_dict() for part in self.parts]}

    def load_state_dict(self, state_dict: StateDict) -> None:
        """Continue from ``state_dict()``.

        Raises
        ------
        UsageError
            If the state is not one of as many parts.
        """
        parts = state_dict.get("parts")
        if not isinstance(parts, list) or len(parts) != len(self.parts):
            raise UsageError(
                f"state_dict: expected the states of {len(self.parts)} optimizers under 'parts', got "
                f"{sorted(state_dict) if not isinstance(parts, list) else len(parts)}; load what state_dict() returned"
            )
        for part, state in zip(self.parts, parts, strict=True):
            part.load_state_dict(state)
        self._share()

    def _share(self) -> None:
        self.param_groups = [group for part in self.parts for group in part.param_groups]
        self.state = ChainMap(*(part.state for part in self.parts))  # type: ignore[assignment]
