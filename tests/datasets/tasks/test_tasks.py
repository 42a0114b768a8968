"""Every offline task passes every check of a task, and each check finds the fault that it is for."""

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from odegrad.binding import solve_with
from odegrad.checks.conformance import check, is_task, run_check
from odegrad.checks.task_builds import tensors
from odegrad.checks.tasks import TASK_CHECKS
from odegrad.contracts import HeldOutLoss, TaskInfo, Training
from odegrad.datasets.sources import mat_images
from odegrad.errors import DataError, UnknownNameError, UsageError
from odegrad.registry import build_gradient, build_solver, build_task, tasks

OFFLINE = [name for name in tasks.names() if tasks.get(name).info.offline]
WITHOUT_LAYERS = {
    "logistic", "rotation", "equilibrium", "quiet_start", "prothero_robinson", "robertson_raw", "pollu",
    "van_der_pol_spread", "bouncing_ball", "integrate_and_fire", "dosing", "cifar10_resnet4",
}  # fmt: skip
"""Tasks whose field has no layer that SNOpt could precondition."""


@pytest.mark.parametrize("each", TASK_CHECKS, ids=lambda c: c.__name__)
@pytest.mark.parametrize("name", OFFLINE)
def test_task_passes_check(name: str, each: Callable[..., Any]) -> None:
    results = list(run_check(each, build_task(name)))
    assert results
    assert not [r for r in results if not r.passed]


@pytest.mark.parametrize("name", tasks.names())
def test_every_task_states_optimizers_sizes_and_targets(name: str) -> None:
    task = build_task(name)
    assert {"tiny", "default", "paper"} <= set(task.info.sizes)
    if task.info.offline:
        assert set(task.info.target) == set(task.info.sizes)
    for size in task.info.sizes:
        optimizers = task.training(size).optimizers
        assert {"adam", "sgd"} <= set(optimizers)
        assert ("snopt" in optimizers) is not (name in WITHOUT_LAYERS or (name, size) == ("van_der_pol", "stiff"))


def test_a_task_describes_itself() -> None:
    """Every line that a reader needs, and the citation and licence among them."""
    info = build_task("circles").info
    lines = info.describe().splitlines()
    assert lines[0].startswith("circles: two concentric rings")
    assert lines[1] == "kind: density; sizes: tiny, default, paper; works offline"
    assert lines[2].startswith("metric: nll, lower is better; target: 3.78 at tiny, 3.4 at default")
    assert lines[2].endswith("no model can expect better than 3.264")
    assert lines[3:] == [f"source: {info.citation}", f"licence: {info.licence}"]
    assert "fetched once" in build_task("mnist").info.describe()


def test_unknown_size_names_the_known_ones() -> None:
    with pytest.raises(UnknownNameError, match=r"unknown size of task 'digits': 'tinny': did you mean 'tiny'|tiny"):
        build_task("digits").training("tinny")
    with pytest.raises(UsageError, match=r"known are default, irregular, paper, ragged, tiny"):
        build_task("japanese_vowels").training("huge")


@pytest.mark.parametrize("name", ["digits", "circles", "wine_density", "vae_digits", "japanese_vowels"])
def test_held_out_loss_is_the_loss_of_the_held_out_batch(name: str) -> None:
    """Against the training's own loss of the same data, and the metric where the loss is one."""
    built = build_task(name).build("tiny", 0, torch.device("cpu"), torch.float64)
    assert isinstance(built, HeldOutLoss)
    problem: Any = built
    solve = solve_with(build_gradient("naive"), build_solver("rk4", 1e-3, 1e-3, {"num_steps": 2}))
    if name == "digits":
        batch = problem.data.validation
    elif name == "wine_density":
        rows = problem.held_out["validation"]
        batch = rows, rows.new_empty((len(problem.flows), 0, 0))
    elif name == "japanese_vowels":
        series = problem.held_out["validation"]
        batch = series.values, series.seen, series.labels
    else:
        batch = problem.held_out["validation"]
    found = problem.held_out_loss(solve, "validation")
    assert found == pytest.approx(problem.loss(solve, batch).item(), rel=1e-12)
    assert problem.held_out_loss(solve, "test") != found
    if build_task(name).info.metric_name != "accuracy":
        assert found == problem.evaluate(solve, "validation")


class Field(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 2)

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        out: Tensor = torch.tanh(self.layer(y))
        return out


