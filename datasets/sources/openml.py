"""Images from OpenML: fetched by scikit-learn once, parsed once, kept as bytes with their hash beside them."""

import hashlib
import warnings
import zlib
from dataclasses import dataclass
from gzip import BadGzipFile
from http.client import HTTPException
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pooch
from filelock import FileLock
from sklearn.datasets import fetch_openml

from odegrad.datasets.sources.files import FOLDER_VARIABLE, OFFLINE_HINT, data_folder, keep_aside
from odegrad.errors import DataError

Pixels = npt.NDArray[np.uint8]
"""Images ``[count, channels, height, width]``, or rows of a table ``[count, columns]``."""
Labels = npt.NDArray[np.int64]

NOT_WHAT_IT_SHOULD_BE = (BadGzipFile, zlib.error, EOFError, ValueError, KeyError)
"""What scikit-learn raises of a download that is cut short, has another hash, or is not OpenML's answer."""

MIN_RATIO = 1.5
"""By how much neighbours must differ more in the wrong layout of colour images than in the right one."""
LAYOUT_IMAGES = 1_000


@dataclass(frozen=True)
class Images:
    """All images of a set in the publisher's order, and their classes."""

    pixels: Pixels
    """``[count, channels, height, width]``."""
    labels: Labels
    """``[count]``, from 0, in the order of the labels' numbers."""


@dataclass(frozen=True)
class ImageTable:
    """A set of square images that OpenML holds as a table, one image a row and its label in the target column."""

    name: str
    """OpenML's, and that of the file."""
    data_id: int
    rows: int
    train_rows: int
    """The published training images, the first rows; the rest is the published test set."""
    channels: int
    side: int
    """Height and width in pixels."""
    validation_rows: int = 5_000
    """Cut from the training rows."""
    classes: int = 10

    @property
    def columns(self) -> int:
        """The pixels of a row."""
        return self.channels * self.side**2

    def read(self) -> Images:
        """Return the images; the set is fetched and parsed where that has not been done.

        A parsed file that does not have its hash is kept aside as ``NAME.npz.damaged-TIME`` and made again.

        Raises
        ------
        DataError
            If the set cannot be fetched, or is not what it should be.
        """
        folder = data_folder() / "openml"
        path = folder / f"{self.name}.npz"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with FileLock(folder / f".{self.name}.lock"):
                if path.exists() and not _intact(path):
                    keep_aside(path)
                if not path.exists():
                    _keep(path, self._parsed())
                return self._loaded(path)
        except NOT_WHAT_IT_SHOULD_BE as error:
            raise DataError(
                f"{self.name}: what came from https://www.openml.org/d/{self.data_id} is not what OpenML says of it "
                f"({type(error).__name__}: {error}): the download was cut short, or the set has been changed there; "
                f"try again, or {self._by_hand(path)}"
            ) from error
        except (OSError, HTTPException) as error:
            raise DataError(
                f"{self.name}: not in {folder} and not fetched from https://www.openml.org/d/{self.data_id} "
                f"({type(error).__name__}); {self._by_hand(path)}, or set {FOLDER_VARIABLE} to the folder that holds "
                f"openml/{path.name}; {OFFLINE_HINT}"
            ) from error

    def _by_hand(self, path: Path) -> str:
        return (
            f"place {path.name} and {_hash_file(path).name}, which odegrad makes there on a machine with a network, "
            f"in {path.parent}"
        )

    def _parsed(self) -> Images:
        """Return what OpenML's ARFF file holds; scikit-learn checks the MD5 that OpenML publishes of it."""
        first = self._fetched(as_frame=True, read_csv_kwargs={"nrows": 1})
        found = (len(first.feature_names), len(first.target_names))
        if found != (self.columns, 1):
            raise self._unexpected(f"{self.columns:,} pixels and 1 target in a row", f"{found[0]:,} and {found[1]}")
        target = first.frame.columns.get_loc(first.target_names[0])
        types = {i: "category" if i == target else "float32" for i in range(self.columns + 1)}
        table = self._fetched(as_frame=False, read_csv_kwargs={"dtype": types})  # a half of what float64 would take
        values: npt.NDArray[np.float32] = table.data
        if len(values) != self.rows:
            raise self._unexpected(f"{self.rows:,} rows", f"{len(values):,}")
        with np.errstate(invalid="ignore"):
            rows = values.astype(np.uint8)
        if not np.array_equal(rows, values):
            raise self._unexpected("whole numbers from 0 to 255", f"pixels from {np.min(values)} to {np.max(values)}")
        classes, labels = np.unique(table.target.astype(np.float64), return_inverse=True)
        if len(classes) != self.classes:
            raise self._unexpected(f"{self.classes} classes", f"{len(classes)}: {classes.tolist()}")
        return Images(images_of_rows(rows, self.channels, self.side, self.name), labels.astype(np.int64))

    def _fetched(self, **options: object) -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of second tries and of clean caches; the errors say it all
            return fetch_openml(
                data_id=self.data_id, data_home=data_folder(), parser="pandas", n_retries=1, delay=0.1, **options
            )

    def _loaded(self, path: Path) -> Images:
        with np.load(path) as file:
            pixels, labels = file["pixels"], file["labels"]
        shape = (self.rows, self.channels, self.side, self.side)
        if pixels.shape != shape or pixels.dtype != np.uint8 or labels.shape != shape[:1]:
            raise self._unexpected(
                f"pixels {shape} of bytes in {path}", f"{pixels.shape} of {pixels.dtype}; delete it and run again"
            )
        return Images(pixels, labels)

    def _unexpected(self, expected: str, got: str) -> DataError:
        return DataError(f"{self.name}, OpenML's data set {self.data_id}: expected {expected}, got {got}")


