"""Every offline task on the card: build, loss, metric and one training step are the CPU's to the bit."""

from typing import Any

import pytest
import torch
from torch import Tensor

from odegrad.binding import next_solve, solve_with
from odegrad.contracts import HeldOutLoss, Problem
from odegrad.methods.solvers.solver import OneStepSolver, make_solver
from odegrad.registry import build_gradient, build_optimizer, build_task, tasks
from tests.card.device import Card, CardTensor

OFFLINE = [name for name in tasks.names() if tasks.get(name).info.offline]
SOLVER = make_solver("rk4", num_steps=2)
TO_EVENTS = {"bouncing_ball", "integrate_and_fire"}
"""Tasks whose solves end at events: the host reads the event function at every step, and where it ends."""
STEPPING = make_solver("rk4", step_size=0.1)
"""Steps of a known size, where the end is not known."""
TIMES_IN_BATCH = {"latent_periodic": 2}
"""Tensors of a batch that stay with the host: the times of each sample's own, which it solves for."""


def _solver(name: str) -> OneStepSolver:
    return STEPPING if name in TO_EVENTS else SOLVER


def _tensors(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    return [x for each in value for x in _tensors(each)] if isinstance(value, list | tuple) else []


def _built(name: str, device: str) -> Problem:
    return build_task(name).build("tiny", 0, torch.device(device), torch.float32)


def _iterate(name: str, problem: Problem, optimizer: torch.optim.Optimizer, iteration: int) -> Tensor:
    optimizer.zero_grad(set_to_none=True)
    batch = problem.batch(iteration)
    loss = problem.loss(next_solve(optimizer, build_gradient("aca"), _solver(name), batch), batch)
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    return loss.detach()


def _trained(name: str, problem: Problem) -> list[Tensor]:
    """Return the loss of the first batch, and the parameters after one step."""
    loss = _iterate(name, problem, build_optimizer("adam", problem), 0)
    return [loss, *(p.detach().clone() for p in problem.model.parameters())]


@pytest.mark.parametrize("name", OFFLINE)
def test_a_step_is_the_cpus(name: str, card: Card) -> None:
    """And on a fixed grid the host waits for nothing but the number of the loss: batches are sent, times are known."""
    with card.away():
        found = {"cpu": _trained(name, _built(name, "cpu"))}
    found["cuda"] = _trained(name, problem := _built(name, "cuda"))
    card.forget()
    _iterate(name, problem, build_optimizer("adam", problem), 1).item()
    assert (sum(card.waits.values()) == 1) == (name not in TO_EVENTS), card.places
    assert all(isinstance(x, CardTensor) for x in found["cuda"])
    for on_cpu, on_card in zip(found["cpu"], found["cuda"], strict=True):
        assert torch.equal(on_cpu, on_card.cpu())


@pytest.mark.parametrize("name", OFFLINE)
def test_data_metric_and_dynamics_are_the_cpus(name: str) -> None:
    found = {}
    for device in ("cpu", "cuda"):
        problem = _built(name, device)
        solve = solve_with(build_gradient("naive"), _solver(name))
        batch = problem.probe_batch()
        field, y0, ts = problem.dynamics(batch)
        ys = solve(field, y0, ts)
        numbers = [problem.evaluate(solve), problem.evaluate(solve, "validation")]
        if isinstance(problem, HeldOutLoss):
            numbers.append(problem.held_out_loss(solve, "validation"))
        found[device] = [*_tensors(batch), *_tensors(ys)], numbers
    of_host = sum(not isinstance(x, CardTensor) for x in found["cuda"][0])
    assert of_host == TIMES_IN_BATCH.get(name, 0)
    assert found["cuda"][1] == found["cpu"][1]
    for on_cpu, on_card in zip(found["cpu"][0], found["cuda"][0], strict=True):
        assert torch.equal(on_cpu, on_card.cpu())
