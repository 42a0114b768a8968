"""A user's own model: the comparison's figures against a model whose gradient is known, and its words."""

import html
import json
import math

import pandas as pd
import pytest
import torch
from torch import nn

import odegrad
from odegrad.advice.comparison import COMPARISON_COLUMNS
from odegrad.advice.race import Race
from odegrad.advice.sentence import advice
from odegrad.errors import UnknownNameError, UsageError
from odegrad.reference.reference import Reference
from odegrad.registry import default_gradients
from odegrad.user.models import Model, load_model

MODEL_FILE = """
import torch
from torch import nn

def build():
    torch.manual_seed(0)
    field = nn.Linear(3, 3)

    class Field(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = field

        def forward(self, t, y):
            return torch.tanh(self.inner(y))

    return Field(), torch.ones(4, 3), torch.tensor([0.0, 1.0])

def wrong():
    return 1, 2
"""


BROKEN_METHOD = """
from odegrad.methods.gradients.naive import Naive

class Broken(Naive):
    def __call__(self, field, solver, y0, ts):
        raise RuntimeError("not today\\nor tomorrow")
"""


class Decay(nn.Module):
    """``y' = -rate y``: the gradient of ``sum y(1)`` in ``rate`` is ``-sum y0 exp(-rate)``."""

    def __init__(self, rate=0.7, dtype=torch.float64):
        super().__init__()
        self.rate = nn.Parameter(torch.tensor(rate, dtype=dtype))
        self.register_buffer("calls", torch.zeros((), dtype=torch.long))

    def forward(self, t, y):
        self.calls += 1
        return -self.rate * y


Y0 = torch.linspace(0.5, 1.5, 8, dtype=torch.float64).reshape(8, 1)
TIMES = torch.tensor([0.0, 1.0], dtype=torch.float64)


def last(ys):
    return ys[-1].sum()


@pytest.fixture(scope="module")
def table():
    return odegrad.compare_gradients(Decay(), Y0, TIMES, loss=last, rtol=1e-7, atol=1e-8, rounds=2)


def test_every_method_has_a_row(table):
    """All but forward_sensitivity; mali gets its solver, and says so."""
    assert list(table.columns) == list(COMPARISON_COLUMNS)
    assert set(table["gradient"]) == set(default_gradients())
    rows = table.set_index("gradient")
    assert rows.loc["mali", "verdict"] == "accurate, with solver alf"
    assert (rows.drop(index="mali")["verdict"] == "accurate").all()
    assert rows.loc["naive", "exact"]
    assert not rows.loc["adjoint", "exact"]


def test_errors_are_distances_to_the_closed_form():
    """With tolerances as loose as these the error of each gradient is that of its own solve."""
    true = -float(Y0.sum()) * math.exp(-0.7)
    names = ["naive", "adjoint", "interpolation"]
    table = odegrad.compare_gradients(Decay(), Y0, TIMES, loss=last, gradients=names, rtol=1e-2, atol=1e-2, rounds=1)
    for row in table.itertuples():
        field = Decay()
        loss = last(odegrad.odeint(field, Y0, TIMES, rtol=1e-2, atol=1e-2, gradient=row.gradient))
        (found,) = torch.autograd.grad(loss, field.rate)
        assert row.gradient_error == pytest.approx(abs(float(found) / true - 1.0), rel=1e-6, abs=1e-12)


def test_counts_and_bytes_are_the_methods(table):
    """Naive has no second f call, anode repeats all but the two that chose the step; adjoint keeps least."""
    rows = table.set_index("gradient")
    assert rows.loc["naive", "nfe_backward"] == 0
    assert rows.loc["anode", "nfe_backward"] == rows.loc["naive", "nfe_forward"] - 2
    assert rows.loc["adjoint", "saved_bytes"] < rows.loc["naive", "saved_bytes"]
    assert (rows["peak_bytes"] >= rows["saved_bytes"]).all()
    assert (rows[["forward_seconds", "backward_seconds"]] > 0).all(axis=None)
    assert rows.loc["anode", "method_error"] == 0.0
    assert math.isnan(rows.loc["torchdiffeq_naive", "method_error"])


