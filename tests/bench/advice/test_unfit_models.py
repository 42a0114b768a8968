"""Models that cannot be compared or diagnosed, or only with care: a sentence each, never a traceback."""

import pytest
import torch
from torch import nn

import odegrad
from odegrad.advice.examine import examine
from odegrad.errors import UsageError

MODELS = """
import torch
from torch import nn

T = torch.tensor([0.0, 0.5, 1.0])


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(2, 2)

    def forward(self, t, y):
        return torch.tanh(self.layer(y))


class Conditioned(Net):
    def __init__(self):
        super().__init__()
        self.context = nn.Linear(3, 2)(torch.ones(4, 3))

    def forward(self, t, y):
        return super().forward(t, y) + self.context


class Locked(Net):
    def __init__(self):
        super().__init__()
        self.file = open(__file__)


class Broken(Net):
    def forward(self, t, y):
        return self.layer(y[:, :1])


def conditioned():
    return Conditioned(), torch.ones(4, 2), T

def locked():
    return Locked(), torch.ones(4, 2), T

def broken():
    return Broken(), torch.ones(4, 2), T

def detached():
    return Net(), torch.ones(4, 2), T, lambda ys: ys.detach().sum()

def not_finite():
    return Net(), torch.ones(4, 2), T, lambda ys: ys.sum() * float("nan")

def raising():
    return Net(), torch.ones(4, 2), T, lambda ys: ys["last"]
"""

UNFIT = {
    "locked": "func: expected a module that can be copied.*cannot pickle",
    "broken": "raised RuntimeError in a solve of the model.*cannot be multiplied",
    "detached": r"loss: it depends on nothing that requires a gradient.*\.detach\(\)",
    "not_finite": "loss: expected a finite number, got nan",
    "raising": "raised IndexError in a solve of the model",
}


@pytest.fixture
def path(tmp_path):
    """Return the file of models."""
    written = tmp_path / "models.py"
    written.write_text(MODELS)
    return written


@pytest.mark.filterwarnings("ignore:unclosed file")
@pytest.mark.parametrize("name", UNFIT)
def test_an_unfit_model_is_answered_in_a_sentence(path, name):
    """By both commands' functions, with the way out."""
    model = odegrad.user.models.load_model(f"{path}:{name}")
    with pytest.raises(UsageError, match=UNFIT[name]):
        odegrad.compare_gradients(model.field, model.y0, model.ts, loss=model.loss, gradients=["naive"], rounds=1)
    with pytest.raises(UsageError, match=UNFIT[name]):
        examine(f"{path}:{name}", methods=["naive"])


def test_a_field_that_holds_an_encoders_output_is_compared(path):
    """Its float64 twin holds the numbers, cut off from the encoder."""
    model = odegrad.user.models.load_model(f"{path}:conditioned")
    table = odegrad.compare_gradients(model.field, model.y0, model.ts, gradients=["adjoint"], rounds=1)
    assert [verdict.partition(",")[0] for verdict in table["verdict"]] == ["accurate"]


class _Clipped(nn.Module):
    def __init__(self):
        super().__init__()
        self.rate = nn.Parameter(torch.tensor(-0.7))
        self.rate.register_hook(lambda g: g.clamp(-1e-3, 1e-3))

    def forward(self, t, y):
        return self.rate * y


def test_hooks_are_left_out_of_a_comparison():
    """They act on the whole gradient of every method alike; the twin that methods are held against has none."""
    field = _Clipped()
    table = odegrad.compare_gradients(
        field, torch.ones(4, 2), torch.tensor([0.0, 1.0]), loss=lambda ys: 100 * ys[-1].sum(), rounds=1,
        gradients=["naive", "aca"],
    )  # fmt: skip
    assert list(table["verdict"]) == ["accurate", "accurate"]
    assert len(field.rate._backward_hooks) == 1
