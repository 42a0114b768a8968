"""The tables of MAF from a small archive in its own format; the flow on tables against dense determinants."""

import dataclasses
import hashlib
import io
import sys
import tarfile
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import pytest
import torch
from torchdiffeq import odeint

from odegrad.datasets.sources import maf_archive
from odegrad.datasets.sources.files import FOLDER_VARIABLE
from odegrad.datasets.tasks.tables import Bsds300, Gas, Hepmass, Maf, Miniboone, Power, WineDensity
from odegrad.errors import DataError

CPU = torch.device("cpu")
ROWS = 400
solve = partial(odeint, rtol=1e-7, atol=1e-7, method="dopri5")


def tables(folder: Path) -> dict[str, Any]:
    """Write small files in the archive's formats; return what is in them."""
    draw = np.random.default_rng(0)
    for name in ("power", "gas", "hepmass", "miniboone", "BSDS300"):
        (folder / "data" / name).mkdir(parents=True)
    power, miniboone = draw.normal(size=(ROWS, 8)), draw.normal(2.0, 3.0, size=(ROWS, 43))
    np.save(folder / "data/power/data.npy", power)
    np.save(folder / "data/miniboone/data.npy", miniboone)
    gas = pd.DataFrame(draw.normal(size=(ROWS, 12)), columns=["Time", "Meth", "Eth", *(f"s{i}" for i in range(9))])
    gas["s3"] = gas["s1"] + 0.01 * draw.normal(size=ROWS)
    gas.to_pickle(folder / "data/gas/ethylene_CO.pickle")
    names = ["# label", *(f"f{i}" for i in range(6))]
    train = pd.DataFrame(draw.normal(size=(ROWS, 7)), columns=names)
    train["# label"] = (np.arange(ROWS) % 2).astype(float)
    train["f2"] = draw.integers(0, 3, ROWS).astype(float)
    test = pd.concat([train, pd.Series(draw.normal(size=ROWS), name="mass")], axis=1)
    train.to_csv(folder / "data/hepmass/1000_train.csv", index=False)
    test.to_csv(folder / "data/hepmass/1000_test.csv", index=False)
    patches = {name: draw.normal(size=(50, 63)) for name in ("train", "validation", "test")}
    with h5py.File(folder / "data/BSDS300/BSDS300.hdf5", "w") as file:
        for name, values in patches.items():
            file[name] = values
    return {"power": power, "miniboone": miniboone, "gas": gas, "hepmass": train, "bsds300": patches}


