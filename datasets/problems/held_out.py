"""Problems whose metric is their loss, on data that the training does not see."""

from abc import ABC, abstractmethod
from collections.abc import Mapping

import torch
from torch import Tensor

from odegrad.contracts import Solve, Split


class LossIsMetric(ABC):
    """Tells the loss on ``held_out`` as the metric, in the loss's own unit, and as the held-out loss."""

    held_out: Mapping[str, object]
    """One batch by the name of the split."""

    @abstractmethod
    def loss(self, solve: Solve, batch: object) -> Tensor:
        """Return the mean loss of ``batch``, 0-d."""

    def evaluate(self, solve: Solve, split: Split = "test") -> float:
        """Return the mean loss on held-out data, without a graph."""
        with torch.no_grad():
            return float(self.loss(solve, self.held_out[split]))

    def held_out_loss(self, solve: Solve, split: Split) -> float:
        """Return the mean loss on held-out data: the metric."""
        return self.evaluate(solve, split)
