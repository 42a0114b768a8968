"""The UEA series from files in their own format, and the ODE-RNN: padding, gaps, and its two halves by themselves."""

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from odegrad.binding import solve_with
from odegrad.datasets.nets.layers import GRUCell
from odegrad.datasets.nets.ode_rnn import ODERNN
from odegrad.datasets.sources import uea_archive
from odegrad.datasets.sources.files import FOLDER_VARIABLE
from odegrad.datasets.sources.seeding import generator
from odegrad.datasets.sources.uea_archive import Series
from odegrad.datasets.tasks.series import BasicMotions, CharacterTrajectories, JapaneseVowels, SpokenArabicDigits
from odegrad.errors import DataError
from odegrad.methods.gradients.naive import Naive
from odegrad.methods.solvers.solver import make_solver
from odegrad.registry import build_gradient

CPU = torch.device("cpu")
HEAD = "@problemName SpokenArabicDigits\n@timeStamps false\n@missing true\n@univariate false\n@equalLength false\n"


def solve(field: Any, y0: Any, ts: Any) -> Any:
    """Take fixed steps, in which no sample depends on another."""
    return Naive()(field, make_solver("rk4", num_steps=2), y0, ts)


def net(channels: int = 2, hidden: int = 4, classes: int = 3) -> ODERNN:
    torch.manual_seed(0)
    return ODERNN(channels, hidden, classes).double()


def series(count: int = 5, length: int = 7) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return values, which are seen, and lengths."""
    values = torch.randn(count, length, 2, dtype=torch.float64, generator=generator(1))
    lengths = torch.tensor([7, 3, 5, 1, 6])[:count]
    seen = torch.arange(length)[None, :] < lengths[:, None]
    return values * seen[..., None], seen, lengths


TIMES = torch.arange(7, dtype=torch.float64) * 0.1


def test_cell_is_pytorchs_with_the_same_weights() -> None:
    torch.manual_seed(1)
    mine, theirs = GRUCell(3, 5), nn.GRUCell(3, 5)
    with torch.no_grad():
        mine.of_input.weight.copy_(theirs.weight_ih)
        mine.of_input.bias.copy_(theirs.bias_ih)
        mine.of_state.weight.copy_(theirs.weight_hh)
        mine.of_state.bias.copy_(theirs.bias_hh)
    x, h = torch.randn(4, 3), torch.randn(4, 5)
    torch.testing.assert_close(mine(x, h), theirs(x, h))


def test_padding_is_never_seen() -> None:
    """A padded batch gives each series the scores that it gets alone, whatever stands in the padding."""
    model = net()
    values, seen, lengths = series()
    batch = model(solve, values, seen, TIMES)
    junk = torch.where(seen[..., None], values, torch.full_like(values, 1e3))
    torch.testing.assert_close(model(solve, junk, seen, TIMES), batch, rtol=1e-13, atol=1e-13)
    for i, n in enumerate(lengths.tolist()):
        alone = model(solve, values[i : i + 1, :n], seen[i : i + 1, :n], TIMES[:n])
        torch.testing.assert_close(alone[0], batch[i], rtol=1e-12, atol=1e-13)


def test_a_gap_is_one_long_solve() -> None:
    """An observation that is missing leaves the state to the ODE."""
    model = net()
    values, seen, _ = series(1)
    gap = seen.clone()
    gap[0, 2:5] = False
    found = model(solve, values, gap, TIMES)
    h = model.start(values, gap)
    h = model.cell(values[:, 1], solve(model.field, h, TIMES[:2])[-1])
    for k in range(2, 5):
        h = solve(model.field, h, TIMES[k - 1 : k + 1])[-1]
    h = model.cell(values[:, 5], solve(model.field, h, TIMES[4:6])[-1])
    h = model.cell(values[:, 6], solve(model.field, h, TIMES[5:7])[-1])
    torch.testing.assert_close(found, model.head(h), rtol=1e-12, atol=1e-13)


def test_a_stride_keeps_every_so_many_observations() -> None:
    """From the first on: times 0, 3 and 6 of a series of seven, and of one of five only 0 and 3."""
    values, seen, _ = series()
    kept = Series(values, seen, torch.zeros(5)).strided(3)
    torch.testing.assert_close(kept.values, values[:, [0, 3, 6]])
    assert kept.seen.sum(1).tolist() == [3, 1, 2, 1, 2]
    problem: Any = BasicMotions().build("tiny", 0, CPU, torch.float64)
    full: Any = BasicMotions().build("default", 0, CPU, torch.float64)
    assert len(problem.ts) == 25
    assert len(full.ts) == 100


def test_without_dynamics_it_is_a_gru() -> None:
    model = net()
    with torch.no_grad():
        for parameter in model.field.parameters():
            parameter.zero_()
    values, seen, _ = series(1)
    h = torch.zeros(1, 4, dtype=torch.float64)
    for k in range(7):
        h = model.cell(values[:, k], h)
    torch.testing.assert_close(model(solve, values, seen, TIMES), model.head(h), rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize(
    ("name", "counts", "channels", "lengths", "classes"),
    [("JapaneseVowels", (270, 370), 12, (7, 29), 9), ("BasicMotions", (40, 40), 6, (100, 100), 4)],
)
def test_bundled_sets_are_those_of_the_archive(
    name: str, counts: tuple[int, int], channels: int, lengths: tuple[int, int], classes: int
) -> None:
    train, test = uea_archive.read(name)
    assert (len(train.labels), len(test.labels)) == counts
    assert train.values.shape[1:] == test.values.shape[1:] == (lengths[1], channels)
    every = torch.cat([train.seen.sum(1), test.seen.sum(1)])
    assert (int(every.min()), int(every.max())) == lengths
    assert sorted(set(train.labels.tolist())) == sorted(set(test.labels.tolist())) == list(range(classes))


def written(folder: Path, train: str, name: str = "SpokenArabicDigits") -> None:
    place = folder / "uea" / name
    place.mkdir(parents=True)
    for split in ("TRAIN", "TEST"):
        (place / f"{name}_{split}.ts").write_text(train, encoding="utf-8")


def test_files_placed_by_hand_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Unlike lengths, and an observation that is missing."""
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path))
    rows = ["1,2,3:4,5,6:zero", "7,?:9,10:one", "1.5,2.5,3.5:1,1,1:zero"]
    written(tmp_path, HEAD + "@classLabel true zero one\n@data\n" + "\n".join(rows) + "\n")
    train, _ = uea_archive.read("SpokenArabicDigits")
    assert train.labels.tolist() == [0, 1, 0] or train.labels.tolist() == [1, 0, 1]
    assert train.seen.tolist() == [[True] * 3, [True, False, False], [True] * 3]
    assert train.values[0].tolist() == [[1.0, 4.0], [2.0, 5.0], [3.0, 6.0]]
    assert train.values[1].tolist() == [[7.0, 9.0], [0.0, 0.0], [0.0, 0.0]]


