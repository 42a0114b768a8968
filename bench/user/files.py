"""What users bring in files of their own: ``file.py:Name`` to what it names, and errors that say where they arose."""

import ast
import hashlib
import importlib.util
import re
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

from odegrad.errors import OdegradError, UnknownNameError, UsageError


def load_from_file(name: str, kind: str) -> object:
    """Return the class or function that ``path/to/file.py:Name`` names.

    Raises
    ------
    UsageError
        If there is no such file, or nothing of that name in it.
    """
    path_text, _, attribute = name.rpartition(":")
    path = Path(path_text).expanduser().resolve()
    if not path.is_file():
        raise UsageError(f"{kind} {name!r}: there is no file {path}; give a path as in my_file.py:Name")
    module_name = f"odegrad_user_{hashlib.sha256(str(path).encode()).hexdigest()[:12]}"
    module = sys.modules.get(module_name)
    if module is None:
        spec = importlib.util.spec_from_file_location(module_name, path)
        if spec is None or spec.loader is None:
            raise UsageError(f"{kind} {name!r}: {path} is not a Python file")
        module = importlib.util.module_from_spec(spec)
        sys.modules[module_name] = module
        sys.path.insert(0, str(path.parent))  # as Python does for a script: the file may import one beside it
        try:
            spec.loader.exec_module(module)
        except BaseException as error:
            del sys.modules[module_name]
            if isinstance(error, (Exception, SystemExit)):
                raise UsageError(f"{kind} {name!r}: {place_of(error)}") from error
            raise
        finally:
            sys.path.remove(str(path.parent))
    if not hasattr(module, attribute):
        known = [n for n, v in vars(module).items() if getattr(v, "__module__", None) == module_name]
        raise UnknownNameError(f"{kind} in {path.name}", attribute, known)
    return getattr(module, attribute)


def place_of(error: BaseException) -> str:
    """Return ``FILE:LINE: Type: message`` of an error in a user's file."""
    if isinstance(error, SyntaxError):
        return f"{error.filename}:{error.lineno}: SyntaxError: {error.msg}"
    where = traceback.extract_tb(error.__traceback__)[-1]
    return f"{where.filename}:{where.lineno}: {_of_traits(error) or f'{type(error).__name__}: {error}'}"


def _of_traits(error: BaseException) -> str:
    """Return what is wrong with a method's ``Traits(...)``, in a sentence; nothing for any other error."""
    text = str(error)
    if not isinstance(error, TypeError) or not text.startswith("Traits.__init__() "):
        return ""
    named = ", ".join(re.findall(r"'(\w+)'", text))
    if "missing" in text:
        return f"Traits: expected {named} too, got none; odegrad.contracts.Traits says what each field states"
    return f"Traits: got {named}, which is no field of it; odegrad.contracts.Traits says which there are"


def call_users(name: str, function: Callable[[], object]) -> object:
    """Return what a user's ``function`` without arguments returns.

    Raises
    ------
    UsageError
        If it raises; the message says where. Errors that odegrad raises on purpose pass through.
    """
    try:
        return function()
    except OdegradError:
        raise
    except (Exception, SystemExit) as error:
        raise UsageError(f"{name}: {place_of(error)}") from error


def code_fingerprint(*names: str) -> str:
    """Return a hash of the users' files that ``names`` refer to, blind to comments and docstrings; empty if none."""
    dumps = []
    for name in names:
        if ".py:" in name:
            tree = ast.parse(Path(name.rpartition(":")[0]).expanduser().read_text(encoding="utf-8"))
            for node in ast.walk(tree):
                body = getattr(node, "body", None)
                first = body[0] if isinstance(body, list) and body else None
                if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
                    first.value.value = ""
            dumps.append(ast.dump(tree))
    return hashlib.sha256("\n".join(dumps).encode()).hexdigest()[:16] if dumps else ""
