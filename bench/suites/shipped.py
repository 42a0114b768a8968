"""The suites that come with odegrad, and a suite file's text to unchecked data; no torch."""

import importlib.resources
import tomllib
from pathlib import Path

from odegrad.errors import SuiteError, UnknownNameError


def suite_names() -> list[str]:
    """Return the names of the suites that come with odegrad."""
    files = importlib.resources.files("odegrad.suites").iterdir()
    return sorted(file.name.removesuffix(".toml") for file in files if file.name.endswith(".toml"))


def suite_description(name: str) -> str:
    """Return what the suite ``name``, one that comes with odegrad, says about itself."""
    return str(read_suite(name)[0].get("description", ""))


def read_suite(name_or_path: str) -> tuple[dict[str, object], str, Path]:
    """Return a suite's unchecked data, the file's name, and the folder of its relative names.

    A path ends in ``.toml``; a suite that comes with odegrad has the current folder.

    Raises
    ------
    UnknownNameError
        If there is no suite of that name.
    SuiteError
        If there is no such file, or it is not TOML.
    """
    if name_or_path.endswith(".toml"):
        path = Path(name_or_path)
        if not path.is_file():
            raise SuiteError(f"suite {name_or_path!r}: expected a file or one of {suite_names()}, got no such file")
        source, folder, text = name_or_path, path.parent.resolve(), path.read_text(encoding="utf-8")
    elif name_or_path in suite_names():
        source, folder = f"{name_or_path}.toml", Path.cwd()
        text = importlib.resources.files("odegrad.suites").joinpath(source).read_text(encoding="utf-8")
    else:
        raise UnknownNameError("suite", name_or_path, suite_names())
    try:
        return tomllib.loads(text), source, folder
    except tomllib.TOMLDecodeError as error:
        raise SuiteError(f"{source}: expected TOML: {error}") from error
