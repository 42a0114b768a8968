"""The digits' split, scaling and batches."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from odegrad.datasets.problems.classification import ClassificationProblem
from odegrad.datasets.tasks.digits import Digits, digits_split

CPU = torch.device("cpu")


def rows(images: torch.Tensor) -> list[bytes]:
    return [image.numpy().tobytes() for image in images]


def problem(seed: int = 0) -> ClassificationProblem:
    built = Digits().build("tiny", seed, CPU, torch.float64)
    assert isinstance(built, ClassificationProblem)
    return built


def test_split_is_disjoint_whole_and_of_the_stated_sizes() -> None:
    split = digits_split(CPU, torch.float64)
    train, test = rows(split.train[0]), rows(split.test[0])
    validation = rows(split.validation[0])
    assert (len(train), len(validation), len(test)) == (1257, 180, 360)
    images, labels = load_digits(return_X_y=True)
    original = sorted(zip(rows(torch.from_numpy(images / 4.0 - 1.2)), labels.tolist(), strict=True))
    parts = [(train, split.train), (validation, split.validation), (test, split.test)]
    mine = [pair for images, (_, classes) in parts for pair in zip(images, classes.tolist(), strict=True)]
    assert sorted(mine) == original


def test_split_is_stratified() -> None:
    split = digits_split(CPU, torch.float64)
    counts = np.bincount(load_digits().target)
    held_out = torch.bincount(split.test[1], minlength=10).numpy()
    np.testing.assert_array_less(np.abs(held_out - counts * 360 / 1797), 1.0)
    chosen_on = torch.bincount(split.validation[1], minlength=10).numpy()
    np.testing.assert_array_less(np.abs(chosen_on - counts * 180 / 1797), 1.0)


def test_split_does_not_depend_on_the_seed() -> None:
    first, second = problem(0).data, problem(1).data
    assert torch.equal(first.train[0], second.train[0])
    assert torch.equal(first.test[1], second.test[1])


def test_an_epoch_shows_each_image_at_most_once_and_epochs_differ() -> None:
    built = problem()
    epochs = [[rows(built.batch(epoch * 9 + i)[0]) for i in range(9)] for epoch in range(2)]
    for epoch in epochs:
        shown = [image for batch in epoch for image in batch]
        assert len(shown) == 9 * 128
        assert len(set(shown)) == len(shown)
    assert epochs[0] != epochs[1]


def test_shifted_digits_are_the_digits_moved_by_a_pixel_on_white_paper() -> None:
    """The default size moves each training image by at most a pixel each way; held-out images stay."""
    built: Any = Digits().build("default", 0, CPU, torch.float64)
    plain: Any = problem()
    moved, still = built.batch(3)[0], plain.batch(3)[0]
    assert torch.equal(built.batch(3)[1], plain.batch(3)[1])
    padded = torch.nn.functional.pad(still, (1, 1, 1, 1), value=-1.2)
    ways = torch.stack([padded[:, :, i : i + 8, j : j + 8] for i in range(3) for j in range(3)])
    taken = (ways == moved).flatten(2).all(2)
    assert bool(taken.any(0).all())
    assert bool(taken.any(1).all())
    assert torch.equal(built.data.test[0], plain.data.test[0])


def stands_still(_field: Any, y0: Any, _ts: Any) -> Any:
    return torch.stack([y0, y0])


def test_accuracy_counts_right_guesses() -> None:
    built = problem()
    with torch.no_grad():
        for parameter in built.net.head.parameters():
            parameter.zero_()
        list(built.net.head.parameters())[-1][3] = 1.0
    expected = float((built.data.test[1] == 3).double().mean())
    assert built.evaluate(stands_still) == expected
    expected = float((built.data.validation[1] == 3).double().mean())
    assert built.evaluate(stands_still, "validation") == expected


def test_loss_of_even_scores_is_log_ten() -> None:
    built = problem()
    with torch.no_grad():
        for parameter in built.net.head.parameters():
            parameter.zero_()
    loss = built.loss(stands_still, built.probe_batch())
    torch.testing.assert_close(loss.detach(), torch.tensor(10.0, dtype=torch.float64).log())
    held_out = built.held_out_loss(stands_still, "validation")
    assert held_out == pytest.approx(math.log(10.0), rel=1e-12)
