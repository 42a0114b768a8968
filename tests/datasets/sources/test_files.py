"""Fetching: from a server of our own, with wrong hashes, cut files, damaged caches and no network."""

import hashlib
import logging
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from odegrad.datasets.sources.files import FOLDER_VARIABLE, DataFile, data_folder
from odegrad.errors import DataError

CONTENT = b"one, two, three\n" * 1_000


def of(address: str, content: bytes = CONTENT) -> DataFile:
    return DataFile("table.csv", f"{address}/table.csv", f"sha256:{hashlib.sha256(content).hexdigest()}", 0.016)


def test_file_is_fetched_once(folder: Path, served: tuple[Path, str, list[str]]) -> None:
    root, address, asked = served
    (root / "table.csv").write_bytes(CONTENT)
    path = of(address).fetch()
    assert path == folder / "table.csv"
    assert path.read_bytes() == CONTENT
    assert of(address).fetch() == path
    assert len(asked) == 1


def test_a_cut_or_changed_file_is_refused_and_not_kept(folder: Path, served: tuple[Path, str, list[str]]) -> None:
    root, address, _ = served
    (root / "table.csv").write_bytes(CONTENT[:500])
    with pytest.raises(DataError, match=r"table.csv: what came from .* has another hash than sha256:"):
        of(address).fetch()
    assert not (folder / "table.csv").exists()


def test_a_damaged_file_is_kept_aside_and_fetched_again(folder: Path, served: tuple[Path, str, list[str]]) -> None:
    root, address, _ = served
    (root / "table.csv").write_bytes(CONTENT)
    folder.mkdir()
    (folder / "table.csv").write_bytes(b"damaged")
    assert of(address).fetch().read_bytes() == CONTENT
    (aside,) = folder.glob("table.csv.damaged-*")
    assert aside.read_bytes() == b"damaged"


def test_no_network_says_where_to_place_the_file(folder: Path) -> None:
    with pytest.raises(DataError, match=r"table.csv: not in .* and not fetched from http") as caught:
        of("http://127.0.0.1:9").fetch()
    message = str(caught.value)
    assert str(folder / "table.csv") in message
    assert FOLDER_VARIABLE in message
    assert "odegrad list tasks says which tasks work offline" in message


def test_a_file_placed_by_hand_needs_no_network(folder: Path) -> None:
    folder.mkdir()
    (folder / "table.csv").write_bytes(CONTENT)
    assert of("http://127.0.0.1:9").fetch() == folder / "table.csv"


def test_many_at_a_time_fetch_once(folder: Path, served: tuple[Path, str, list[str]]) -> None:
    root, address, asked = served
    (root / "table.csv").write_bytes(CONTENT)
    threads = [threading.Thread(target=of(address).fetch) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(asked) == 1
    assert (folder / "table.csv").read_bytes() == CONTENT


def test_processes_at_a_time_fetch_once(folder: Path, served: tuple[Path, str, list[str]]) -> None:
    """Three processes want one file; one fetches it, the others wait for it."""
    root, address, asked = served
    (root / "table.csv").write_bytes(CONTENT)
    known = f"sha256:{hashlib.sha256(CONTENT).hexdigest()}"
    fetch = f"DataFile('table.csv', '{address}/table.csv', '{known}', 0.016).fetch()"
    code = f"from odegrad.datasets.sources.files import *; {fetch}"
    processes = [subprocess.Popen([sys.executable, "-c", code]) for _ in range(3)]
    assert [process.wait(timeout=120) for process in processes] == [0, 0, 0]
    assert len(asked) == 1
    assert (folder / "table.csv").read_bytes() == CONTENT


def test_progress_is_told(folder: Path, served: tuple[Path, str, list[str]], caplog: pytest.LogCaptureFixture) -> None:
    """Where there is no terminal, every tenth is a line; the last one names all bytes."""
    root, address, _ = served
    (root / "table.csv").write_bytes(CONTENT)
    with caplog.at_level(logging.INFO, logger="odegrad"):
        of(address).fetch()
    lines = [record.getMessage() for record in caplog.records if record.name == "odegrad"]
    assert lines[-1] == "fetching table.csv: 16 of 16 kB"


def test_without_the_variable_data_lie_in_the_users_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(FOLDER_VARIABLE, raising=False)
    assert data_folder().name == "odegrad"
