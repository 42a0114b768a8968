"""For pytest, in a process of its own: loads the simulated card before torch, and has it there for every test.

``python -m pytest -p tests.card.plugin tests/card/cases``, with the library's path in ``SIMULATED_CARD_LIBRARY``;
``test_card.py`` builds it and starts such processes.
"""

import os
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.card.library import VARIABLE, load

load(Path(os.environ[VARIABLE]))

from tests.card.device import Card  # noqa: E402  # torch is imported here, behind the library
from tests.card.torch_cuda import simulated_card  # noqa: E402

_open = ExitStack()


def pytest_sessionstart() -> None:
    """Let there be a card before tests are collected: some ask for it then."""
    _open.enter_context(simulated_card())


def pytest_sessionfinish() -> None:
    """Take it away."""
    _open.close()


@pytest.fixture(autouse=True)
def card() -> Iterator[Card]:
    """Return the card, counting from zero; no copy to it may ask not to block from memory that is not pinned."""
    assert Card.current is not None
    Card.current.forget()
    yield Card.current
    assert not Card.current.pageable
