"""The waits of every method, held against a committed file: ``tests/card/waits.json``.

``SIMULATED_CARD_UPDATE=1`` writes it anew, for a change that is meant.
"""

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from odegrad.checks.problems import SmoothNet, StepLog
from odegrad.methods.solvers.solver import make_solver
from odegrad.registry import build_gradient, gradients
from tests.card.device import Card

FILE = Path(__file__).parents[1] / "waits.json"
UPDATE = "SIMULATED_CARD_UPDATE"
SOLVERS: dict[str, dict[str, Any]] = {
    "dopri5": {"rtol": 1e-3, "atol": 1e-3},
    "dopri5 with dense outputs": {"rtol": 1e-3, "atol": 1e-3, "outputs": "dense"},
    "rk4": {"num_steps": 2},
    "alf": {"rtol": 1e-2, "atol": 1e-2},
    "dopri5 in bfloat16": {"rtol": 1e-2, "atol": 1e-2, "precision": "bfloat16"},
    "rk4 in bfloat16": {"num_steps": 2, "precision": "bfloat16"},
    "rk4 in float16": {"num_steps": 2, "precision": "float16"},
}


def _counted(name: str, kind: str, card: Card) -> dict[str, int] | None:
    """Return attempted steps and waits of both passes; None where the method refuses the solver."""
    solver, method = make_solver(kind.partition(" ")[0], **SOLVERS[kind]), build_gradient(name)
    if method.refuses(solver) is not None:
        return None
    field = SmoothNet(d=2, hidden=4, seed=4, scale=0.8).cuda()
    ts = torch.tensor([0.0, 0.4, 1.0], dtype=torch.float64)
    y0 = torch.tensor([[0.5, -0.2]], dtype=torch.float64, device="cuda")
    log, found = StepLog(), {}
    card.forget()
    loss = method(field, solver.observed_by(log), y0, ts)[1:].square().mean()
    found["attempts forward"], found["waits forward"] = len(log.ends) + log.rejections, card.waits.total()
    loss.backward()  # type: ignore[no-untyped-call]
    found["attempts backward"] = len(log.ends) + log.rejections - found["attempts forward"]
    found["waits backward"] = card.waits.total() - found["waits forward"]
    return found


@pytest.mark.parametrize("name", [n for n in gradients.names() if build_gradient(n).traits.shared_loop])
def test_waits_are_the_baselines(name: str, card: Card) -> None:
    found = {kind: counts for kind in SOLVERS if (counts := _counted(name, kind, card)) is not None}
    # Who does not keep the state reads one number more, which says how far it was off.
    state_from = build_gradient(name).traits.state_from
    for counts in found.values():
        for way in ("forward", "backward"):
            told = int(way == "backward" and state_from in ("solve", "inverse", "interpolant"))
            assert counts[f"waits {way}"] <= counts[f"attempts {way}"] + 2 + told
    kept: dict[str, Any] = json.loads(FILE.read_text()) if FILE.exists() else {}
    if os.environ.get(UPDATE):
        FILE.write_text(json.dumps({**kept, name: found}, indent=1, sort_keys=True) + "\n")
        return
    assert found == kept[name], f"{name}: the waits have changed; if that is meant, run with {UPDATE}=1"
