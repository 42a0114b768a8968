"""The state of torch's global random number generators, so that a call can be repeated."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class GeneratorState:
    """The CPU generator's state, and that of a CUDA device if the work is there."""

    device: torch.device
    cpu: Tensor
    cuda: Tensor | None

    @classmethod
    def now(cls, device: torch.device) -> "GeneratorState":
        """Return the state at this moment."""
        cuda = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
        return cls(device, torch.get_rng_state(), cuda)

    def has_moved(self) -> bool:
        """Return whether numbers have been drawn since."""
        now = GeneratorState.now(self.device)
        same = torch.equal(self.cpu, now.cpu)
        return not (same and (self.cuda is None or now.cuda is None or torch.equal(self.cuda, now.cuda)))

    def set(self) -> None:
        """Make it the generators' state."""
        torch.set_rng_state(self.cpu)
        if self.cuda is not None:
            torch.cuda.set_rng_state(self.cuda, self.device)

    @contextmanager
    def restored(self) -> Iterator[None]:
        """Draw from this state inside, and go on from the outer one behind."""
        outer = GeneratorState.now(self.device)
        self.set()
        try:
            yield
        finally:
            outer.set()
