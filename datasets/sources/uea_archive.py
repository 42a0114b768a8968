"""Series of the UEA archive by sktime: two come with it, the others are fetched once."""

import importlib
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock
from torch import Tensor

from odegrad.datasets.sources.arrays import Array
from odegrad.datasets.sources.files import FOLDER_VARIABLE, OFFLINE_HINT, data_folder
from odegrad.errors import DataError

BUNDLED = ("JapaneseVowels", "BasicMotions")
"""The data sets that come with sktime."""

CITATION = (
    "Bagnall et al., The UEA multivariate time series classification archive, 2018, arXiv:1811.00075; data set {name}"
)


@dataclass(frozen=True)
class Series:
    """Series of unlike lengths, padded with zeros at their ends, and their classes."""

    values: Tensor
    """``[count, length, channels]``."""
    seen: Tensor
    """``[count, length]``, whether there is an observation."""
    labels: Tensor
    """``[count]``, int64."""

    def rows(self, index: Tensor) -> "Series":
        """Return the series at ``index``."""
        return Series(self.values[index], self.seen[index], self.labels[index])

    def to(self, device: torch.device, dtype: torch.dtype) -> "Series":
        """Return the same with values of ``dtype``, all on ``device``."""
        return Series(self.values.to(device, dtype), self.seen.to(device), self.labels.to(device))

    def scaled(self, like: "Series") -> "Series":
        """Return the same, each channel scaled by mean and deviation of the observations in ``like``."""
        known = like.values[like.seen]
        centre, deviation = known.mean(0), known.std(0)
        return Series(((self.values - centre) / deviation) * self.seen[..., None], self.seen, self.labels)

    def strided(self, stride: int) -> "Series":
        """Return the same with every ``stride``-th observation, from the first on."""
        return Series(self.values[:, ::stride], self.seen[:, ::stride], self.labels)

    def at_own_times(self, time_step: float) -> tuple[Tensor, Tensor]:
        """Return the observations of each series side by side ``[count, most, channels]``, and their times.

        The times ``[count, most]`` are on the CPU in the values' type; those of shorter series repeat their last one.
        """
        counts = self.seen.sum(1)
        most = int(counts.max())
        places = torch.argsort((~self.seen).int(), dim=1, stable=True)[:, :most]
        kept = torch.arange(most, device=counts.device) < counts[:, None]
        values = self.values.take_along_dim(places[..., None], dim=1) * kept[..., None]
        last = places.gather(1, counts[:, None] - 1)
        steps = torch.where(kept, places, last).double().cpu()
        return values, (time_step * steps).to(values.dtype)

    def thinned(self, rate: float, source: torch.Generator) -> "Series":
        """Return the same with each observation dropped with probability ``rate``; the first one of a series stays."""
        kept = torch.rand(self.seen.shape, dtype=torch.float64, generator=source) >= rate
        kept[:, 0] = True
        seen = self.seen & kept
        return Series(self.values * seen[..., None], seen, self.labels)


def read(name: str) -> tuple[Series, Series]:
    """Return the training and the test series of ``name``, in float64 on the CPU, padded to one length.

    Raises
    ------
    DataError
        If sktime is not installed, or the data set cannot be fetched or read.
    """
    train, test = (_parts(name, split) for split in ("train", "test"))
    length = max(len(x) for x in train[0] + test[0])
    classes = sorted(set(train[1]))
    return _padded(*train, length, classes), _padded(*test, length, classes)


def _parts(name: str, split: str) -> tuple[list[Array], list[str]]:
    """Return series ``[length, channels]`` and the names of their classes."""
    try:
        loaders = importlib.import_module("sktime.datasets")
    except ImportError as error:
        raise DataError(f'{name}: expected the package sktime, which reads it; pip install "odegrad[data]"') from error
    frame, labels = _loaded(loaders, name, split)
    series = [np.stack([np.asarray(cell, dtype=np.float64) for cell in row], axis=1) for row in frame.to_numpy()]
    return series, [str(label) for label in labels]


def _loaded(loaders: Any, name: str, split: str) -> tuple[Any, Any]:
    if name in BUNDLED:
        return loaders.load_UCR_UEA_dataset(name, split=split, return_type="nested_univ")  # type: ignore[no-any-return]
    folder = data_folder() / "uea"
    wanted = folder / name / f"{name}_{split.upper()}.ts"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / f".{name}.lock"), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of mirrors that need other packages
            if wanted.exists():
                return loaders.load_from_tsfile(str(wanted), return_data_type="nested_univ")  # type: ignore[no-any-return]
            return loaders.load_UCR_UEA_dataset(  # type: ignore[no-any-return]
                name, split=split, return_type="nested_univ", extract_path=str(folder)
            )
    except Exception as error:  # sktime's readers and mirrors raise many kinds
        raise DataError(_help(name, wanted, error)) from error


def _help(name: str, wanted: Path, error: Exception) -> str:
    if wanted.exists():
        return (
            f"{wanted}: expected a file of sktime's .ts format, got one that it cannot read ({error}); place it again"
        )
    return (
        f"{name}: not in {wanted.parent} and not fetched from the archive or its mirrors ({type(error).__name__}); "
        f"place {wanted.name} and its twin there, or set {FOLDER_VARIABLE} to the folder that holds uea/{name}; "
        f"{OFFLINE_HINT}"
    )


def _padded(series: list[Array], labels: list[str], length: int, classes: list[str]) -> Series:
    values = torch.zeros(len(series), length, series[0].shape[1], dtype=torch.float64)
    seen = torch.zeros(len(series), length, dtype=torch.bool)
    for i, x in enumerate(series):
        known = np.asarray(np.isfinite(x).all(axis=1))
        values[i, : len(x)] = torch.from_numpy(np.where(known[:, None], x, 0.0))
        seen[i, : len(x)] = torch.from_numpy(known)
    return Series(values, seen, torch.tensor([classes.index(label) for label in labels]))
