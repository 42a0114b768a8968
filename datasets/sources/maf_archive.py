"""Five tables of the archive of Papamakarios et al., Masked Autoregressive Flow for Density Estimation, NeurIPS 2017.

Each reader does that paper's preprocessing: which columns go, which noise is added, how the table is split and scaled.
"""

import importlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from odegrad.datasets.sources.arrays import Array
from odegrad.datasets.sources.files import DataFile
from odegrad.datasets.sources.unpacked import read_table, unpacked
from odegrad.errors import DataError

ARCHIVE = DataFile(
    name="maf_data.tar.gz",
    url="https://zenodo.org/record/1161203/files/data.tar.gz",
    known_hash="md5:9b9c9b0375315ad270eba4ce80c093ab",
    megabytes=817.0,
)


class Splits(NamedTuple):
    """Rows ``[count, columns]`` for training, validation and test."""

    train: Array
    validation: Array
    test: Array


def read(name: str) -> Splits:
    """Return the table ``name`` of the archive, which is fetched if it is not there; rows are scaled.

    Parameters
    ----------
    name
        ``power``, ``gas``, ``hepmass``, ``miniboone`` or ``bsds300``.

    Raises
    ------
    DataError
        If the archive cannot be fetched, or holds no such table.
    """
    archive = ARCHIVE.fetch()
    folder = archive.with_name("maf_data")
    files, reader = _READERS[name]
    unpacked(archive, folder, files)
    return reader(folder)


def _split(rows: Array) -> Splits:
    """Return the last tenth for test, the last tenth of what is left for validation, and the rest."""
    test = int(0.1 * len(rows))
    validation = int(0.1 * (len(rows) - test))
    return Splits(rows[: -test - validation], rows[-test - validation : -test], rows[-test:])


def _split_and_scaled(rows: Array) -> Splits:
    """Return the splits, scaled by mean and standard deviation of training and validation rows."""
    seen = np.concatenate(_split(rows)[:2])
    return _split((rows - seen.mean(0)) / seen.std(0))


def _power(folder: Path) -> Splits:
    """Return six of eight columns, shuffled, with noise as wide as the meters' last digit."""
    draw = np.random.RandomState(42)
    rows = np.load(folder / "power" / "data.npy")
    draw.shuffle(rows)
    rows = np.delete(rows, (1, 3), axis=1)
    count = len(rows)
    voltage, gap, meters = 0.01 * draw.rand(count, 1), 0.001 * draw.rand(count, 1), draw.rand(count, 3)
    return _split_and_scaled(rows + np.hstack([gap, voltage, meters, np.zeros((count, 1))]))


def _gas(folder: Path) -> Splits:
    """Return the sensors, without those that another one tells (correlation above 0.98)."""
    table = read_table(folder / "gas" / "ethylene_CO.pickle")
    table = table.drop(columns=["Meth", "Eth", "Time"])
    while True:
        told = (table.corr().to_numpy() > 0.98).sum(1)
        if not (told > 1).any():
            return _split(((table - table.mean()) / table.std()).to_numpy(dtype=np.float64))
        table = table.drop(columns=table.columns[np.flatnonzero(told > 1)[0]])


def _hepmass(folder: Path) -> Splits:
    """Return the signal's features, without those that have their least value more than five times."""
    parts = []
    for name in ("1000_train.csv", "1000_test.csv"):
        table = pd.read_csv(folder / "hepmass" / name, index_col=False)
        table = table[table.iloc[:, 0] == 1].iloc[:, 1:]
        parts.append(table.to_numpy(dtype=np.float64))
    train, test = parts[0], parts[1][:, : parts[0].shape[1]]  # the test file has one column more
    centre, deviation = train.mean(0), train.std(0)
    train, test = (train - centre) / deviation, (test - centre) / deviation
    often = [i for i, column in enumerate(train.T) if (column == column.min()).sum() > 5]
    train, test = np.delete(train, often, axis=1), np.delete(test, often, axis=1)
    validation = int(0.1 * len(train))
    return Splits(train[:-validation], train[-validation:], test)


def _miniboone(folder: Path) -> Splits:
    """Return the table as it is in the archive, split and scaled."""
    return _split_and_scaled(np.load(folder / "miniboone" / "data.npy"))


def _bsds300(folder: Path) -> Splits:
    """Return patches of photographs, split and scaled in the archive."""
    try:
        h5py = importlib.import_module("h5py")
    except ImportError as error:
        raise DataError('bsds300: expected the package h5py, which reads it; pip install "odegrad[data]"') from error
    with h5py.File(folder / "BSDS300" / "BSDS300.hdf5", "r") as file:
        return Splits(*(np.asarray(file[name], dtype=np.float64) for name in ("train", "validation", "test")))


_READERS: Mapping[str, tuple[tuple[str, ...], Callable[[Path], Splits]]] = {
    "power": (("power/data.npy",), _power),
    "gas": (("gas/ethylene_CO.pickle",), _gas),
    "hepmass": (("hepmass/1000_train.csv", "hepmass/1000_test.csv"), _hepmass),
    "miniboone": (("miniboone/data.npy",), _miniboone),
    "bsds300": (("BSDS300/BSDS300.hdf5",), _bsds300),
}
