"""Two sets of small images in MATLAB files, fetched once: Frey's face, and silhouettes of objects."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.io import loadmat
from sklearn.model_selection import train_test_split

from odegrad.datasets.sources.files import DataFile
from odegrad.datasets.sources.seeding import SPLIT_SEED
from odegrad.errors import DataError

ByteArray = npt.NDArray[np.uint8]

FREY_FACES = DataFile(
    name="frey_rawface.mat",
    url="https://cs.nyu.edu/~roweis/data/frey_rawface.mat",
    known_hash="md5:5aeb024d42b8a6091f30e5eb18c8a48d",
    megabytes=1.1,
)
SILHOUETTES = DataFile(
    name="caltech101_silhouettes_28_split1.mat",
    url="https://people.cs.umass.edu/~marlin/data/caltech101_silhouettes_28_split1.mat",
    known_hash="md5:4483e9c14b188fd09937f9ea6f9ea777",
    megabytes=0.9,
)
FACES, FACE_PIXELS = 1_965, 28 * 20
SILHOUETTE_SIDE = 28
HELD_OUT_FACES = 200
"""Faces for validation, and as many for test."""


def read_frey_faces() -> Mapping[str, ByteArray]:
    """Return grey levels 0 .. 255 ``[count, 560]`` of 28 rows by 20, by the name of the split: 1,565, 200 and 200.

    Raises
    ------
    DataError
        If the file cannot be fetched, or holds something else.
    """
    path = FREY_FACES.fetch()
    faces = _matrix(path, "ff", (FACE_PIXELS, FACES)).T
    rest, test = train_test_split(faces, test_size=HELD_OUT_FACES, random_state=SPLIT_SEED)
    train, validation = train_test_split(rest, test_size=HELD_OUT_FACES, random_state=SPLIT_SEED)
    return {"train": train, "validation": validation, "test": test}


def read_silhouettes() -> Mapping[str, ByteArray]:
    """Return silhouettes ``[count, 784]`` row by row, 1 in the object, by the split: 4,100, 2,264 and 2,307.

    The file keeps images column by column, with zeros in the object.

    Raises
    ------
    DataError
        If the file cannot be fetched, or holds something else.
    """
    path = SILHOUETTES.fetch()
    out = {}
    for split, name in (("train", "train_data"), ("validation", "val_data"), ("test", "test_data")):
        images = _matrix(path, name, (None, SILHOUETTE_SIDE**2))
        columns = images.reshape(-1, SILHOUETTE_SIDE, SILHOUETTE_SIDE)
        out[split] = (1 - columns.transpose(0, 2, 1)).reshape(len(images), -1)
    return out


def _matrix(path: Path, name: str, shape: tuple[int | None, int]) -> ByteArray:
    """Return the matrix ``name`` of the file, after a check of its shape; None is any number of rows."""
    try:
        content: Mapping[str, Any] = loadmat(path)
    except (ValueError, NotImplementedError, OSError, TypeError) as error:
        raise DataError(f"{path}: expected a MATLAB file, got one that scipy cannot read ({error})") from error
    found = content.get(name)
    rows, columns = shape
    if found is None or found.ndim != 2 or found.shape[1] != columns or (rows is not None and len(found) != rows):
        got = "none" if found is None else f"shape {found.shape}"
        wanted = f"({'any' if rows is None else rows}, {columns})"
        raise DataError(f"{path}: expected a matrix {name!r} of shape {wanted}, got {got}; place the right file there")
    images: ByteArray = found.astype(np.uint8)
    return images
