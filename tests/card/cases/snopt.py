"""SNOpt on the card: with every method's tap, every policy and option, the CPU's steps; and few waits."""

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor

from odegrad.binding import next_solve
from odegrad.contracts import Problem, Tappable
from odegrad.methods.optimizers.snopt.optimizer import SNOpt
from odegrad.methods.solvers.solver import make_solver
from odegrad.registry import build_gradient, build_optimizer, build_task, gradients
from tests.card.device import Card

TAPPED = [name for name in gradients.names() if isinstance(build_gradient(name), Tappable)]
OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "bounded": {"kl_clip": 1e-4},
    "all layers": {"full_precond": True},
    "Gauss-Newton": {"curvature": "gauss_newton"},
    "end time": {"t1_policy": "baseline", "t1_update_freq": 2},
    "end time with feedback": {"t1_policy": "feedback", "t1_update_freq": 2},
}


def _solver(method: str) -> Any:
    rk4 = make_solver("rk4", num_steps=2)
    return rk4 if build_gradient(method).refuses(rk4) is None else make_solver("alf", num_steps=2)


def _iterate(problem: Problem, optimizer: SNOpt, method: str, iteration: int) -> float:
    optimizer.zero_grad(set_to_none=True)
    batch = tuple(part[:6] for part in problem.batch(iteration))
    loss = problem.loss(next_solve(optimizer, build_gradient(method), _solver(method), batch), batch)
    value = loss.item()
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    return value


def _built(device: str, options: Mapping[str, Any], task: str = "digits_mlp") -> tuple[Problem, SNOpt]:
    problem = build_task(task).build("tiny", 0, torch.device(device), torch.float64)
    optimizer = build_optimizer("snopt", problem, {"update_freq": 2, **options})
    assert isinstance(optimizer, SNOpt)
    return problem, optimizer


def _trained(device: str, method: str, options: Mapping[str, Any]) -> list[Tensor]:
    problem, optimizer = _built(device, options)
    for i in range(3):
        _iterate(problem, optimizer, method, i)
    times = [] if optimizer.integration_time is None else [optimizer.integration_time.end_time]
    return [x.detach().cpu() for x in (*problem.model.parameters(), *times)]


@pytest.mark.parametrize("method", TAPPED)
def test_every_tap(method: str) -> None:
    for on_cpu, on_card in zip(_trained("cpu", method, {}), _trained("cuda", method, {}), strict=True):
        assert torch.equal(on_cpu, on_card)


@pytest.mark.parametrize("kind", [kind for kind in OPTIONS if kind != "plain"])
def test_every_option(kind: str) -> None:
    options = OPTIONS[kind]
    for on_cpu, on_card in zip(_trained("cpu", "adjoint", options), _trained("cuda", "adjoint", options), strict=True):
        assert torch.equal(on_cpu, on_card)


EIGEN = "_linalg_eigh.default"


def _waits(card: Card, kind: str, method: str, iteration: int) -> tuple[int, int]:
    """Return the waits of one iteration: those of eigendecompositions, and the others."""
    problem, optimizer = _built("cuda", OPTIONS[kind])
    for i in range(iteration):
        _iterate(problem, optimizer, method, i)
    card.forget()
    _iterate(problem, optimizer, method, iteration)
    return card.waits[EIGEN], sum(card.waits.values()) - card.waits[EIGEN]


@pytest.mark.parametrize("method", ["adjoint", "symplectic_adjoint", "naive"])
@pytest.mark.parametrize("kind", OPTIONS)
def test_waits_do_not_grow_with_samples_or_parameters(kind: str, method: str, card: Card) -> None:
    """On a fixed grid: the loss's one; at a refresh one look at all factors, and eigh's own.

    A trained end time is read by the solve; it costs three more when it moves.
    """
    trains_time = "end time" in kind
    layers = len(_built("cpu", OPTIONS[kind])[1].layers)
    eigen, others = _waits(card, kind, method, 3)
    moved = 3 if trains_time else 0
    # The adjoint reads how far its state was off, once per backward pass.
    told = int(method == "adjoint")
    assert eigen == 0
    assert others <= 1 + told + trains_time + moved, card.places
    eigen, others = _waits(card, kind, method, 2)
    # The passes of its own see a copy of the end time, which is read there, and the end time anew afterwards.
    of_copies = 2 if kind == "Gauss-Newton" else 0
    of_passes = 10 if kind == "Gauss-Newton" else 0
    by_tap = int("feedback" in kind)  # once after a move
    assert eigen == 2 * layers
    assert others <= 1 + 1 + told * (1 + of_passes) + of_copies + trains_time + by_tap, card.places