def test_model_is_left_as_it_was():
    """Parameters, buffers, gradients and random numbers stand as before."""
    field = Decay()
    torch.manual_seed(5)
    before = torch.get_rng_state()
    odegrad.compare_gradients(field, Y0, TIMES, gradients=["naive", "adjoint"], rounds=1)
    assert int(field.calls) == 0
    assert field.rate.grad is None
    assert torch.equal(torch.get_rng_state(), before)


def test_initial_state_and_tuples_are_differentiated():
    """A frozen field with a trained start: the gradient of half the mean square is known in closed form."""
    field = Decay().requires_grad_(False)
    model = Model(field, (Y0.clone().requires_grad_(), Y0), TIMES)

    class Both(nn.Module):
        def forward(self, t, y):
            return field(t, y[0]), field(t, y[1])

    model = Model(Both(), (Y0.clone().requires_grad_(), Y0), TIMES)
    from_naive = model.gradient(
        odegrad.registry.build_gradient("naive"), odegrad.registry.build_solver("dopri5", 1e-9, 1e-9)
    )
    torch.testing.assert_close(from_naive, Y0.reshape(-1) * math.exp(-1.4) / 8, rtol=1e-7, atol=1e-10)
    table = odegrad.compare_gradients(Both(), model.y0, TIMES, gradients=["naive", "adjoint"], rounds=1)
    assert (table["verdict"] == "accurate").all()


def test_loss_sees_the_type_that_it_was_made_for():
    """A head in float32 behind the solution cannot take a float64 one: the reference rounds its solution for it."""
    head = nn.Linear(1, 1)
    kinds = set()

    def loss(ys):
        out = head(ys[-1])
        kinds.add(ys.dtype)
        return out.sum()

    table = odegrad.compare_gradients(
        Decay(dtype=torch.float32), Y0.float(), TIMES.float(), loss=loss, gradients=["naive"], rounds=1
    )
    assert kinds == {torch.float32}
    assert table["gradient_error"][0] < 1e-4
    assert table["verdict"][0] == "accurate"


def test_inaccurate_refused_and_failed_are_rows(tmp_path):
    """What does not work here says why; the rest of the table stands."""
    (tmp_path / "broken.py").write_text(BROKEN_METHOD)
    broken = f"{tmp_path / 'broken.py'}:Broken"
    table = odegrad.compare_gradients(
        Decay(), Y0, TIMES, loss=last, rounds=1, rtol=1e-7, atol=1e-8,
        gradients=["naive", ("adjoint", {"rtol": 0.5, "atol": 0.5}), broken],
    ).set_index("gradient")  # fmt: skip
    assert table.loc["naive", "verdict"] == "accurate"
    assert table.loc["adjoint", "verdict"].startswith("inaccurate: off by")
    assert table.loc[broken, "verdict"] == "failed: not today"
    table = odegrad.compare_gradients(
        Decay(), Y0, TIMES, gradients=["naive", "adjoint"], options={"coupling": 0.99}, rounds=1
    ).set_index("gradient")
    assert table.loc["naive", "verdict"] == "accurate"
    assert table.loc["adjoint", "verdict"].startswith("refused: ")
    assert math.isnan(table.loc["adjoint", "peak_bytes"])


ROW = {"verdict": "accurate", "exact": True, "gradient_error": 1e-6, "backward_seconds": 0.01}
KNOWN = Reference(torch.ones(1), 1e-13, 100)


def said(rows, told=None, true=KNOWN, changed=0.0):
    return advice(rows, told, true, lambda: changed)


def test_advice_names_the_fastest_and_the_smallest():
    """The sentence is made of the figures."""
    rows = [
        ROW | {"gradient": "naive", "forward_seconds": 0.01, "peak_bytes": 4e6},
        ROW | {"gradient": "aca", "forward_seconds": 0.03, "peak_bytes": 1e6},
        ROW | {"gradient": "mali", "forward_seconds": 0.001, "peak_bytes": 1e5, "verdict": "inaccurate: off by 1"},
    ]
    assert said(rows) == (
        "Take naive: of 2 accurate methods it is the fastest, 20 ms per gradient with an error of 1.0e-06 and 4 MB at "
        "the peak; where memory is short, aca needs 4 times less at 2 times the time."
    )
    slow = ROW | {"gradient": "mali", "forward_seconds": 1.0, "peak_bytes": 1e3}
    assert said([*rows, slow]) == said(rows).replace("of 2", "of 3")  # nobody waits fifty times as long
    assert "memory is short" not in said(rows[:1])
    assert said(rows[2:]).startswith("No method is accurate here")