def test_a_file_that_cannot_be_read_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path))
    written(tmp_path, "this is no such file\n")
    with pytest.raises(DataError, match=r"SpokenArabicDigits_TRAIN.ts: expected a file of sktime's .ts format"):
        uea_archive.read("SpokenArabicDigits")


def test_no_network_says_where_to_place_the_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No name is resolved."""

    def refuse(*_: Any, **__: Any) -> None:
        raise OSError("no network")

    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path))
    monkeypatch.setattr("socket.socket.connect", refuse)
    monkeypatch.setattr("socket.getaddrinfo", refuse)
    with pytest.raises(DataError, match=r"SpokenArabicDigits: not in .* and not fetched from .* list tasks says"):
        SpokenArabicDigits().build("tiny", 0, CPU, torch.float32)


def test_without_sktime_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sktime.datasets", None)
    with pytest.raises(DataError, match=r'pip install "odegrad\[data\]"'):
        JapaneseVowels().build("tiny", 0, CPU, torch.float32)


def test_thinning_drops_at_its_rate_and_never_the_first() -> None:
    values, seen = torch.ones(400, 50, 2, dtype=torch.float64), torch.ones(400, 50, dtype=torch.bool)
    thin = Series(values, seen, torch.zeros(400, dtype=torch.int64)).thinned(0.3, generator(0))
    assert bool(thin.seen[:, 0].all())
    share = float(thin.seen[:, 1:].double().mean())
    assert abs(share - 0.7) <= 4 * (0.3 * 0.7 / (400 * 49)) ** 0.5
    assert torch.equal(thin.values, values * thin.seen[..., None])


def test_channels_are_scaled_by_what_is_seen() -> None:
    train: Any = JapaneseVowels().build("tiny", 0, CPU, torch.float64).train  # type: ignore[attr-defined]
    known = train.values[train.seen]
    torch.testing.assert_close(known.mean(0), torch.zeros(12, dtype=torch.float64), rtol=0, atol=1e-12)
    torch.testing.assert_close(known.std(0), torch.ones(12, dtype=torch.float64))
    assert not bool(train.values[~train.seen].any())


def test_splits_share_no_series() -> None:
    problem: Any = BasicMotions().build("tiny", 0, CPU, torch.float64)
    parts = [problem.train, *problem.held_out.values()]
    keys = [{tuple(x.reshape(-1)[:12].tolist()) for x in part.values} for part in parts]
    assert [len(key) for key in keys] == [32, 8, 40]
    assert not keys[0] & keys[1]
    assert not keys[0] & keys[2]


def test_irregular_sampling_is_the_same_for_all_seeds() -> None:
    first, second = (JapaneseVowels().build("irregular", seed, CPU, torch.float32) for seed in (0, 1))
    assert torch.equal(first.train.seen, second.train.seen)  # type: ignore[attr-defined]
    dense: Any = JapaneseVowels().build("default", 0, CPU, torch.float32)
    share = first.train.seen.sum() / dense.train.seen.sum()  # type: ignore[attr-defined]
    assert 0.65 < float(share) < 0.8


def test_own_times_are_those_of_the_observations() -> None:
    """Observations side by side; the last time is repeated behind them."""
    values = torch.arange(1.0, 9.0).view(2, 4, 1)
    seen = torch.tensor([[True, False, True, True], [True, True, False, False]])
    found, ts = Series(values * seen[..., None], seen, torch.zeros(2)).at_own_times(0.5)
    assert found[..., 0].tolist() == [[1.0, 3.0, 4.0], [5.0, 6.0, 0.0]]
    assert ts.tolist() == [[0.0, 1.0, 1.5], [0.0, 0.5, 0.5]]


@pytest.mark.parametrize("batch", ["joint", "per_sample"])
def test_ragged_series_have_the_scores_of_one_grid_for_all(batch: str) -> None:
    """Solved from observation to observation of its own, a series ends where it ends with masks on shared times."""
    model = net()
    values, seen, _ = series()
    kept = torch.rand(seen.shape, generator=generator(5)) < 0.6
    kept[:, 0] = True
    thin = Series(values * (seen & kept)[..., None], seen & kept, torch.zeros(5))
    tight = solve_with(build_gradient("aca"), make_solver("dopri8", rtol=1e-11, atol=1e-12, batch=batch))
    own, ts = thin.at_own_times(0.1)
    found = model.at_own_times(tight, own, ts)
    expected = model(tight, thin.values, thin.seen, TIMES)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-10)
    parameters = list(model.parameters())
    for a, b in zip(*(torch.autograd.grad(x.square().sum(), parameters) for x in (found, expected)), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-9)


def test_rows_leave_at_their_ends() -> None:
    """Series of 7, 6, 5, 3 and 1 observations: the k-th solve holds those with more than k."""
    values, seen, _ = series()
    own, ts = Series(values, seen, torch.zeros(5)).at_own_times(0.1)
    widths: list[int] = []

    def counted(field: Any, y0: Any, times: Any) -> Any:
        widths.append(len(y0))
        assert bool((times[:, 1] > times[:, 0]).all())
        return solve_with(Naive(), make_solver("rk4", num_steps=2))(field, y0, times)

    net().at_own_times(counted, own, ts)
    assert widths == [4, 4, 3, 3, 2, 1]


CHARACTERS = "@problemName CharacterTrajectories\n@timeStamps false\n@missing false\n@univariate false\n"


def test_ragged_characters_work_offline_from_small_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Twelve letters of 4 to 15 observations in the archive's own format: the loss falls, own steps or shared ones."""
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path))
    source = generator(3)
    rows = []
    for i in range(12):
        pen = torch.randn(3, 4 + i, generator=source) + 2.0 * (i % 2)
        rows.append(":".join(",".join(f"{x:.4f}" for x in channel) for channel in pen.tolist()) + f":{1 + i % 2}")
    text = CHARACTERS + "@equalLength false\n@classLabel true 1 2\n@data\n" + "\n".join(rows) + "\n"
    written(tmp_path, text, "CharacterTrajectories")
    problem: Any = CharacterTrajectories().build("ragged", 0, CPU, torch.float32)
    values, ts, labels = problem.batch(0)
    assert values.shape[2] == 3
    assert ts.shape == values.shape[:2]
    assert len({len(set(row)) for row in ts.tolist()}) > 3
    assert sorted(labels.unique().tolist()) == [0, 1]
    solves = [
        solve_with(build_gradient("aca"), make_solver("dopri5", rtol=1e-3, atol=1e-3, batch=batch))
        for batch in ("per_sample", "joint")
    ]
    first = [float(problem.loss(solve, problem.batch(0)).detach()) for solve in solves]
    assert first[0] == pytest.approx(first[1], abs=1e-3)
    optimizer = torch.optim.Adam(problem.model.parameters(), lr=2e-2)
    for i in range(4):
        optimizer.zero_grad()
        problem.loss(solves[0], problem.batch(i)).backward()
        optimizer.step()
    assert float(problem.loss(solves[0], problem.batch(0)).detach()) < first[0]
    assert 0.0 <= problem.evaluate(solves[1]) <= 1.0
    field, state, times = problem.dynamics(problem.probe_batch())
    assert len(state) == len(times)
    assert times.shape[1] == 2
    assert field is problem.fields[0]
