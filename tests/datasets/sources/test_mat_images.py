"""Frey's face and the silhouettes from small files in MATLAB's own format, and what is said of wrong ones."""

import dataclasses
import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.io import savemat

from odegrad.datasets.sources import mat_images
from odegrad.datasets.sources.files import FOLDER_VARIABLE
from odegrad.datasets.tasks.vae_images import ImageVAE, VAECaltech, VAEFreyFaces
from odegrad.errors import DataError
from odegrad.methods.solvers.solver import make_solver
from odegrad.registry import build_gradient

CPU = torch.device("cpu")
FACES = 30
COUNTS = {"train_data": 20, "val_data": 12, "test_data": 11}


def place(folder: Path, name: str, content: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Write a MATLAB file where the fetched one would be, and let its hash be the known one."""
    file = {"FREY_FACES": mat_images.FREY_FACES, "SILHOUETTES": mat_images.SILHOUETTES}[name]
    path = folder / file.name
    savemat(path, content, do_compression=True)
    known = f"md5:{hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()}"
    monkeypatch.setattr(mat_images, name, dataclasses.replace(file, known_hash=known))


@pytest.fixture
def written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    draw = np.random.default_rng(0)
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path))
    monkeypatch.setattr(mat_images, "FACES", FACES)
    monkeypatch.setattr(mat_images, "HELD_OUT_FACES", 5)
    faces = draw.integers(0, 256, (560, FACES)).astype(np.uint8)
    silhouettes = {name: draw.integers(0, 2, (count, 784)).astype(np.uint8) for name, count in COUNTS.items()}
    place(tmp_path, "FREY_FACES", {"ff": faces}, monkeypatch)
    place(tmp_path, "SILHOUETTES", silhouettes, monkeypatch)
    return {"ff": faces, **silhouettes}


def test_faces_are_split_once_for_all(written: dict[str, Any]) -> None:
    parts = mat_images.read_frey_faces()
    assert {name: x.shape for name, x in parts.items()} == {
        "train": (20, 560), "validation": (5, 560), "test": (5, 560)
    }  # fmt: skip
    every = np.concatenate(list(parts.values()))
    assert sorted(map(tuple, every)) == sorted(map(tuple, written["ff"].T))
    again = mat_images.read_frey_faces()
    assert all(np.array_equal(parts[name], again[name]) for name in parts)


def test_silhouettes_are_upright_and_dark_is_ink(written: dict[str, Any]) -> None:
    """The file keeps columns one after the other, with zeros in the object."""
    parts = mat_images.read_silhouettes()
    for split, name in (("train", "train_data"), ("validation", "val_data"), ("test", "test_data")):
        images = parts[split].reshape(-1, 28, 28)
        for row, column in ((0, 0), (3, 17), (27, 5)):
            np.testing.assert_array_equal(images[:, row, column], 1 - written[name][:, 28 * column + row])


@pytest.mark.parametrize("task", [VAEFreyFaces(), VAECaltech()], ids=lambda t: t.info.name)
@pytest.mark.parametrize("size", ["tiny", "default", "paper"])
def test_every_size_builds_and_trains_a_step(task: ImageVAE, size: str, written: dict[str, Any]) -> None:
    problem: Any = task.build(size, 0, CPU, torch.float32)
    method, solver = build_gradient("naive"), make_solver("rk4", num_steps=1)
    loss = problem.loss(lambda field, y0, ts: method(field, solver, y0, ts), problem.probe_batch())
    loss.backward()
    assert bool(loss.isfinite())
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in problem.model.parameters())
    assert len(problem.fields) == (2 if (task.info.name, size) == ("vae_frey_faces", "paper") else 1)


def test_faces_are_multiples_of_a_grey_level(written: dict[str, Any]) -> None:
    train = VAEFreyFaces().read()["train"]
    assert float((train * 255 - (train * 255).round()).abs().max()) < 1e-12
    assert 0.0 <= float(train.min()) <= float(train.max()) <= 1.0


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("FREY_FACES", {"gg": np.zeros((2, 2))}, r"expected a matrix 'ff' of shape \(560, 30\), got none"),
        ("FREY_FACES", {"ff": np.zeros((560, 7))}, r"of shape \(560, 30\), got shape \(560, 7\)"),
        ("SILHOUETTES", {"train_data": np.zeros((3, 5))}, r"'train_data' of shape \(any, 784\), got shape \(3, 5\)"),
    ],
)
def test_a_file_of_something_else_is_refused(
    name: str,
    content: dict[str, Any],
    message: str,
    written: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    place(tmp_path, name, content, monkeypatch)
    with pytest.raises(DataError, match=message):
        (mat_images.read_frey_faces if name == "FREY_FACES" else mat_images.read_silhouettes)()


def test_a_file_that_is_no_matlab_file_is_refused(
    written: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / mat_images.FREY_FACES.name
    path.write_bytes(b"no MATLAB file at all, and then some more of it" * 10)
    known = f"md5:{hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()}"
    monkeypatch.setattr(mat_images, "FREY_FACES", dataclasses.replace(mat_images.FREY_FACES, known_hash=known))
    with pytest.raises(DataError, match=r"expected a MATLAB file, got one that scipy cannot read"):
        mat_images.read_frey_faces()


@pytest.mark.parametrize("task", [VAEFreyFaces(), VAECaltech()], ids=lambda t: t.info.name)
def test_no_file_and_no_network_is_an_error_that_helps(
    task: ImageVAE, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path))
    for name in ("FREY_FACES", "SILHOUETTES"):
        nowhere = dataclasses.replace(getattr(mat_images, name), url="http://127.0.0.1:9/file.mat")
        monkeypatch.setattr(mat_images, name, nowhere)
    with pytest.raises(DataError, match=r"not in .* and not fetched from .* place the file \(1 MB, md5:"):
        task.build("tiny", 0, CPU, torch.float32)