def test_advice_says_that_two_are_not_told_apart():
    """Where the interval of paired ratios holds 1, nobody is crowned; where it is narrow, both are the same."""
    rows = [ROW | {"gradient": name, "forward_seconds": 0.01, "peak_bytes": 4e6} for name in ("naive", "aca")]
    assert "it is the fastest, 20 ms" in said(rows, Race("naive", "aca", 1.01, 1.2, 7))
    same = said(rows, Race("naive", "aca", 0.98, 1.03, 9))
    assert "it is among the fastest (naive and aca are the same within 3%), 20 ms" in same
    open_ = said(rows, Race("naive", "aca", 0.9, 1.1, 60))
    assert "60 rounds do not tell naive and aca apart: aca takes 0.90 to 1.10 times as long" in open_
    few = said(rows, Race("naive", "aca", math.nan, math.nan, 1))
    assert "1 rounds are too few to tell naive and aca apart" in few


def test_nothing_is_advised_without_a_reference():
    """The reason stands in the sentence; a gradient that is not surely accurate is never taken."""
    rows = [ROW | {"gradient": "naive", "forward_seconds": 0.01, "peak_bytes": 4e6, "verdict": "undecided: why"}]
    assert "its reference is gone" in said(rows, true=Reference(None, None, 9, "its reference is gone"))
    refused = [{"gradient": "mali", "exact": True, "verdict": "refused: no"}]
    assert said(refused).startswith("No method that was asked for takes this solver")
    assert said(rows, true=Reference(torch.ones(1), 1e-4, 9)).startswith("No method is surely accurate: the reference")


class Resting(nn.Module):
    """``y' = -k (y - c)(2 + sin 20 t)`` from ``y = c``: the state rests, and ``dy(1)/dc`` is 1 but for rounding."""

    def __init__(self, k=10.0):
        super().__init__()
        self.c, self.k = nn.Parameter(torch.ones((), dtype=torch.float64)), k

    def forward(self, t, y):
        return -self.k * (y - self.c) * (2.0 + torch.sin(20.0 * t))


def test_resting_state_fools_naive_and_not_the_verdict():
    """Naive is off by thousands at every tolerance; the adjoint is right, is advised, and it is said why."""
    y0 = torch.ones(1, 1, dtype=torch.float64)
    names = ["naive", "aca", "mali", "adjoint", "interpolation_dense", "torchdiffeq_adjoint"]
    table = odegrad.compare_gradients(Resting(), y0, TIMES, loss=last, gradients=names, rounds=1)
    rows = table.set_index("gradient")
    assert rows.loc["naive", "gradient_error"] == pytest.approx(7223.0, rel=1e-3)
    assert rows.loc["naive", "verdict"].startswith("inaccurate: off by 7.2e+03")
    assert rows.loc["aca", "verdict"].startswith("inaccurate")
    assert rows.loc["mali", "verdict"].startswith("inaccurate")
    for name in ("adjoint", "torchdiffeq_adjoint"):
        assert rows.loc[name, "gradient_error"] < 1e-4
        assert rows.loc[name, "verdict"] == "accurate"
    assert not table.advice.startswith(("Take naive", "Take aca", "Take mali"))
    assert "halving every step changes naive's gradient by 94%" in table.advice


class Oscillator(nn.Module):
    """``y'' = -omega^2 y``."""

    def __init__(self):
        super().__init__()
        self.omega = nn.Parameter(torch.tensor(6.0, dtype=torch.float64))

    def forward(self, t, y):
        return torch.stack([y[:, 1], -(self.omega**2) * y[:, 0]], dim=1)


