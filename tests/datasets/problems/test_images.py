"""Image tasks on small tables of made images: splits, scaling, nets, crops, and statistics that do not move."""

import dataclasses
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torchdiffeq import odeint

from odegrad.datasets.nets.image_nets import NormedConvField
from odegrad.datasets.problems import classification
from odegrad.datasets.problems.images import ImageProblem, ImageTask, scaled_levels, split_rows
from odegrad.datasets.sources import openml
from odegrad.datasets.sources.augmentation import random_crop
from odegrad.datasets.sources.openml import Images, ImageTable
from odegrad.datasets.sources.seeding import generator, seeded_module
from odegrad.datasets.tasks.image_sets import Cifar10, Cifar10ResNet4, FashionMnist, Mnist, Svhn
from odegrad.methods.gradients.adjoint import Adjoint
from odegrad.methods.gradients.anode import Anode
from odegrad.methods.gradients.naive import Naive
from odegrad.methods.gradients.symplectic_adjoint import SymplecticAdjoint
from odegrad.methods.solvers.solver import make_solver

CPU = torch.device("cpu")
ROWS, TRAIN_ROWS, VALIDATION_ROWS = 160, 120, 40
TASKS: list[ImageTask] = [Mnist(), FashionMnist(), Svhn(), Cifar10(), Cifar10ResNet4()]
each_task = pytest.mark.parametrize("task", TASKS, ids=lambda task: task.info.name)
loose = partial(odeint, rtol=1e-3, atol=1e-3, method="dopri5")


def solve(field: Any, y0: Any, ts: Any) -> Any:
    """Take fixed steps, in which no sample depends on another."""
    return Naive()(field, make_solver("rk4", num_steps=2), y0, ts)


def made(table: ImageTable) -> Images:
    """Return noise around a level of the class: a net can tell the classes."""
    draw = np.random.default_rng(table.data_id)
    labels = np.arange(table.rows) % 10
    shape = (table.rows, table.channels, table.side, table.side)
    noise = draw.integers(0, 60, shape) * (1 + np.arange(table.channels)[:, None, None])
    return Images((noise + 7 * labels[:, None, None, None]).astype(np.uint8), labels)


