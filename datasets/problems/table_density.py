"""The density of a table of numbers by continuous normalizing flows in a row: what every such task shares."""

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor, nn

from odegrad.contracts import Problem, Solve, Split, State, TaskInfo, Training, VectorField
from odegrad.datasets.nets.flow import FlowField, draw_probe, initial_state, standard_normal_log_density
from odegrad.datasets.nets.layers import ConcatSquashNet
from odegrad.datasets.problems.sizes import Sized
from odegrad.datasets.sources.maf_archive import Splits
from odegrad.datasets.sources.seeding import PARAMETERS, PROBE, TANH_SCALE, TRAIN, generator, seeded_module
from odegrad.states import sent_to

ACTIVATIONS: Mapping[str, Callable[[Tensor], Tensor]] = {"tanh": torch.tanh, "softplus": nn.functional.softplus}

EVALUATION_ROWS = 1_000
"""Rows whose exact trace is taken at a time."""


@dataclass(frozen=True)
class TableFlowSettings:
    """One size: the flow, and how it is trained."""

    hidden: tuple[int, ...]
    blocks: int
    """Flows in a row, each with parameters of its own, over the same time."""
    activation: Literal["tanh", "softplus"]
    end_time: float
    trace: Literal["exact", "gaussian", "rademacher"]
    """Of the training; held-out rows are always evaluated with the exact trace."""
    batch_size: int
    held_out_rows: int
    """Most rows of validation and test that are evaluated, the first ones."""
    training: Training
    fraction: float = 1.0
    """Of the training rows that is used, the first ones."""


class TableDensity(Sized[TableFlowSettings]):
    """A table: a subclass names itself, its settings and how to read it."""

    info: ClassVar[TaskInfo]
    settings: ClassVar[Mapping[str, TableFlowSettings]]

    @abstractmethod
    def read(self) -> Splits:
        """Return the rows for training, validation and test, scaled."""

    def built(self, s: TableFlowSettings, seed: int, device: torch.device, dtype: torch.dtype) -> Problem:
        """Read the table and build the flow.

        Raises
        ------
        DataError
            If the table is not there and cannot be fetched.
        """
        splits = self.read()
        splits = splits._replace(train=splits.train[: max(1, int(s.fraction * len(splits.train)))])
        train, validation, test = (torch.from_numpy(np.ascontiguousarray(part)).to(device, dtype) for part in splits)
        source, dim = generator(seed, PARAMETERS), train.shape[1]

        def velocity() -> nn.Module:
            return ConcatSquashNet(dim, s.hidden, ACTIVATIONS[s.activation])

        scale = TANH_SCALE if s.activation == "tanh" else 1.0
        fields = [FlowField(seeded_module(velocity, source, device, dtype, scale)) for _ in range(s.blocks)]
        held_out = {"validation": validation[: s.held_out_rows], "test": test[: s.held_out_rows]}
        return TableDensityProblem(fields, train, held_out, s, seed)


class TableDensityProblem:
    """Flows in a row from the rows of a table to a standard normal; loss and metric in nats a row.

    Parameters
    ----------
    fields
        The flows' vector fields, in the order in which the data passes them.
    train, held_out
        Rows ``[count, dim]``; those held out by the name of the split.
    settings
        Trace, batch and training.
    seed
        Of batches and probes.
    """

    model: nn.Module
    fields: Sequence[nn.Module]
    training: Training

    def __init__(
        self,
        fields: Sequence[FlowField],
        train: Tensor,
        held_out: Mapping[str, Tensor],
        settings: TableFlowSettings,
        seed: int,
    ) -> None:
        self.flows = tuple(fields)
        self.fields = self.flows
        self.model = nn.ModuleList(fields)
        self.training = settings.training
        self.train = train
        self.held_out = held_out
        self.settings = settings
        self.seed = seed
        self.ts = torch.tensor([0.0, settings.end_time], dtype=train.dtype)

    def batch(self, iteration: int) -> tuple[Tensor, Tensor]:
        """Return rows ``[batch, dim]``, drawn with replacement, and the probes ``[blocks, batch, dim]`` of a solve."""
        source = generator(self.seed, TRAIN, iteration)
        drawn = torch.randint(len(self.train), (self.settings.batch_size,), generator=source)
        rows = sent_to(self.train.device, drawn)
        return self._with_probes(self.train[rows], source)

    def probe_batch(self) -> tuple[Tensor, Tensor]:
        """Return the first eight training rows, and probes."""
        return self._with_probes(self.train[:8], generator(self.seed, PROBE))

    def _with_probes(self, rows: Tensor, source: torch.Generator) -> tuple[Tensor, Tensor]:
        trace, count = self.settings.trace, len(self.flows)
        if trace == "exact":
            return rows, rows.new_empty((count, 0, rows.shape[1]))
        return rows, torch.stack([draw_probe(rows, trace, source) for _ in range(count)])

    def loss(self, solve: Solve, batch: Any) -> Tensor:
        """Return the mean negative log-density of ``batch`` in nats, 0-d."""
        rows, probes = batch
        return -self._log_density(solve, rows, probes).mean()

    def evaluate(self, solve: Solve, split: Split = "test") -> float:
        """Return the mean negative log-density of held-out rows in nats, by the exact trace."""
        rows, total = self.held_out[split], 0.0
        with torch.no_grad():
            for part in torch.split(rows, EVALUATION_ROWS):
                total -= float(self._log_density(solve, part, part.new_empty((len(self.flows), 0, 0))).double().sum())
        return total / len(rows)

    def held_out_loss(self, solve: Solve, split: Split) -> float:
        """Return the mean negative log-density of held-out rows in nats, by the exact trace: the metric."""
        return self.evaluate(solve, split)

    def dynamics(self, batch: Any) -> tuple[VectorField, State, Tensor]:
        """Return the first flow's vector field, the state that starts at rows of ``batch``, and the times ``[2]``."""
        rows, probes = batch
        return self._field(self.flows[0], probes[0]), initial_state(rows), self.ts

    def _field(self, flow: FlowField, probe: Tensor) -> FlowField:
        return flow if probe.numel() == 0 else flow.with_probe(probe)

    def _log_density(self, solve: Solve, rows: Tensor, probes: Tensor) -> Tensor:
        state = initial_state(rows)
        for flow, probe in zip(self.flows, probes, strict=True):
            z, change = solve(self._field(flow, probe), state, self.ts)
            state = z[-1], change[-1]
        log_p: Tensor = standard_normal_log_density(state[0]) - state[1]
        return log_p
