"""Densities of tables of numbers by continuous normalizing flows: small tables with no network, and those of MAF."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from sklearn.datasets import load_breast_cancer, load_wine
from sklearn.model_selection import train_test_split
from torch import Tensor, nn

from odegrad.contracts import Problem, Solve, Split, State, TaskInfo, Training, VectorField
from odegrad.datasets import maf_archive
from odegrad.datasets.flow import FlowField, draw_probe, initial_state, standard_normal_log_density
from odegrad.datasets.layers import ConcatSquashNet
from odegrad.datasets.maf_archive import Splits
from odegrad.datasets.seeding import PARAMETERS, PROBE, TANH_SCALE, TRAIN, generator, seeded_module
from odegrad.datasets.sizes import Sized, trained

ACTIVATIONS: Mapping[str, Callable[[Tensor], Tensor]] = {"tanh": torch.tanh, "softplus": nn.functional.softplus}

SPLIT_SEED = 0
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


class TableDensity(ABC, Sized[TableFlowSettings]):
    """A table: a subclass names itself, its settings and how to read it."""

    info: ClassVar[TaskInfo]
    settings: ClassVar[Mapping[str, TableFlowSettings]]

    @abstractmethod
    def read(self) -> Splits:
        """Return the rows for training, validation and test, scaled."""

    def build(self, size: str, seed: int, device: torch.device, dtype: torch.dtype) -> Problem:
        """Read the table and build the flow.

        Raises
        ------
        UnknownNameError
            If there is no such size.
        DataError
            If the table is not there and cannot be fetched.
        """
        s = self.at(size)
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
        self.ts = torch.tensor([0.0, settings.end_time], dtype=train.dtype, device=train.device)

    def batch(self, iteration: int) -> tuple[Tensor, Tensor]:
        """Return rows ``[batch, dim]``, drawn with replacement, and the probes ``[blocks, batch, dim]`` of a solve."""
        source = generator(self.seed, TRAIN, iteration)
        rows = torch.randint(len(self.train), (self.settings.batch_size,), generator=source).to(self.train.device)
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


def _scaled_splits(table: np.ndarray[Any, np.dtype[np.float64]]) -> Splits:
    """Return three fifths of the rows, a fifth and a fifth, scaled by the mean and deviation of the first."""
    rest, test = train_test_split(table, test_size=0.2, random_state=SPLIT_SEED)
    train, validation = train_test_split(rest, test_size=0.25, random_state=SPLIT_SEED)
    centre, deviation = train.mean(0), train.std(0)
    return Splits(*((part - centre) / deviation for part in (train, validation, test)))


def _small_table(iterations: int, hidden: tuple[int, ...], adam: float) -> TableFlowSettings:
    return TableFlowSettings(
        hidden=hidden,
        blocks=1,
        activation="tanh",
        end_time=0.5,
        trace="rademacher",
        batch_size=100,
        held_out_rows=1_000,
        training=trained(iterations, adam=adam, sgd=0.02, snopt=0.02, weight_decay=1e-2),
    )


def _wide_table(iterations: int, columns: int) -> TableFlowSettings:
    """Return what Daulbaev et al. take for MINIBOONE: two layers twenty times as wide as the table, softplus, T = 1."""
    return TableFlowSettings(
        hidden=(20 * columns, 20 * columns),
        blocks=1,
        activation="softplus",
        end_time=1.0,
        trace="gaussian",
        batch_size=100,
        held_out_rows=1_000,
        training=trained(iterations, adam=3e-3, sgd=0.01, snopt=0.02, weight_decay=1e-6),
    )


class WineDensity(TableDensity):
    """Thirteen measurements of wines from three growers."""

    info: ClassVar[TaskInfo] = TaskInfo(
        name="wine_density",
        kind="density",
        summary="13 chemical measurements of 178 wines; continuous normalizing flow, Hutchinson's trace",
        metric_name="nll",
        higher_is_better=False,
        target={"tiny": 16.5, "default": 16.0, "paper": 16.0},
        offline=True,
        citation="Aeberhard and Forina, Wine, UCI Machine Learning Repository, 1992, doi:10.24432/C5PC7J; as shipped "
        "with scikit-learn",
        licence="CC BY 4.0",
    )
    settings: ClassVar[Mapping[str, TableFlowSettings]] = {
        "tiny": _small_table(60, (32, 32), 1e-2),
        "default": _small_table(100, (64, 64), 5e-3),
        "paper": _wide_table(150, 13),
    }

    def read(self) -> Splits:
        """Return the rows for training, validation and test, scaled."""
        return _scaled_splits(load_wine().data)


class BreastCancerDensity(TableDensity):
    """Thirty features of the nuclei of cells, much correlated."""

    info: ClassVar[TaskInfo] = TaskInfo(
        name="breast_cancer_density",
        kind="density",
        summary="30 features of cell nuclei in 569 images; continuous normalizing flow, Hutchinson's trace",
        metric_name="nll",
        higher_is_better=False,
        target={"tiny": 28.0, "default": 10.0, "paper": 19.5},
        offline=True,
        citation="Wolberg, Mangasarian, Street and Street, Breast Cancer Wisconsin (Diagnostic), UCI Machine Learning "
        "Repository, 1993, doi:10.24432/C5DW2B; as shipped with scikit-learn",
        licence="CC BY 4.0",
    )
    settings: ClassVar[Mapping[str, TableFlowSettings]] = {
        "tiny": _small_table(60, (32, 32), 1e-2),
        "default": _small_table(500, (64, 64), 3e-3),
        "paper": _wide_table(200, 30),
    }

    def read(self) -> Splits:
        """Return the rows for training, validation and test, scaled."""
        return _scaled_splits(load_breast_cancer().data)


def _maf(
    iterations: int, paper_iterations: int, hidden: tuple[int, ...], blocks: int, lr: float, **paper: Any
) -> Mapping[str, TableFlowSettings]:
    """Return three sizes; ``paper`` is what the published flow has beside its widths."""

    def size(count: int, widths: tuple[int, ...], held_out: int) -> TableFlowSettings:
        training = trained(count, adam=lr, sgd=0.01, snopt=0.02, weight_decay=1e-6, update_freq=100)
        return TableFlowSettings(hidden=widths, blocks=blocks, held_out_rows=held_out, training=training, **paper)

    return {
        "tiny": size(20, tuple(min(32, w) for w in hidden), 1_000),
        "default": size(iterations, hidden, 10_000),
        "paper": size(paper_iterations, hidden, 10**9),
    }


def _maf_info(name: str, summary: str, paper: float) -> TaskInfo:
    """Return what a table of MAF states about itself; ``paper`` is FFJORD's published test figure in nats."""
    return TaskInfo(
        name=name,
        kind="density",
        summary=f"{summary}; continuous normalizing flow, Hutchinson's trace",
        metric_name="nll",
        higher_is_better=False,
        target={"paper": paper},
        offline=False,
        citation="Papamakarios, Preprocessed datasets for MAF experiments, 2018, doi:10.5281/zenodo.1161203; "
        "settings after Grathwohl et al., FFJORD, ICLR 2019, and Liu et al., SNOpt, NeurIPS 2021",
        licence="CC BY 4.0",
    )


