"""A data folder of its own for each test, and a server of files."""

import http.server
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from odegrad.datasets.sources.files import FOLDER_VARIABLE

GZIP = b"\x1f\x8b"
"""How a compressed file begins; the server says that such a one is."""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path / "data"))
    return tmp_path / "data"


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[Path, str, list[str]]]:
    """Yield a folder, the address under which its files are served, and what was asked for."""
    root, asked = tmp_path / "served", list[str]()
    root.mkdir()

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args: object) -> None:
            super().__init__(*args, directory=str(root))  # type: ignore[arg-type]

        def end_headers(self) -> None:
            path = Path(self.translate_path(self.path))
            if path.is_file() and path.read_bytes()[:2] == GZIP:
                self.send_header("Content-Encoding", "gzip")
            super().end_headers()

        def log_message(self, *_: object) -> None:
            asked.append(self.path)

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Quiet) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield root, f"http://127.0.0.1:{server.server_address[1]}", asked
        server.shutdown()
