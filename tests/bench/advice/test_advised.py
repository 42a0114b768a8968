"""``odegrad advise``: the comparison and the diagnosis of one model in a few lines and one figure."""

import json

import pandas as pd

from odegrad.advice.advised import ModelAdvice, advised
from odegrad.advice.comparison import COMPARISON_COLUMNS, Comparison

MODEL = """
import torch
from torch import nn

class Decay(nn.Module):
    def __init__(self):
        super().__init__()
        self.rate = nn.Parameter(torch.tensor(2.0))

    def forward(self, t, y):
        return -self.rate * y

def build():
    return Decay(), torch.ones(4, 3), torch.tensor([0.0, 1.0])
"""


def _row(name, verdict="accurate", seconds=1.0, peak=100):
    row = dict.fromkeys(COMPARISON_COLUMNS) | {
        "gradient": name,
        "exact": True,
        "verdict": verdict,
        "gradient_error": 1e-6,
    }
    if seconds is not None:
        row |= {"forward_seconds": seconds / 4, "backward_seconds": 3 * seconds / 4, "peak_bytes": peak}
    return row


def _advice(*rows):
    table = Comparison(list(rows), columns=list(COMPARISON_COLUMNS))
    table.advice, table.notes = "Take naive.", []
    return ModelAdvice(table, ("They contract.", "Told twice."), ("Told twice.", "No time for more."))


def test_the_front_by_hand():
    """Sorted by time; what another beats in both, is not accurate or has no time is not on it."""
    found = _advice(
        _row("revolve", seconds=3.0, peak=10),
        _row("naive", seconds=1.0, peak=100),
        _row("anode", seconds=2.0, peak=100),
        _row("adjoint", "inaccurate: off by 1", seconds=0.5, peak=1),
        _row("aca", "accurate, with solver alf", seconds=2.0, peak=50),
        _row("mali", seconds=None),
    )
    assert list(found.front()["gradient"]) == ["naive", "aca", "revolve"]
    assert [row["gradient"] for row in found.shown()] == ["naive", "aca", "revolve"]
    assert found.shown()[0]["forward / backward"] == "250 / 750 ms"


def test_sentences_begin_with_what_to_take_and_end_with_what_is_not_known():
    found = _advice(
        _row("naive"), _row("adjoint", "inaccurate: off by 1"), _row("alf", "refused: no"), _row("aca", "failed: no")
    )
    assert found.sentences() == [
        "Take naive.",
        "They contract.",
        "Told twice.",
        "Not accurate here: adjoint, aca; odegrad compare says why.",
        "No time for more.",
    ]


def test_one_call_tells_everything_and_draws(tmp_path):
    """The dynamics of ``y' = -2 y`` over one unit of time shrink to exp(-2), and grow back by exp(2)."""
    (tmp_path / "model.py").write_text(MODEL)
    lines, figure = [], tmp_path / "advice.png"
    settings = {"rtol": 1e-5, "atol": 1e-6, "rounds": 1, "budget": None}
    found = advised(f"{tmp_path / 'model.py'}:build", settings, str(figure), lines.append)
    assert json.loads(json.dumps(found)) == found
    table = pd.DataFrame(found["rows"])
    assert {"naive", "adjoint", "interpolation"} <= set(table["gradient"])
    assert found["advice"].startswith("Take ")
    first, second, *_ = found["dynamics"]
    assert first.startswith("The dynamics are contracting: ")
    assert "forward in time they grow at most 0.135 times, backward at most 7.39 times" in first
    assert second.startswith("They are not stiff for an explicit method: ")
    assert figure.stat().st_size > 10_000
    assert any(line["line"].startswith("naive: accurate") for line in lines)


def test_no_time_at_all_still_tells_the_dynamics(tmp_path):
    (tmp_path / "model.py").write_text(MODEL)
    settings = {"rtol": 1e-5, "atol": 1e-6, "rounds": 1, "budget": 1e-9}
    found = advised(f"{tmp_path / 'model.py'}:build", settings, None, lambda _line: None)
    assert found["dynamics"][0].startswith("The dynamics are contracting: ")
    assert any("A larger budget" in note for note in found["notes"])


def test_the_command_prints_what_is_told(tmp_path, run_main):
    (tmp_path / "model.py").write_text(MODEL)
    code, out, error = run_main("advise", f"{tmp_path / 'model.py'}:build", "--rounds", "1", "--json")
    assert code == 0, error
    told = json.loads(out)
    assert told["advice"].startswith("Take ")
    assert told["methods"][0].keys() == {"gradient", "error", "NFE", "saved / peak", "forward / backward"}
    code, out, error = run_main("advise", f"{tmp_path / 'nothing.py'}:build")
    assert (code, out) == (2, "")
    assert "nothing.py" in error
