"""Fields that call another one and do something at each call: count, watch, write down."""

import abc
from collections.abc import Callable
from functools import partial
from typing import Any

from torch import Tensor, nn

from odegrad.contracts import HALVES


class PassesCalls(nn.Module, abc.ABC):
    """A field that calls another one, ``inner``, and does something at each call; it has halves where that has them."""

    inner: Any

    @abc.abstractmethod
    def called(self, function: Callable[[Tensor, Any], Any], t: Tensor, y: Any) -> Any:
        """Return ``function(t, y)``, of the field or of one of its halves."""

    def forward(self, t: Tensor, y: Any) -> Any:
        """Return ``inner(t, y)``."""
        return self.called(self.inner, t, y)

    def __getattr__(self, name: str) -> Any:
        """Return a half of the inner field, called as that is."""
        if name in HALVES:
            return partial(self.called, getattr(self.inner, name))
        return super().__getattr__(name)