class Maf(TableDensity):
    """A table of the MAF archive."""

    def read(self) -> Splits:
        """Return the rows for training, validation and test, scaled as published."""
        return maf_archive.read(self.info.name)


class Miniboone(Maf):
    """Features of neutrino events."""

    info: ClassVar[TaskInfo] = _maf_info("miniboone", "43 features of 36,488 neutrino events", 10.43)
    settings: ClassVar[Mapping[str, TableFlowSettings]] = _maf(
        1_000, 4_620, (860, 860), 1, 1e-3, activation="softplus", end_time=1.0, trace="rademacher", batch_size=128
    )


class Gas(Maf):
    """Readings of gas sensors; a tenth of the training rows, as in the SNOpt paper."""

    info: ClassVar[TaskInfo] = _maf_info("gas", "8 readings of gas sensors, 852,174 rows", -8.59)
    settings: ClassVar[Mapping[str, TableFlowSettings]] = _maf(
        1_000, 2_550, (160, 160, 160), 5, 2e-3, activation="tanh", end_time=1.0, trace="rademacher",
        batch_size=1_000, fraction=0.1,
    )  # fmt: skip


class Power(Maf):
    """Electricity that a household used, minute by minute."""

    info: ClassVar[TaskInfo] = _maf_info("power", "6 readings of a household's meters, 1,659,917 rows", -0.46)
    settings: ClassVar[Mapping[str, TableFlowSettings]] = _maf(
        1_000, 16_600, (60, 60, 60), 5, 1e-3, activation="tanh", end_time=1.0, trace="gaussian", batch_size=10_000
    )


class Hepmass(Maf):
    """Features of simulated particle collisions, the signal only."""

    info: ClassVar[TaskInfo] = _maf_info("hepmass", "21 features of 315,123 simulated collisions", 14.92)
    settings: ClassVar[Mapping[str, TableFlowSettings]] = _maf(
        1_000, 15_700, (420, 420), 10, 1e-3, activation="softplus", end_time=1.0, trace="gaussian", batch_size=10_000
    )


class Bsds300(Maf):
    """Patches of photographs, 8 by 8 less one pixel."""

    info: ClassVar[TaskInfo] = _maf_info("bsds300", "63 grey levels of 1,000,000 patches of photographs", -157.40)
    settings: ClassVar[Mapping[str, TableFlowSettings]] = _maf(
        1_000, 10_000, (1_260, 1_260, 1_260), 2, 1e-3, activation="softplus", end_time=1.0, trace="gaussian",
        batch_size=10_000,
    )  # fmt: skip
