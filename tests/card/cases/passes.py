"""The five passes, comparisons, logarithmic norms and checks on the card give what they give on the CPU."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import odegrad
from odegrad.advice import race
from odegrad.diagnosis import prediction
from odegrad.diagnosis.prediction import diagnose
from odegrad.diagnosis.trajectory import log_norms
from odegrad.measuring import passes as measuring
from odegrad.measuring import timing
from odegrad.records.record import PASSES, Run
from odegrad.user.models import Model, half_mean_square
from tests.card.device import Card

ON_EITHER = {"gradient_digest", "nfe_forward", "nfe_backward", "vjps", "accepted_steps", "metric_value", "train_loss"}
"""Columns of numbers that must be equal bit for bit."""
RUN: dict[str, Any] = {
    "suite": "card", "task": "linear", "size": "tiny", "gradient": "aca", "solver": "rk4", "optimizer": "adam",
    "seed": 0, "rtol": 1e-3, "atol": 1e-3, "iterations": 2, "evaluations": 1, "solver_options": (("num_steps", 1),),
}  # fmt: skip


def _columns(device: str, folder: Path) -> dict[str, Any]:
    run = Run(device=device, **RUN)
    columns: dict[str, Any] = {}
    scratch = folder / device / "run"
    scratch.mkdir(parents=True)
    for name in ("train", *(each for each in PASSES if each != "train")):
        columns |= measuring.run_pass(name, run, str(scratch), lambda _: None)
    return columns


def test_every_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "MIN_REPEATS", 2)
    monkeypatch.setattr(measuring, "PASS_SECONDS", 0.0)
    on_cpu, on_card = _columns("cpu", tmp_path), _columns("cuda", tmp_path)
    assert on_card["host_syncs"] == 0
    assert on_cpu["host_syncs"] is None
    assert {name: on_card[name] for name in ON_EITHER} == {name: on_cpu[name] for name in ON_EITHER}
    assert on_card["log_norm_max"] == pytest.approx(on_cpu["log_norm_max"])
    assert on_card["saved_bytes"] > 0
    assert on_card["peak_bytes"] >= on_card["saved_bytes"]
    assert on_card["forward_seconds"] > 0


class Field(nn.Module):
    """A field that draws numbers where it is trained, so that the card's generator is used."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 2).double()
        with torch.no_grad():
            self.layer.weight.copy_(torch.tensor([[-0.5, 1.0], [-1.0, -0.3]]))
            self.layer.bias.zero_()
        self.drop = nn.Dropout(0.0)

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        out: Tensor = self.drop(torch.tanh(self.layer(y)))
        return out


@pytest.mark.parametrize("times", ["cpu", "cuda"])
def test_comparison(times: str, card: Card, monkeypatch: pytest.MonkeyPatch) -> None:
    """The card's memory and generator, wherever the times lie; verdicts and calls are the CPU's."""
    monkeypatch.setattr(race, "BUDGET_SECONDS", 0.0)
    torch.manual_seed(1)
    before = torch.cuda.get_rng_state()
    ts, chosen = torch.tensor([0.0, 0.5], dtype=torch.float64), ["naive", "adjoint", "torchdiffeq_naive"]
    start = torch.tensor([[1.0, 0.2]], dtype=torch.float64)

    def compared(device: str, of_times: str) -> Any:
        field = Field().to(device)
        return odegrad.compare_gradients(
            field, start.to(device), ts.to(of_times), gradients=chosen, rounds=1, rtol=1e-3, atol=1e-3
        )

    with card.away():
        on_cpu = compared("cpu", "cpu")
    on_card = compared("cuda", times)
    assert list(on_card["verdict"]) == list(on_cpu["verdict"])
    assert list(on_card["nfe_backward"]) == list(on_cpu["nfe_backward"])
    assert all(on_card["peak_bytes"] >= 512)  # what the card's allocator tells, and no CPU's
    assert all(on_card["peak_bytes"] % 512 == 0)
    assert torch.equal(before, torch.cuda.get_rng_state())


@pytest.mark.parametrize("dense_below", [0, 100])
@pytest.mark.parametrize("times", ["cpu", "cuda"])
def test_logarithmic_norms(dense_below: int, times: str) -> None:
    field, ts = Field(), torch.linspace(0.0, 1.0, 3, dtype=torch.float64)
    ys = torch.randn(3, 4, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    expected = log_norms(field, ts, ys, dense_below=100)
    found = log_norms(field.cuda(), ts.to(times), ys.cuda(), dense_below=dense_below)
    assert torch.allclose(found.mu_2.cpu(), expected.mu_2, atol=1e-5)
    assert torch.allclose(found.integral("mu_2_minus").cpu(), expected.integral("mu_2_minus"), atol=1e-5)


def test_diagnosis(card: Card, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bounds, predictions and observed errors, with the checks of the field; times on the CPU."""
    ts, y0 = torch.tensor([0.0, 0.5], dtype=torch.float64), torch.tensor([[1.0, 0.2]], dtype=torch.float64)
    methods = ["naive", "adjoint"]
    monkeypatch.setattr(prediction, "BOUND_NODES", (4,))
    monkeypatch.setattr(prediction, "POINTS_A_NODE", {False: 3, True: 3})
    with card.away():
        on_cpu = diagnose("mine", Model(Field(), y0, ts, half_mean_square), methods=methods)
    on_card = diagnose("mine", Model(Field().cuda(), y0.cuda(), ts, half_mean_square), methods=methods)
    assert on_card.growth == on_cpu.growth
    assert [each.observed for each in on_card.outcomes] == pytest.approx([each.observed for each in on_cpu.outcomes])
    assert all(bound.holds for bound in on_card.bounds)
