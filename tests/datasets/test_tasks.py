"""What every task promises: everything from the seed, pure batches, gradients everywhere, a loss that falls."""

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from torchdiffeq import odeint

from odegrad.contracts import Problem, Task
from odegrad.errors import UnknownNameError, UsageError
from odegrad.registry import build_task, tasks

CPU = torch.device("cpu")
TASKS: list[Task] = [task for task in map(build_task, tasks.names()) if task.info.offline]
WITHOUT_LAYERS = {"logistic", "rotation"}
"""Tasks whose field has no layer that SNOpt could precondition."""

each_task = pytest.mark.parametrize("task", TASKS, ids=lambda task: task.info.name)
solve = partial(odeint, rtol=1e-3, atol=1e-3, method="dopri5")


def build(task: Task, seed: int = 0, dtype: torch.dtype = torch.float32, size: str = "tiny") -> Problem:
    return task.build(size, seed, CPU, dtype)


def tensors(batch: Any) -> list[Tensor]:
    return [batch] if isinstance(batch, Tensor) else list(batch)


def everything(problem: Problem) -> list[Tensor]:
    """Return parameters, batches and the start of the dynamics."""
    _, state, ts = problem.dynamics(problem.probe_batch())
    batches = [*tensors(problem.batch(0)), *tensors(problem.batch(17)), *tensors(problem.probe_batch())]
    return [*problem.model.parameters(), *batches, *tensors(state), ts]


def equal(first: Problem, second: Problem) -> bool:
    return all(torch.equal(a, b) for a, b in zip(everything(first), everything(second), strict=True))


@each_task
def test_two_builds_of_a_seed_are_equal_and_other_seeds_differ(task: Task) -> None:
    assert equal(build(task), build(task))
    other = build(task, seed=1)
    mine = list(build(task).model.parameters())
    assert not any(torch.equal(a, b) for a, b in zip(mine, other.model.parameters(), strict=True))
    assert not torch.equal(tensors(build(task).batch(0))[0], tensors(other.batch(0))[0])


@each_task
def test_global_random_numbers_are_neither_read_nor_moved(task: Task) -> None:
    torch.manual_seed(0)
    first, before = build(task), torch.random.get_rng_state()
    torch.manual_seed(1)
    second = build(task)
    assert equal(first, second)
    torch.manual_seed(0)
    build(task).batch(3)
    assert torch.equal(torch.random.get_rng_state(), before)


@each_task
def test_float32_and_float64_builds_are_one_model_on_one_set_of_data(task: Task) -> None:
    single, double = build(task), build(task, dtype=torch.float64)
    for a, b in zip(single.model.parameters(), double.model.parameters(), strict=True):
        assert torch.equal(a, b.float())
    for batch in (0, 5):
        for x, y in zip(tensors(single.batch(batch)), tensors(double.batch(batch)), strict=True):
            assert torch.equal(x.float(), y.float())
    losses = [problem.loss(solve, problem.probe_batch()).detach() for problem in (single, double)]
    torch.testing.assert_close(losses[0].double(), losses[1], rtol=0, atol=1e-4)


@each_task
def test_a_batch_is_a_pure_function_of_its_iteration(task: Task) -> None:
    problem = build(task)
    first = tensors(problem.batch(12))
    problem.batch(3)
    for a, b in zip(first, tensors(problem.batch(12)), strict=True):
        assert torch.equal(a, b)
    assert not torch.equal(first[0], tensors(problem.batch(13))[0])


@each_task
def test_probe_batch_is_small_and_dynamics_are_detached(task: Task) -> None:
    problem = build(task)
    assert len(tensors(problem.probe_batch())[0]) <= 16
    field, state, ts = problem.dynamics(problem.probe_batch())
    assert {id(p) for p in field.parameters()} == {id(p) for p in problem.fields[0].parameters()}
    assert not any(part.requires_grad for part in tensors(state))
    dy = field(ts[0], state)
    assert [part.shape for part in tensors(dy)] == [part.shape for part in tensors(state)]
    assert {part.dtype for part in (*tensors(dy), *tensors(state), ts)} == {torch.float32}


@each_task
def test_fields_are_part_of_the_model(task: Task) -> None:
    problem = build(task)
    modules = set(problem.model.modules())
    assert all(field in modules for field in problem.fields)


@each_task
def test_every_parameter_gets_a_gradient(task: Task) -> None:
    problem = build(task)
    problem.loss(solve, problem.batch(0)).backward()  # type: ignore[no-untyped-call]
    for name, parameter in problem.model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


@each_task
def test_loss_falls_and_the_metric_improves_within_fifteen_iterations(task: Task) -> None:
    problem = build(task)
    start = problem.evaluate(solve)
    settings: Any = problem.training.optimizers[problem.training.default_optimizer]
    optimizer = torch.optim.Adam(problem.model.parameters(), **settings)
    losses = []
    for iteration in range(15):
        optimizer.zero_grad()
        loss = problem.loss(solve, problem.batch(iteration))
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses[-3:]) / 3 < losses[0] - 0.5 or sum(losses[-3:]) / 3 < 0.7 * losses[0]
    improved = problem.evaluate(solve) > start
    assert improved is task.info.higher_is_better


@each_task
def test_evaluation_leaves_no_graph_and_no_gradient(task: Task) -> None:
    problem = build(task)
    seen = []

    def watched(field: Any, y0: Any, ts: Tensor) -> Any:
        ys = solve(field, y0, ts)
        seen.extend(tensors(ys))
        return ys

    assert isinstance(problem.evaluate(watched), float)
    assert seen
    assert not any(part.requires_grad for part in seen)
    assert all(parameter.grad is None for parameter in problem.model.parameters())


@each_task
def test_every_size_builds_and_states_target_and_optimizers(task: Task) -> None:
    assert set(task.info.target) == set(task.info.sizes)
    for size in task.info.sizes:
        problem = build(task, size=size)
        assert {"adam", "sgd"} <= set(problem.training.optimizers)
        assert ("snopt" in problem.training.optimizers) is (task.info.name not in WITHOUT_LAYERS)
        loss = problem.loss(solve, problem.probe_batch())
        assert loss.shape == ()
        assert bool(loss.isfinite())


@each_task
def test_unknown_size_names_the_known_ones(task: Task) -> None:
    with pytest.raises(UnknownNameError, match=r"unknown size of task '.*' 'tinny': did you mean 'tiny'"):
        build(task, size="tinny")
    with pytest.raises(UsageError, match=r"known are default, (irregular, )?tiny"):
        build(task, size="huge")
