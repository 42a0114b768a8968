"""The global streams of NumPy and Python, held against what the libraries say of them."""

import random

import numpy as np
import pytest

from odegrad.methods.fields import global_streams
from odegrad.methods.fields.global_streams import NumpyGlobal, PythonGlobal

DRAWS = {
    "random": (PythonGlobal, random.random),
    "gauss": (PythonGlobal, lambda: random.gauss(0.0, 1.0)),
    "shuffle": (PythonGlobal, lambda: random.sample(range(9), 9)),
    "rand": (NumpyGlobal, np.random.rand),
    "randn": (NumpyGlobal, np.random.randn),
    "permutation": (NumpyGlobal, lambda: list(np.random.permutation(9))),  # noqa: NPY002
}


@pytest.fixture(params=[True, False], ids=["in memory", "as handed out"])
def in_memory(request, monkeypatch):
    """Both ways to read the streams; the second is for other interpreters and generators."""
    if not request.param:
        monkeypatch.setattr(global_streams, "_address_of", lambda _state: None)
        monkeypatch.setattr(global_streams, "_BITS", lambda: None)
    return request.param


@pytest.mark.parametrize("name", DRAWS)
def test_every_draw_is_seen_and_undone(name, in_memory):
    """Seven draws, since normal numbers come in pairs of which one is kept."""
    kind, draw = DRAWS[name]
    stream = kind()
    random.seed(3)
    np.random.seed(3)  # noqa: NPY002
    for _ in range(7):
        before = stream.state()
        assert stream.stands_at(before)
        drawn = draw()
        assert not stream.stands_at(before)
        stream.set(before)
        assert stream.stands_at(before)
        assert draw() == drawn


@pytest.mark.parametrize("kind", [PythonGlobal, NumpyGlobal])
def test_a_new_seed_is_seen(kind, in_memory):
    """A seed sets position and words."""
    stream = kind()
    random.seed(7)
    np.random.seed(7)  # noqa: NPY002
    before = stream.state()
    random.seed(11)
    np.random.seed(11)  # noqa: NPY002
    assert not stream.stands_at(before)


def test_pythons_stream_is_read_in_memory():
    """On CPython its words are found in the object: no state of 625 numbers is made at every solve."""
    stream = PythonGlobal()
    random.seed(5)
    words, _ = stream.state()
    assert np.array_equal(np.frombuffer(words, np.uint32)[1:], random.getstate()[1][:-1])