@pytest.fixture(autouse=True)
def small_tables(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every task's table be a small one that is made instead of fetched."""
    for task in TASKS:
        table = dataclasses.replace(task.table, rows=ROWS, train_rows=TRAIN_ROWS, validation_rows=VALIDATION_ROWS)
        monkeypatch.setattr(type(task), "table", table)
    monkeypatch.setattr(ImageTable, "read", made)


def build(task: ImageTask, size: str = "tiny", seed: int = 0, dtype: torch.dtype = torch.float32) -> ImageProblem:
    problem = task.build(size, seed, CPU, dtype)
    assert isinstance(problem, ImageProblem)
    return problem


def keys(images: Tensor) -> list[bytes]:
    return [image.numpy().tobytes() for image in images]


def weights_of(layer: Any) -> Tensor:
    weight: Tensor = layer.weight
    return weight.detach()


def gradient(problem: ImageProblem, method: Any, solver: Any) -> Tensor:
    loss = problem.loss(lambda field, y0, ts: method(field, solver, y0, ts), problem.probe_batch())
    return torch.cat([g.reshape(-1) for g in torch.autograd.grad(loss, list(problem.model.parameters()))])


def test_published_sets_have_the_published_sizes() -> None:
    found = [
        (t.data_id, t.rows, t.train_rows, t.columns, t.validation_rows)
        for t in (openml.MNIST, openml.FASHION_MNIST, openml.SVHN, openml.CIFAR10)
    ]
    assert found == [
        (554, 70_000, 60_000, 784, 5_000),
        (40996, 70_000, 60_000, 784, 5_000),
        (41081, 73_257 + 26_032, 73_257, 3_072, 5_000),
        (40927, 60_000, 50_000, 3_072, 5_000),
    ]


@each_task
def test_splits_are_whole_stratified_and_one_for_all_seeds(task: ImageTask) -> None:
    images = made(task.table)
    train, validation, test = split_rows(task.table, images)
    np.testing.assert_array_equal(test, np.arange(TRAIN_ROWS, ROWS))
    np.testing.assert_array_equal(np.sort(np.concatenate([train, validation])), np.arange(TRAIN_ROWS))
    np.testing.assert_array_equal(np.bincount(images.labels[validation]), [VALIDATION_ROWS // 10] * 10)
    first, second = build(task, seed=0).data, build(task, seed=1).data
    for mine, other in zip(
        (first.train, first.validation, first.test), (second.train, second.validation, second.test), strict=True
    ):
        assert torch.equal(mine[0], other[0])
        assert torch.equal(mine[1], other[1])
    np.testing.assert_array_equal(first.test[0].numpy(), images.pixels[TRAIN_ROWS:])
    np.testing.assert_array_equal(first.validation[0].numpy(), images.pixels[validation])
    assert first.train[0].dtype == torch.uint8


def test_a_size_takes_the_first_images_of_each_part(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = build(Mnist()).data
    tiny = dataclasses.replace(Mnist.settings["tiny"], most=(50, 20, 15))
    monkeypatch.setattr(Mnist, "settings", {"tiny": tiny})
    fewer = build(Mnist()).data
    for part, count in (("train", 50), ("validation", 20), ("test", 15)):
        assert torch.equal(getattr(fewer, part)[0], getattr(whole, part)[0][:count])
        assert len(getattr(fewer, part)[1]) == count


def test_levels_scale_each_channel_of_the_training_images() -> None:
    pixels = made(Svhn.table).pixels
    levels = scaled_levels(pixels)
    for channel in range(3):
        values = levels[channel][torch.from_numpy(pixels[:, channel]).long()]
        assert abs(values.mean().item()) < 1e-12
        assert values.std(correction=0).item() == pytest.approx(1.0, abs=1e-12)
    steps = levels.diff(dim=1)
    torch.testing.assert_close(steps, steps[:, :1].expand_as(steps), rtol=0, atol=1e-12)


def test_the_net_sees_scaled_pixels() -> None:
    problem = build(Svhn(), dtype=torch.float64)
    train = problem.data.train[0].double()
    mean, deviation = train.mean((0, 2, 3), keepdim=True), train.std((0, 2, 3), correction=0, keepdim=True)
    convolutions = list(problem.net.stem.children())[1]
    expected = convolutions((train[:5] - mean) / deviation)
    torch.testing.assert_close(problem.net.stem(problem.data.train[0][:5]), expected, rtol=1e-10, atol=1e-10)


@each_task
@pytest.mark.parametrize("size", ["tiny", "default", "paper"])
def test_every_size_builds_with_its_shapes(task: ImageTask, size: str) -> None:
    """The state's shape is that of the papers' nets; a paper's net scores two images."""
    assert set(task.info.target) == set(task.info.sizes) == set(task.settings)
    problem = build(task, size)
    resnet = isinstance(task, Cifar10ResNet4)
    channels = {"tiny": 8 if resnet else 16, "default": 16 if resnet else 32, "paper": 64}[size]
    side = 32 if resnet else {28: 6, 32: 7}[task.table.side]
    images = problem.data.train[0][:2]
    _, state, ts = problem.dynamics((images, None))
    assert isinstance(state, Tensor)
    assert state.shape == (2, channels, side, side)
    assert ts.tolist() == [0.0, 1.0]
    scores = problem.net(solve, images)
    assert scores.shape == (2, 10)
    assert bool(scores.isfinite().all())


@each_task
def test_gradients_are_finite_and_everywhere(task: ImageTask) -> None:
    problem = build(task)
    problem.loss(loose, problem.batch(0)).backward()  # type: ignore[no-untyped-call]
    for name, parameter in problem.model.named_parameters():
        assert parameter.grad is not None, name
        assert bool(parameter.grad.isfinite().all()), name
        assert parameter.grad.abs().sum() > 0, name


@each_task
def test_parameters_and_batches_come_from_the_seed_alone(task: ImageTask) -> None:
    torch.manual_seed(0)
    first, before = build(task), torch.random.get_rng_state()
    torch.manual_seed(1)
    second, other, double = build(task), build(task, seed=1), build(task, dtype=torch.float64)
    named = zip(*(p.model.named_parameters() for p in (first, second, other, double)), strict=True)
    for (name, a), (_, b), (_, c), (_, d) in named:
        assert torch.equal(a, b)
        assert torch.equal(a, c) is name.startswith("stem.1.1.")  # batch norm starts at 1 and 0
        assert torch.equal(a, d.float())
    for iteration in (0, 5):
        assert all(torch.equal(x, y) for x, y in zip(first.batch(iteration), second.batch(iteration), strict=True))
    assert torch.equal(first.batch(0)[0], double.batch(0)[0])
    assert not torch.equal(first.batch(0)[0], other.batch(0)[0])
    assert not torch.equal(first.batch(0)[0], first.batch(1)[0])
    torch.manual_seed(0)
    build(task).batch(3)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_paper_trains_as_the_papers_say() -> None:
    iterations = [task.training("paper").iterations for task in TASKS]
    assert iterations == [5 * 469, 5 * 469, 10 * 573, 20 * 391, 350 * 391]
    assert [-(-n // 128) for n in (60_000, 73_257, 50_000)] == [469, 573, 391]
    for task, lr, decay in zip(TASKS[:4], (1e-3, 1e-3, 5e-4, 1e-3), (None, None, 1e-3, 1e-3), strict=True):
        assert task.training("paper").optimizers["adam"].get("weight_decay") == decay
        assert task.training("paper").optimizers["adam"]["lr"] == lr
        assert task.training("paper").full_precond
    assert Cifar10ResNet4().training("paper").schedule == {150 * 391: 0.1, 250 * 391: 0.01}
    assert "snopt" not in Cifar10ResNet4().training("paper").optimizers


def test_only_cifar_is_cropped_and_only_in_training() -> None:
    known = set(keys(torch.from_numpy(made(Svhn.table).pixels)))
    assert set(keys(build(Svhn()).batch(0)[0])) <= known
    problem = build(Cifar10())
    known = set(keys(problem.data.train[0]))
    assert not set(keys(problem.batch(0)[0])) <= known
    assert set(keys(problem.probe_batch()[0])) <= known


def test_each_crop_is_one_of_the_padded_image_and_all_of_them_come_up() -> None:
    count, padding = 600, 1
    images = torch.arange(1, 1 + 2 * 3 * 4, dtype=torch.uint8).reshape(1, 2, 3, 4).expand(count, 2, 3, 4)
    padded = np.pad(images[0].numpy(), ((0, 0), (1, 1), (1, 1)))
    crops = [padded[:, top : top + 3, left : left + 4] for top in range(3) for left in range(3)]
    wanted = {np.ascontiguousarray(crop).tobytes() for crop in crops}
    wanted |= {np.ascontiguousarray(crop[:, :, ::-1]).tobytes() for crop in crops}
    found = random_crop(images, padding, seed=0, iteration=0, mirrored=True)
    assert found.dtype == torch.uint8
    assert len(wanted) == 18
    assert set(keys(found)) == wanted


def test_crops_are_a_pure_function_of_seed_and_iteration() -> None:
    images = torch.from_numpy(made(Cifar10.table).pixels[:20])
    first = random_crop(images, 4, 3, 7, mirrored=True)
    assert torch.equal(first, random_crop(images, 4, 3, 7, mirrored=True))
    assert not torch.equal(first, random_crop(images, 4, 3, 8, mirrored=True))
    assert not torch.equal(first, random_crop(images, 4, 4, 7, mirrored=True))
    torch.testing.assert_close(random_crop(images.float(), 4, 3, 7, mirrored=True), first.float(), rtol=0, atol=0)


def test_weight_norm_starts_as_the_same_layers_without_it() -> None:
    """One draw gives both the same weights; the field is that of plain convolutions."""

    def plain() -> nn.Module:
        return nn.ModuleList(nn.Conv2d(4, 4, 3, padding=1, bias=False) for _ in range(2))

    field: Any = seeded_module(lambda: NormedConvField(4), generator(0), CPU, torch.float64)
    first, second = map(weights_of, seeded_module(plain, generator(0), CPU, torch.float64).children())
    torch.testing.assert_close(field.first.weight, first, rtol=1e-13, atol=0)
    torch.testing.assert_close(field.second.weight, second, rtol=1e-13, atol=0)
    z = torch.randn(2, 4, 5, 5, dtype=torch.float64, generator=generator(1))
    convolved = partial(nn.functional.conv2d, padding=1)
    expected = convolved(convolved(z, first).relu(), second).relu()
    torch.testing.assert_close(field(torch.tensor(0.3), z), expected)


def test_weight_norm_keeps_length_and_direction_apart() -> None:
    """Each output's weight is ``g v / ||v||``: the direction's own length does not count, ``g`` does."""
    field: Any = seeded_module(lambda: NormedConvField(3), generator(0), CPU, torch.float64)
    before = field.first.weight.detach().clone()
    length, direction = field.first.parametrizations.weight.parameters()
    torch.testing.assert_close(length.flatten(), before.flatten(1).norm(dim=1))
    with torch.no_grad():
        direction *= 5.0
        torch.testing.assert_close(field.first.weight, before)
        length *= 2.0
    torch.testing.assert_close(field.first.weight, 2.0 * before)


def test_gradients_of_the_normed_field_agree_between_methods() -> None:
    """The exact ones to rounding, the adjoint to the solver's tolerance."""
    problem = build(Cifar10ResNet4(), dtype=torch.float64)
    solver = make_solver("dopri5", rtol=1e-4, atol=1e-4)
    expected = gradient(problem, Naive(), solver)
    for method in (Anode(), SymplecticAdjoint()):
        torch.testing.assert_close(gradient(problem, method, solver), expected, rtol=0, atol=1e-11)
    assert (gradient(problem, Adjoint(), solver) - expected).norm() < 1e-2 * expected.norm()


def test_batch_norm_moves_in_training_only() -> None:
    problem = build(Cifar10ResNet4())
    buffers = dict(problem.model.named_buffers())
    assert buffers["stem.1.1.running_mean"].tolist() == [0.0] * 8
    assert buffers["stem.1.1.running_var"].tolist() == [1.0] * 8
    problem.loss(solve, problem.batch(0))
    before = {name: value.clone() for name, value in buffers.items()}
    assert before["stem.1.1.running_mean"].abs().min() > 0
    for split in ("validation", "test"):
        problem.evaluate(solve, split)  # type: ignore[arg-type]
    problem.dynamics(problem.probe_batch())
    assert all(torch.equal(value, before[name]) for name, value in problem.model.named_buffers())
    assert all(module.training for module in problem.model.modules())


def test_modes_are_put_back_when_a_solve_fails() -> None:
    problem = build(Cifar10ResNet4())
    problem.net.head.eval()

    def broken(*_: Any) -> Any:
        raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        problem.evaluate(broken)
    modes = {name: child.training for name, child in problem.net.named_children()}
    assert modes == {"stem": True, "field": True, "head": False}


@each_task
def test_evaluation_in_parts_is_that_of_the_whole(task: ImageTask, monkeypatch: pytest.MonkeyPatch) -> None:
    problem, counts = build(task), list[int]()
    problem.loss(solve, problem.batch(0))  # so that batch norm has statistics of its own

    def watched(field: Any, y0: Any, ts: Tensor) -> Any:
        counts.append(len(y0))
        return solve(field, y0, ts)

    images, labels = problem.data.test
    problem.model.eval()
    with torch.no_grad():
        expected = float((problem.net(solve, images).argmax(1) == labels).double().mean())
    problem.model.train()
    monkeypatch.setattr(classification, "EVALUATION_IMAGES", 15)
    assert problem.evaluate(watched) == expected
    assert counts == [15, 15, 10]


def test_a_net_learns_made_classes() -> None:
    """The levels of made images tell their classes, so accuracy rises far above chance."""
    problem = build(Mnist())
    settings: Any = problem.training.optimizers["adam"]
    optimizer = torch.optim.Adam(problem.model.parameters(), **settings)
    for iteration in range(60):
        optimizer.zero_grad()
        problem.loss(solve, problem.batch(iteration)).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    assert problem.evaluate(solve) > 0.5