@pytest.fixture
def written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Place an archive of small tables where the real one would be, with its hash."""
    content = tables(tmp_path)
    cache = tmp_path / "cache"
    cache.mkdir()
    archive = cache / maf_archive.ARCHIVE.name
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(tmp_path / "data", arcname="data")
    place(archive, monkeypatch)
    return content


def place(archive: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known = f"md5:{hashlib.md5(archive.read_bytes(), usedforsecurity=False).hexdigest()}"
    monkeypatch.setenv(FOLDER_VARIABLE, str(archive.parent))
    monkeypatch.setattr(maf_archive, "ARCHIVE", dataclasses.replace(maf_archive.ARCHIVE, known_hash=known))


def test_miniboone_is_split_by_tenths_and_scaled(written: dict[str, Any]) -> None:
    splits = maf_archive.read("miniboone")
    assert [len(part) for part in splits] == [324, 36, 40]
    seen = written["miniboone"][:360]
    expected = (written["miniboone"][360:] - seen.mean(0)) / seen.std(0)
    np.testing.assert_allclose(splits.test, expected, rtol=1e-12)


def test_power_loses_two_columns_and_gains_noise(written: dict[str, Any]) -> None:
    splits = maf_archive.read("power")
    assert splits.train.shape == (324, 6)
    shuffled = written["power"].copy()
    np.random.RandomState(42).shuffle(shuffled)
    kept = shuffled[:, [0, 2, 4, 5, 6, 7]]
    found = np.concatenate(splits)
    seen = found[:360]
    np.testing.assert_allclose(seen.mean(0), 0.0, atol=1e-12)
    np.testing.assert_allclose(seen.std(0), 1.0, rtol=1e-12)
    correlation = [np.corrcoef(found[:, i], kept[:, i])[0, 1] for i in range(6)]
    assert min(correlation) > 0.9
    assert correlation[5] == pytest.approx(1.0, abs=1e-12)


def test_gas_loses_what_another_sensor_tells(written: dict[str, Any]) -> None:
    splits = maf_archive.read("gas")
    assert splits.train.shape[1] == 8
    every = written["gas"].drop(columns=["Time", "Meth", "Eth", "s1"])
    expected = ((every - every.mean()) / every.std()).to_numpy()
    np.testing.assert_allclose(np.concatenate(splits), expected, rtol=1e-12)


def test_hepmass_keeps_the_signal_and_drops_discrete_features(written: dict[str, Any]) -> None:
    splits = maf_archive.read("hepmass")
    signal = written["hepmass"][written["hepmass"]["# label"] == 1].drop(columns=["# label", "f2"]).to_numpy()
    assert [part.shape for part in splits] == [(180, 5), (20, 5), (200, 5)]
    expected = (signal - signal.mean(0)) / signal.std(0)
    np.testing.assert_allclose(np.concatenate(splits[:2]), expected, rtol=1e-10)
    np.testing.assert_allclose(splits.test, expected, rtol=1e-10)


def test_bsds300_is_taken_as_it_is(written: dict[str, Any]) -> None:
    for found, expected in zip(maf_archive.read("bsds300"), written["bsds300"].values(), strict=True):
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("task", [Miniboone(), Gas(), Power(), Hepmass(), Bsds300()], ids=lambda t: t.info.name)
def test_every_table_builds_and_trains_a_step(task: Maf, written: dict[str, Any]) -> None:
    problem = task.build("tiny", 0, CPU, torch.float32)
    loose = partial(odeint, rtol=1e-3, atol=1e-3)
    loss = problem.loss(loose, problem.probe_batch())
    loss.backward()  # type: ignore[no-untyped-call]
    assert bool(loss.isfinite())
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in problem.model.parameters())


def test_bsds300_without_its_reader_says_what_to_install(
    written: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    del written
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(DataError, match=r'pip install "odegrad\[data\]"'):
        maf_archive.read("bsds300")


def test_an_archive_without_the_table_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = tmp_path / maf_archive.ARCHIVE.name
    with tarfile.open(archive, "w:gz") as tar:
        tar.addfile(tarfile.TarInfo("data/readme"), io.BytesIO(b""))
    place(archive, monkeypatch)
    with pytest.raises(DataError, match=r"expected the file data/miniboone/data.npy in it"):
        maf_archive.read("miniboone")


def test_no_archive_and_no_network_is_an_error_that_helps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path))
    nowhere = dataclasses.replace(maf_archive.ARCHIVE, url="http://127.0.0.1:9/data.tar.gz")
    monkeypatch.setattr(maf_archive, "ARCHIVE", nowhere)
    with pytest.raises(DataError, match=r"maf_data.tar.gz: not in .* place the file \(817 MB, md5:9b9c9b0"):
        Miniboone().build("tiny", 0, CPU, torch.float32)


def test_flows_in_a_row_have_the_dense_determinant(written: dict[str, Any]) -> None:
    """The log-density of a row is that of its image, plus the log-determinant of the whole map's Jacobian."""
    del written
    problem: Any = Gas().build("tiny", 0, CPU, torch.float64)
    rows, probes = problem.train[:3], torch.empty(5, 0, 0)

    def image(row: torch.Tensor) -> torch.Tensor:
        z = row[None]
        for flow in problem.flows:
            z = solve(flow, (z, z.new_zeros(1)), problem.ts)[0][-1]
        return z[0]

    for row in rows[:1]:
        jacobian = torch.autograd.functional.jacobian(image, row)
        normal = -0.5 * image(row).square().sum() - 0.5 * len(row) * np.log(2 * np.pi)
        expected = normal + torch.linalg.slogdet(jacobian)[1]
        found = problem._log_density(solve, row[None], probes)[0]
        assert found.item() == pytest.approx(expected.item(), abs=1e-5)


def test_hutchinsons_loss_is_the_exact_one_on_average() -> None:
    """Over many probes, within its standard error."""
    problem: Any = WineDensity().build("tiny", 0, CPU, torch.float64)
    rows = problem.train[:20]
    loose = partial(odeint, rtol=1e-4, atol=1e-4)
    exact = -problem._log_density(loose, rows, torch.empty(1, 0, 0)).mean().item()
    source = torch.Generator().manual_seed(0)
    with torch.no_grad():
        found = [problem.loss(loose, problem._with_probes(rows, source)).item() for _ in range(60)]
    assert abs(np.mean(found) - exact) <= 4 * np.std(found) / np.sqrt(len(found))
    assert np.std(found) > 0
