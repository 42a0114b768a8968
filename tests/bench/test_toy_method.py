"""To add a gradient method takes its file and its line in the catalogue, and nothing else."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

FILE = '''"""A toy: naive's solve under another name, with every gradient doubled, so that it is seen to be used."""

from dataclasses import dataclass, replace
from typing import ClassVar

from odegrad.contracts import Traits
from odegrad.methods.gradients.naive import Naive


@dataclass(frozen=True)
class Toy(Naive):
    traits: ClassVar[Traits] = replace(Naive.traits, name="toy", summary="doubles naive's gradient")

    def __call__(self, field, solver, y0, ts):
        ys = super().__call__(field, solver, y0, ts)
        return 2.0 * ys - ys.detach()
'''
LINE = '    _method("toy", True, "replay", "gradients.toy:Toy", "doubles naive\'s gradient"),\n'
BEFORE = '    _method("symplectic_adjoint"'

START = """
import sys
import odegrad
odegrad.__path__.insert(0, {folder!r})
import odegrad.methods.gradients
odegrad.methods.gradients.__path__.insert(0, {folder!r})
"""

SHOWN = """
import json
import torch
from torch import nn
from odegrad import odeint
from odegrad.catalogue import OPTIMIZERS
from odegrad.reports.canvas.style import look
from odegrad.reports.names import METHOD_ORDER, sort_key

class Field(nn.Module):
    def __init__(self):
        super().__init__()
        self.rate = nn.Parameter(torch.tensor(-0.5))
    def forward(self, t, y):
        return self.rate * y

def slope(gradient):
    field = Field()
    odeint(field, torch.ones(1, 1), torch.tensor([0.0, 1.0]), gradient=gradient)[-1].sum().backward()
    return field.rate.grad.item()

drawn = {name: look(name) for name in [*METHOD_ORDER, *(entry.name for entry in OPTIMIZERS)]}
print(json.dumps({
    "order": sorted(["other", *reversed(METHOD_ORDER)], key=sort_key),
    "looks": [[name, each.colour, each.marker, each.hollow] for name, each in drawn.items()],
    "slopes": [slope("naive"), slope("toy")],
}))
"""


@pytest.fixture
def house(tmp_path):
    """Return a function that runs code in a process whose package has the toy's file and its line in the catalogue."""
    (tmp_path / "toy.py").write_text(FILE, encoding="utf-8")
    text = (ROOT / "bench" / "catalogue.py").read_text(encoding="utf-8")
    assert text.count(BEFORE) == 1
    (tmp_path / "catalogue.py").write_text(text.replace(BEFORE, LINE + BEFORE), encoding="utf-8")

    def ran(code, *arguments):
        words = [sys.executable, "-c", START.format(folder=str(tmp_path)) + code, *arguments]
        done = subprocess.run(words, env=os.environ, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return ran


def test_it_is_listed(house):
    """In its place, with family, exactness and sentence; with what it states where details are asked for."""
    listed = house("from odegrad.cli import main; main()", "list", "methods")
    names = [line.split("│")[1].strip() for line in listed.splitlines() if line.startswith("│")]
    assert names.index("toy") == names.index("revolve") + 1 == names.index("symplectic_adjoint") - 1
    (line,) = (line for line in listed.splitlines() if "toy" in line)
    assert [cell.strip() for cell in line.split("│")[2:-1]] == ["replay", "yes", "doubles naive's gradient"]
    rows = json.loads(house("from odegrad.cli import main; main()", "list", "methods", "--json"))
    assert next(row for row in rows if row["name"] == "toy")["cost_backward"] == "sN B"


def test_it_is_drawn_and_solves(house):
    """It has its place in the order, its family's colour, a marker that no other has with it, and it is solved by."""
    found = json.loads(house(SHOWN))
    order, looks = found["order"], {name: tuple(each) for name, *each in found["looks"]}
    assert order.index("toy") == order.index("revolve") + 1
    assert order[-1] == "other"
    assert looks["toy"][0] == looks["aca"][0]
    assert len(set(looks.values())) == len(looks)
    naive, toy = found["slopes"]
    assert toy == pytest.approx(2.0 * naive, rel=1e-6)
    assert naive == pytest.approx(2.718281828459045**-0.5, rel=1e-5)