def test_coarse_steps_are_not_accurate():
    """Eight Euler steps: naive is exact for them and off by 28, the adjoint by 277; nobody is advised."""
    y0 = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
    table = odegrad.compare_gradients(
        Oscillator(), y0, TIMES, loss=lambda ys: ys[-1, :, 0].sum(), gradients=["naive", "aca", "adjoint"],
        method="euler", options={"num_steps": 8}, rounds=1,
    ).set_index("gradient")  # fmt: skip
    assert table.loc["naive", "gradient_error"] > 1.0
    assert table.loc["naive", "verdict"].startswith("solver too loose: exact for its steps, which are off by")
    assert table.loc["aca", "verdict"].startswith("solver too loose")
    assert table.loc["adjoint", "verdict"].startswith("inaccurate")
    # A step multiplies by 1 + iz, one back by 1 - iz; relative to the end (y, y'), which is larger than the start.
    end = (1 + 0.75j) ** 8
    lost = ((1 + 0.75**2) ** 8 - 1) / math.hypot(end.real, 6 * end.imag)
    assert table.loc["adjoint", "reconstruction_error"] == pytest.approx(lost, rel=1e-6)
    assert table.loc["adjoint", "verdict"].endswith(f"the state of its backward pass is off by {lost:.1e}")
    assert table.loc[["naive", "aca"], "reconstruction_error"].isna().all()
    assert table.advice.startswith("No method is accurate here: those that are exact for the steps that were taken")


def test_gradients_that_are_not_finite_are_a_verdict():
    """A root at zero: nothing to hold a gradient against; each row has its verdict, and nothing is advised."""
    table = odegrad.compare_gradients(
        Decay(), Y0, TIMES, loss=lambda ys: (ys[-1] - ys[-1].detach()).abs().sqrt().sum(),
        gradients=["naive", "adjoint"], rounds=1,
    )  # fmt: skip
    rows = table.set_index("gradient")
    assert rows.loc["naive", "verdict"] == "undecided: the gradient is not finite"
    assert rows.loc["adjoint", "verdict"].startswith("failed: field: y0 is not finite")
    assert table["gradient_error"].isna().all()
    assert "the gradient is not finite" in table.advice


def test_printed_rows_have_units_and_leave_reasons_to_lines_of_their_own(table):
    """The cells of a terminal's table are made of the row's figures."""
    row = table.iloc[0].to_dict()
    known = {"gradient_error": 1.2e-6, "nfe_forward": 8, "nfe_backward": 6, "vjps": 6, "saved_bytes": 640}
    known |= {
        "peak_bytes": 1.5e6,
        "forward_seconds": 0.001,
        "backward_seconds": 0.02,
        "verdict": "inaccurate: off by 1",
    }
    made = type(table)([row | {"gradient": "adjoint", "exact": False} | known])
    assert made.printed() == [
        {
            "gradient": "adjoint",
            "exact": "no",
            "error": "1.2e-06",
            "NFE": "8 / 6",
            "VJPs": "6",
            "saved / peak": "640 B / 1.50 MB",
            "forward / backward": "1.00 / 20.0 ms",
            "verdict": "inaccurate",
        }
    ]
    assert made.reasons() == ["adjoint: inaccurate: off by 1"]


def test_notebook_shows_the_rows_the_reasons_and_the_advice(table):
    """With units and escaped; a selection of columns is shown as any frame."""
    shown = table._repr_html_()
    assert html.escape(table.advice) in shown
    for row in table.printed():
        assert f"<td>{row['gradient']}</td>" in shown
        assert f"<td>{row['saved / peak']}</td>" in shown
    odd = type(table)([table.iloc[0].to_dict() | {"gradient": "<b>", "verdict": "failed: <i>"}])
    assert "&lt;b&gt;: failed: &lt;i&gt;" in odd._repr_html_()
    assert "<b>" not in odd._repr_html_()
    assert "nfe_forward" in table[["gradient", "nfe_forward"]]._repr_html_()


def test_notebook_draws_a_figure_without_a_backend(table):
    """As the file that it would be saved to."""
    assert table.plot()._repr_png_().startswith(b"\x89PNG")


