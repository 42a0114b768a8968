"""Densities of tables of numbers by continuous normalizing flows: small tables with no network, and those of MAF."""

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from sklearn.datasets import load_breast_cancer, load_wine
from sklearn.model_selection import train_test_split

from odegrad.contracts import TaskInfo
from odegrad.datasets.problems.sizes import trained
from odegrad.datasets.problems.table_density import TableDensity, TableFlowSettings
from odegrad.datasets.sources import maf_archive
from odegrad.datasets.sources.maf_archive import Splits
from odegrad.datasets.sources.seeding import SPLIT_SEED


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
