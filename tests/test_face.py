"""What ``import odegrad`` hands out, and names that moved."""

import subprocess
import sys

import pytest

import odegrad

MOVED = {
    "odegrad.trajectory": "log_norms",
    "odegrad.datasets.layers": "ConcatSquashLinear",
    "odegrad.datasets.flow": "FlowField",
    "odegrad.datasets.series_classification": "ODERNN",
}


@pytest.mark.parametrize("name", odegrad.__all__)
def test_face_hands_out_what_it_names(name):
    """Every name is there, and stays what it is at the second use."""
    first = getattr(odegrad, name)
    assert callable(first)
    assert getattr(odegrad, name) is first


@pytest.mark.parametrize(("old", "name"), list(MOVED.items()))
def test_old_name_is_the_new_module(old, name):
    """A name of 0.1 gives the very module of today, says where it is, and leaves the module as it was."""
    code = f"""
import importlib, sys, warnings
import odegrad
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    from {old} import {name}
new = odegrad._MOVED["{old}"]
assert [str(w.message) for w in caught if w.category is DeprecationWarning] == [
    f"{old} is {{new}} now; the old name goes with odegrad 0.3"
], caught
module = importlib.import_module(new)
assert getattr(module, "{name}") is {name}
assert sys.modules["{old}"] is module and module.__spec__.name == module.__name__ == new
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_old_attribute_of_the_face():
    """``odegrad.trajectory`` needs no import of its own."""
    code = "import odegrad; assert odegrad.trajectory.log_norms is odegrad.log_norms"
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True)


def test_import_brings_no_torch():
    """``import odegrad`` alone is quick: it imports nothing but what Python comes with."""
    code = (
        "import sys; before = set(sys.modules); import odegrad; "
        "print(sorted({m.partition('.')[0] for m in set(sys.modules) - before} - set(sys.stdlib_module_names)))"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "['odegrad']"