MNIST = ImageTable("mnist_784", 554, 70_000, 60_000, channels=1, side=28)
FASHION_MNIST = ImageTable("Fashion-MNIST", 40996, 70_000, 60_000, channels=1, side=28)
SVHN = ImageTable("SVHN", 41081, 99_289, 73_257, channels=3, side=32)
CIFAR10 = ImageTable("CIFAR_10", 40927, 60_000, 50_000, channels=3, side=32)


def images_of_rows(rows: Pixels, channels: int, side: int, name: str) -> Pixels:
    """Return the images ``[count, channels, side, side]`` of rows ``[count, channels * side * side]``.

    Colours are planes one behind the other, or the values of a pixel lie together: the rows themselves tell, since the
    mean square difference between neighbours is far smaller in the layout that is true.

    Raises
    ------
    DataError
        If neither layout has neighbours that are much more alike than the other one's.
    """
    planes = rows.reshape(-1, channels, side, side)
    if channels == 1:
        return planes
    together = rows.reshape(-1, side, side, channels).transpose(0, 3, 1, 2)
    in_planes, in_pixels = _roughness(planes[:LAYOUT_IMAGES]), _roughness(together[:LAYOUT_IMAGES])
    if in_planes * MIN_RATIO < in_pixels:
        return planes
    if in_pixels * MIN_RATIO < in_planes:
        return np.ascontiguousarray(together)
    raise DataError(
        f"{name}: expected colours in planes or pixel by pixel, got rows of which neighbours do not tell it (mean "
        f"square difference {in_planes:.0f} or {in_pixels:.0f}); the set is not what it was"
    )


def _roughness(images: Pixels) -> float:
    """Return the mean square difference of neighbours in height and in width."""
    values = images.astype(np.float32)
    return float(sum(np.square(np.diff(values, axis=axis)).mean(dtype=np.float64) for axis in (2, 3)))


def _hash_file(path: Path) -> Path:
    return path.with_name(f"{path.name}.sha256")


def _intact(path: Path) -> bool:
    known = _hash_file(path)
    return known.exists() and known.read_text(encoding="utf-8").split()[:1] == [pooch.file_hash(str(path))]


def _keep(path: Path, images: Images) -> None:
    """Write the images and their hash, as ``sha256sum`` does; a partial file never bears the name."""
    part = path.with_name(f"{path.name}.part")
    with part.open("wb") as file:
        np.savez(file, pixels=images.pixels, labels=images.labels)
    with part.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    _hash_file(path).write_text(f"{digest}  {path.name}\n", encoding="utf-8")
    part.rename(path)
