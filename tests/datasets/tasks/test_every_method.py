"""Every gradient method trains every offline task that it applies to: the loss on one small batch falls."""

import pytest
import torch

from odegrad.binding import solve_with
from odegrad.checks.conformance import suitable_solver
from odegrad.registry import build_gradient, build_optimizer, build_task, default_gradients, tasks

OFFLINE = [name for name in tasks.names() if tasks.get(name).info.offline]
CONTRACTING = ("prothero_robinson", "robertson_raw", "pollu", "rober_neural", "davis_skodje")
RESTING = ("equilibrium", "quiet_start")
ENDING = ("bouncing_ball", "integrate_and_fire")
ITERATIONS = 2
FEW = 100
"""Parameters of a field up to which forward sensitivities are carried."""


@pytest.mark.filterwarnings("ignore::odegrad.errors.InaccurateGradientWarning")
@pytest.mark.parametrize("method_name", [*default_gradients(), "forward_sensitivity"])
@pytest.mark.parametrize("name", OFFLINE)
def test_loss_falls(name: str, method_name: str) -> None:
    method = build_gradient(method_name)
    solver = suitable_solver(method).with_tolerances(1e-3, 1e-3)
    problem = build_task(name).build("tiny", 0, torch.device("cpu"), torch.float32)
    if name in RESTING and method.traits.exact:
        pytest.skip("exact for its steps, which are wrong where the state rests: see the tests of the reference")
    if name in CONTRACTING and method.traits.state_from == "inverse":
        pytest.skip("contracts so fast that an inverse loses the state, and that the leapfrog takes millions of steps")
    if (name in ENDING and method.traits.state_from == "inverse") or (
        name in (*ENDING, "cde_vowels") and method.traits.peer is not None
    ):
        pytest.skip("cannot end at events or see jumps: the tests of these tasks say what it answers")
    count = sum(p.numel() for field in problem.fields for p in field.parameters())
    if method_name == "forward_sensitivity" and count > FEW:
        pytest.skip(f"would carry {count} columns: for few parameters only")
    optimizer = build_optimizer("adam", problem)
    solve, batch, losses = solve_with(method, solver), problem.probe_batch(), []
    for _ in range(ITERATIONS + 1):
        optimizer.zero_grad(set_to_none=True)
        loss = problem.loss(solve, batch)
        loss.backward()  # type: ignore[no-untyped-call]
        losses.append(loss.item())
        optimizer.step()
    assert losses[-1] < losses[0], losses
