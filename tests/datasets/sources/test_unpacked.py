"""Unpacked files: damage is seen, processes take turns, and no pickle is run."""

import hashlib
import os
import pickle
import tarfile
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pandas as pd
import pytest

from odegrad.datasets.sources.unpacked import read_table, unpacked
from odegrad.errors import DataError


@pytest.fixture
def archive(tmp_path):
    """Return an archive with one file of three bytes."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a.npy").write_bytes(b"abc")
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz") as tar:
        tar.add(tmp_path / "data", "data")
    return tmp_path / "a.tar.gz"


def test_a_damaged_file_is_kept_aside_and_unpacked_again(archive, tmp_path):
    """So is one without its hash: nobody knows what it is."""
    folder = tmp_path / "out"
    unpacked(archive, folder, ["a.npy"])
    assert (folder / "a.npy.sha256").read_text().strip() == hashlib.sha256(b"abc").hexdigest()
    for spoil in (lambda: (folder / "a.npy").write_bytes(b"abd"), (folder / "a.npy.sha256").unlink):
        spoil()
        unpacked(archive, folder, ["a.npy"])
        assert (folder / "a.npy").read_bytes() == b"abc"
    assert len(list(folder.glob("a.npy.damaged-*"))) == 2


def test_processes_take_turns(archive, tmp_path):
    """None of several at a time finds a part of another's."""
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda _: unpacked(archive, tmp_path / "out", ["a.npy"]), range(8))) == [None] * 8


class Planted:
    """A pickle that makes a folder when it is run."""

    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments


@pytest.mark.parametrize("function", [os.mkdir, eval, pd.eval, np.load])
def test_a_planted_pickle_is_not_run(tmp_path, function):
    """Whatever it asks for is refused before it is looked up."""
    path = tmp_path / "planted.pickle"
    path.write_bytes(pickle.dumps(Planted(function, str(tmp_path / "made"))))
    with pytest.raises(DataError, match=r"it asks for .*, which no table of numbers needs"):
        read_table(path)
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize("content", [b"", b"nonsense", pickle.dumps([1])])
def test_what_is_no_table_is_refused(tmp_path, content):
    """Damaged or of something else: one sentence."""
    (tmp_path / "other.pickle").write_bytes(content)
    with pytest.raises(DataError, match="expected the pickle of a table"):
        read_table(tmp_path / "other.pickle")


@pytest.mark.parametrize("protocol", [2, 5])
def test_tables_are_read_as_they_are(tmp_path, protocol):
    """Numbers of several kinds, with names of columns."""
    table = pd.DataFrame({"a": [1.0, np.nan], "b": [1, 2], "c": np.array([1, 2], dtype=np.float32)})
    table.to_pickle(tmp_path / "table.pickle", protocol=protocol)
    pd.testing.assert_frame_equal(read_table(tmp_path / "table.pickle"), table)
