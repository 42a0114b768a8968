"""Writing texts into a folder of the user's choice."""

from collections.abc import Mapping
from pathlib import Path

from odegrad.errors import ResultsError
from odegrad.records.replacing import replace_file


def write_texts(texts: Mapping[Path, str]) -> list[Path]:
    """Write each text to its file, whose folder is made; return the files.

    Raises
    ------
    ResultsError
        If a folder cannot be written.
    """
    for path, text in texts.items():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            replace_file(path, text)
        except OSError as error:
            raise ResultsError(
                f"--out {path.parent}: expected a folder that can be written, got {type(error).__name__} "
                f"({error.strerror}); free it or give another one"
            ) from error
    return list(texts)