def test_table_keeps_its_advice_and_draws(table):
    """The advice survives a selection; the figure has a point a method with figures."""
    assert table[table["exact"]].advice == table.advice
    assert table.advice.startswith("Take ")
    figure = table.plot()
    assert len(figure.axes) == 2
    assert len(figure.axes[0].get_lines()) >= len(table)
    drawn = {tuple(float(v) for v in (line.get_xdata()[0], line.get_ydata()[0])) for line in figure.axes[1].get_lines()}
    naive = table.set_index("gradient").loc["naive"]
    assert (float(naive["peak_bytes"]), float(naive["gradient_error"])) in drawn
    assert odegrad.compare_gradients(
        Decay(), Y0, TIMES, gradients=["adjoint"], options={"coupling": 0.99}, rounds=1
    ).plot()


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"func": lambda _t, y: -y}, UsageError, "func: expected an nn.Module, got function"),
        ({"func": Decay().requires_grad_(False)}, UsageError, "expected a parameter or a state that requires"),
        ({"rounds": 0}, UsageError, "rounds: expected a positive whole number, got 0"),
        ({"gradients": ["adjont"]}, UnknownNameError, "did you mean 'adjoint'"),
        ({"gradients": "naive"}, UsageError, "gradients: expected a list"),
        ({"gradients": []}, UsageError, "gradients: expected a list"),
        ({"y0": Y0 * math.nan}, UsageError, "y0: expected finite numbers"),
    ],
    ids=lambda v: ",".join(v) if isinstance(v, dict) else None,
)
def test_wrong_arguments_are_refused(change, error, message):
    """Before anything is measured."""
    arguments = {"func": Decay(), "y0": Y0, "t": TIMES} | change
    with pytest.raises((error, ValueError), match=message):
        odegrad.compare_gradients(arguments.pop("func"), arguments.pop("y0"), arguments.pop("t"), **arguments)


FAULTY_FILE = """import torch, my_model  # a file beside it
def raises():
    return 1 / 0
number = 3
def listed_times():
    return torch.nn.Linear(2, 2), torch.ones(1, 2), [0.0, 1.0]
def whole_numbers():
    return torch.nn.Linear(2, 2), torch.ones(1, 2, dtype=torch.int64), torch.tensor([0.0, 1.0])
"""


@pytest.fixture
def model_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_model.py").write_text(MODEL_FILE)
    (tmp_path / "faulty.py").write_text(FAULTY_FILE)
    (tmp_path / "unreadable.py").write_text("def build(:\n")
    return "my_model.py"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("my_model.py", "expected a file and a function in it, as in my_model.py:build"),
        ("my_model.py:bild", "unknown model in my_model.py 'bild': did you mean 'build'"),
        ("my_model.py:wrong", r"expected it to return \(func, y0, t\) or \(func, y0, t, loss\), got 2 things"),
        ("gone.py:build", "there is no file"),
        ("faulty.py:raises", r"faulty.py:raises: .*faulty\.py:3: ZeroDivisionError: division by zero"),
        ("faulty.py:number", "expected a function, got int"),
        (
            "faulty.py:listed_times",
            r"t: expected a floating-point tensor \[time\] or \[batch, time\], got \[0\.0, 1\.0\]",
        ),
        ("faulty.py:whole_numbers", r"y0: expected a floating-point tensor .* torch\.int64"),
        ("unreadable.py:build", r"unreadable\.py:1: SyntaxError"),
    ],
)
def test_wrong_models_are_refused(model_file, name, message):
    """The message says what a model file must hold."""
    with pytest.raises(UsageError, match=message):
        load_model(name)


def test_shell_prints_what_python_returns(model_file, run_main, tmp_path):
    """A table and the sentence; as JSON the same rows; the figure as a file."""
    arguments = ("compare", "my_model.py:build", "--gradients", "naive, adjoint", "--rounds", "1")
    code, out, _ = run_main(*arguments, "--figure", "out.png")
    assert code == 0
    assert all(word in out for word in ("naive", "adjoint", "accurate", "Take ", " kB", " ms"))
    assert max(map(len, out.splitlines())) < 200
    assert (tmp_path / "out.png").read_bytes().startswith(b"\x89PNG")
    code, out, _ = run_main(*arguments, "--json")
    found = json.loads(out)
    assert code == 0
    assert found["advice"].startswith("Take ")
    assert list(pd.DataFrame(found["methods"]).columns) == list(COMPARISON_COLUMNS)
    code, out, error = run_main(*arguments, "--figure", "out.bmp")
    assert (code, out) == (2, "")
    assert "--figure out.bmp: expected a name that ends in one of .png, .svg, .pdf" in error
