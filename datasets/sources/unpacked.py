"""Files unpacked from an archive: kept with their SHA-256, checked before use; pickles of tables, read unrun.

A pickle is a program. The reader here knows the few classes that a table of numbers is made of, and refuses any other.
"""

import hashlib
import pickle
import tarfile
from collections.abc import Iterable
from functools import cache
from pathlib import Path

import pandas as pd
from filelock import FileLock
from pandas.compat import pickle_compat

from odegrad.datasets.sources.files import keep_aside
from odegrad.errors import DataError

_BLOCK = 1 << 20

KNOWN_PARTS = frozenset({
    ("pyarrow.lib", "type_for_alias"),
    ("pyarrow.lib", "py_buffer"),
    ("pyarrow.lib", "_restore_array"),
    ("pandas.arrays", "ArrowStringArray"),
    ("pandas", "StringDtype"),
    ("pandas", "RangeIndex"),
    ("pandas", "Index"),
    ("pandas", "DataFrame"),
    ("builtins", "bytearray"),
    ("_codecs", "encode"),
    ("builtins", "slice"),
    ("copyreg", "_reconstructor"),
    ("numpy", "dtype"),
    ("numpy", "ndarray"),
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("numpy.core.numeric", "_frombuffer"),
    ("numpy._core.numeric", "_frombuffer"),
    ("pandas._libs.internals", "_unpickle_block"),
    ("pandas.core.frame", "DataFrame"),
    ("pandas.core.index", "Index"),
    ("pandas.core.index", "Int64Index"),
    ("pandas.core.index", "_new_Index"),
    ("pandas.core.indexes.base", "Index"),
    ("pandas.core.indexes.base", "_new_Index"),
    ("pandas.core.indexes.numeric", "Int64Index"),
    ("pandas.core.indexes.range", "RangeIndex"),
    ("pandas.core.internals", "BlockManager"),
    ("pandas.core.internals.managers", "BlockManager"),
    ("pandas.indexes.base", "Index"),
    ("pandas.indexes.base", "_new_Index"),
    ("pandas.indexes.numeric", "Int64Index"),
    ("pandas.indexes.range", "RangeIndex"),
})  # fmt: skip
"""What the pickle of a table may name, by old and new versions of pandas and numpy."""

_OLD_MODULES = {"__builtin__": "builtins", "copy_reg": "copyreg"}
"""Of Python 2."""


class _TableReader(pickle_compat.Unpickler):  # type: ignore[misc]
    """Reads tables; whatever else a pickle asks for is refused before it is looked up."""

    def find_class(self, module: str, name: str) -> object:
        place = (_OLD_MODULES.get(module, module), name)
        if place not in KNOWN_PARTS:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which no table of numbers needs")
        return super().find_class(*place)


def read_table(path: Path) -> pd.DataFrame:
    """Return the table in a pickle without running anything that the pickle asks for.

    Raises
    ------
    DataError
        If it is no pickle of a table.
    """
    try:
        try:
            table = _read(path)
        except UnicodeDecodeError:  # text of Python 2
            table = _read(path, encoding="latin-1")
    except Exception as error:  # a damaged pickle may raise anything
        raise DataError(
            f"{path}: expected the pickle of a table, got {type(error).__name__}: {error}; delete it, so that it is "
            "unpacked again"
        ) from error
    if not isinstance(table, pd.DataFrame):
        raise DataError(f"{path}: expected the pickle of a table, got a {type(table).__name__}; delete it")
    return table


def _read(path: Path, **settings: str) -> object:
    with path.open("rb") as file:
        return _TableReader(file, **settings).load()


def unpacked(archive: Path, folder: Path, names: Iterable[str]) -> None:
    """Unpack files of an archive that are not in ``folder``, one process at a time, and check those that are.

    A file has its SHA-256 beside it. One that is not what it was is kept aside as ``NAME.damaged-TIME``, and unpacked
    again.

    Raises
    ------
    DataError
        If the archive does not hold them.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / ".lock"):
        for name in names:
            path = folder / name
            if path.exists() and not _intact(path):
                keep_aside(path)
            if not path.exists():
                _unpack(archive, path, name)


def _unpack(archive: Path, path: Path, name: str) -> None:
    """Unpack one file; a partial one never bears its name, and its hash is there before it is."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with tarfile.open(archive) as tar:
            source = tar.extractfile(f"data/{name}")
            if source is None:
                raise KeyError(name)
            part, digest = path.with_name(f"{path.name}.part"), hashlib.sha256()
            with source, part.open("wb") as target:
                while block := source.read(_BLOCK):
                    target.write(block)
                    digest.update(block)
            _hash_of(path).write_text(digest.hexdigest() + "\n", encoding="ascii")
            part.rename(path)
    except (KeyError, tarfile.TarError, EOFError) as error:
        raise DataError(
            f"{archive}: expected the file data/{name} in it, got {type(error).__name__}; delete the archive, so that "
            "it is fetched again"
        ) from error


def _hash_of(path: Path) -> Path:
    return path.with_name(path.name + ".sha256")


def _intact(path: Path) -> bool:
    """Return whether a file has the hash that it was unpacked with; one without is not trusted."""
    kept, state = _hash_of(path), path.stat()
    known = kept.read_text(encoding="ascii", errors="replace").strip() if kept.is_file() else ""
    return _sha256(path, state.st_mtime_ns, state.st_size, state.st_ino) == known


@cache
def _sha256(path: Path, *_state: int) -> str:
    """Return a file's SHA-256; computed once a process and state of the file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