class Honest:
    """A problem with nothing wrong: a field that carries random points to others."""

    seeded = True

    def __init__(self, training: Training, seed: int, dtype: torch.dtype) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.model: Any = Field().to(dtype)
        self.fields: Any = (self.model,)
        self.training, self.seed = training, seed
        self.ts = torch.tensor([0.0, 1.0], dtype=dtype)

    def points(self, count: int, stream: int) -> Tensor:
        source = torch.Generator().manual_seed(1_000 * self.seed + stream)
        return torch.randn(count, 2, dtype=torch.float64, generator=source).to(self.ts)

    def batch(self, iteration: int) -> Any:
        return {"points": self.points(32, iteration)}

    def probe_batch(self) -> Any:
        return {"points": self.points(8, 900)}

    def loss(self, solve: Any, batch: Any) -> Tensor:
        loss: Tensor = (solve(self.model, batch["points"], self.ts)[-1] - 2.0).square().mean()
        return loss

    def evaluate(self, solve: Any, split: str = "test") -> Any:
        with torch.no_grad():
            return float(self.loss(solve, {"points": self.points(64, 901 + (split == "test"))}))

    def dynamics(self, batch: Any) -> Any:
        return self.model, batch["points"], self.ts


class HonestTask:
    info = TaskInfo(
        name="honest", kind="time series", summary="points", metric_name="mse", higher_is_better=False,
        target={"tiny": 1.0}, offline=True, citation="none", licence="none", sizes=("tiny",),
    )  # fmt: skip
    problem: type[Honest] = Honest

    def training(self, size: str) -> Training:
        if size != "tiny":
            raise UnknownNameError("size", size, ["tiny"])
        return Training(20, {"adam": {"lr": 0.05}})

    def build(self, size: str, seed: int, device: torch.device, dtype: torch.dtype) -> Any:
        return self.problem(self.training(size), seed, dtype)


class WrongKind(HonestTask):
    info = dataclasses.replace(HonestTask.info, kind="toy")  # type: ignore[arg-type]


class TargetOfNoSize(HonestTask):
    info = dataclasses.replace(HonestTask.info, target={"huge": 1.0})


class AnySize(HonestTask):
    def training(self, size: str) -> Training:
        return Training(20, {"adam": {"lr": 0.05}})


def faulty(problem: type[Honest]) -> type[HonestTask]:
    """Return the task of a problem with a fault."""
    return type(problem.__name__, (HonestTask,), {"problem": problem})


class ReadsGlobalNumbers(Honest):
    def points(self, count: int, stream: int) -> Tensor:
        return torch.randn(count, 2).to(self.ts)


class OneBatch(Honest):
    def batch(self, iteration: int) -> Any:
        return {"points": self.points(32, 0)}


class OneSeed(Honest):
    def __init__(self, training: Training, seed: int, dtype: torch.dtype) -> None:
        super().__init__(training, 0, dtype)


class LargeProbe(Honest):
    def probe_batch(self) -> Any:
        return {"points": self.points(100, 900)}


class AttachedState(Honest):
    def dynamics(self, batch: Any) -> Any:
        return self.model, batch["points"] * self.model.layer.weight.sum(), self.ts


class ForeignField(Honest):
    def dynamics(self, batch: Any) -> Any:
        return Field(), batch["points"], self.ts


class IdleParameter(Honest):
    def __init__(self, training: Training, seed: int, dtype: torch.dtype) -> None:
        super().__init__(training, seed, dtype)
        self.model.spare = nn.Linear(2, 2, dtype=dtype)


class SharesWithTheLoss(Honest):
    """The field is handed a matrix that depends on a parameter: a backward solve cannot know."""

    def loss(self, solve: Any, batch: Any) -> Tensor:
        turned = self.model.layer.weight @ self.model.layer.weight

        class Hiding(nn.Module):
            def forward(self, t: Tensor, y: Tensor) -> Tensor:
                out: Tensor = y @ turned
                return out

        loss: Tensor = (solve(Hiding(), batch["points"], self.ts)[-1] - 2.0).square().mean()
        rest: Tensor = self.model.layer.bias.square().sum()
        return loss + rest


class LearnsNothing(Honest):
    def loss(self, solve: Any, batch: Any) -> Tensor:
        return super().loss(solve, batch).mul(0.0).add(1.0)


class EvaluatesWithAGraph(Honest):
    def evaluate(self, solve: Any, split: str = "test") -> Any:
        return float(self.loss(solve, {"points": self.points(64, 901)}).detach())


class Single(Honest):
    """Computes in float32 whatever is asked for."""

    def __init__(self, training: Training, seed: int, dtype: torch.dtype) -> None:
        super().__init__(training, seed, dtype)
        if dtype == torch.float32:
            self.model.double()


FAULTS: list[tuple[type[HonestTask], str]] = [
    (WrongKind, "T1 statement"), (TargetOfNoSize, "T1 statement"), (AnySize, "T1 unknown size"),
    (faulty(ReadsGlobalNumbers), "T2 global randomness"), (faulty(OneSeed), "T2 other seed"),
    (faulty(OneBatch), "T4 batch"), (faulty(LargeProbe), "T5 probe batch"), (faulty(AttachedState), "T5 dynamics"),
    (faulty(ForeignField), "T5 dynamics"), (faulty(IdleParameter), "T6 gradient"),
    (faulty(SharesWithTheLoss), "T6 gradient"), (faulty(LearnsNothing), "T7 loss falls"),
    (faulty(EvaluatesWithAGraph), "T8 evaluation"), (faulty(Single), "T3 precision"),
]  # fmt: skip
"""(task, the check that must fail)."""


def failed(task: Any) -> set[str]:
    return {r.check for each in TASK_CHECKS for r in run_check(each, task) if not r.passed}


def test_a_task_without_fault_passes() -> None:
    assert failed(HonestTask()) == set()


@pytest.mark.parametrize(("task", "wanted"), FAULTS, ids=lambda v: v if isinstance(v, str) else v.__name__)
def test_fault_is_found(task: type[HonestTask], wanted: str) -> None:
    assert wanted in failed(task())


def test_members_are_checked_first(tmp_path: Any) -> None:
    """One result names everything that is missing, and no other check runs."""
    file = tmp_path / "mine.py"
    head = "import dataclasses\nfrom odegrad.registry import build_task\nINFO = build_task('linear').info\n"
    file.write_text(
        f"{head}class Bare:\n    info = INFO\n"
        "class Text:\n    info = dataclasses.replace(INFO, sizes='tiny')\n    def training(self, size): ...\n"
        "    def build(self, *_): ...\n"
        "class Empty:\n    info = INFO\n    def training(self, size): ...\n    def build(self, *_): return object()\n"
        "class Raises(Empty):\n    def build(self, *_): return 1 / 0\n"
    )
    found = {name: list(check(f"{file}:{name}")) for name in ("Bare", "Text", "Empty", "Raises")}
    assert {tuple(r.check for r in results) for results in found.values()} == {("T0 members",)}
    assert not any(results[0].passed for results in found.values())
    assert "training of the task; build of the task" in found["Bare"][0].detail
    assert "info.sizes: expected a tuple, got 'tiny'" in found["Text"][0].detail
    assert "probe_batch of what build returns" in found["Empty"][0].detail
    assert "build: ZeroDivisionError: division by zero" in found["Raises"][0].detail


def test_a_task_without_its_data_is_one_error(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    nowhere = dataclasses.replace(mat_images.FREY_FACES, url="http://127.0.0.1:9/a.mat")
    monkeypatch.setenv("ODEGRAD_DATA", str(tmp_path))
    monkeypatch.setattr(mat_images, "FREY_FACES", nowhere)
    with pytest.raises(DataError, match=r"frey_rawface\.mat: not in"):
        list(check("vae_frey_faces"))


def test_tensors_are_found_in_whatever_holds_them() -> None:
    @dataclasses.dataclass
    class Pair:
        a: Tensor
        b: dict[str, Any]

    x, y, z = torch.zeros(1), torch.ones(2), torch.ones(3)
    found = tensors([Pair(x, {"y": (y, 3)}), z, "text"])
    assert [id(t) for t in found] == [id(x), id(y), id(z)]


def test_methods_and_tasks_are_told_apart(tmp_path: Any) -> None:
    assert is_task("digits")
    assert not is_task("adjoint")
    assert not is_task("snopt")
    neither = tmp_path / "neither.py"
    neither.write_text("class Mine:\n    pass\n")
    with pytest.raises(UsageError, match=r"a gradient method, which has traits .* a task, which has info"):
        is_task(f"{neither}:Mine")
    with pytest.raises(UsageError, match=r"--solver rk4: expected none with a task"):
        next(check("digits", "rk4"))
