"""Fields of which logarithmic norms would say something false are refused, each with its reason."""

import pytest
import torch
from torch import Tensor, nn

from odegrad.diagnosis.costates import BatchedField
from odegrad.diagnosis.field_checks import check_field
from odegrad.errors import UsageError
from odegrad.registry import build_task

T = torch.zeros((), dtype=torch.float64)
Y = torch.tensor([[1.0, 0.5], [-0.3, 0.8], [0.1, 2.0]], dtype=torch.float64)


def checked(field: nn.Module, y: Tensor = Y) -> None:
    check_field(BatchedField(field.double(), y), T, y.reshape(len(y), -1))


class Base(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 2)
        self.norm = nn.BatchNorm1d(2)


class Plain(Base):
    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        return torch.tanh(self.layer(y))


class Kink(Base):
    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        return torch.relu(self.layer(y))


class Constant(Base):
    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        return torch.ones_like(y)


class Normalised(Base):
    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        return self.norm(self.layer(y))  # type: ignore[no-any-return]


class MeanField(Base):
    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        return y.mean(0) - y


class Random(Base):
    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        return self.layer(y) + torch.randn_like(y)  # type: ignore[no-any-return]


class ByNumpy(Base):
    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        return torch.from_numpy(y.detach().numpy() * 2.0) + 0.0 * self.layer(y)  # type: ignore[no-any-return]


class Detached(Base):
    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        return self.layer(y).detach()  # type: ignore[no-any-return]


class WithoutTime(Base):
    def forward(self, y: Tensor) -> Tensor:
        return -y


@pytest.mark.parametrize("field", [Plain(), Kink(), Constant(), Normalised().eval()], ids=lambda f: type(f).__name__)
def test_honest_fields_pass_and_stay_as_they_were(field: Base) -> None:
    before = {name: x.clone() for name, x in field.double().state_dict().items()}
    rng = torch.get_rng_state()
    checked(field)
    assert all(torch.equal(x, before[name]) for name, x in field.state_dict().items())
    assert torch.equal(torch.get_rng_state(), rng)


@pytest.mark.parametrize("name", ["circles", "wine_density", "vae_digits", "japanese_vowels", "digits"])
def test_fields_of_tasks_pass(name: str) -> None:
    """Flows that call autograd inside, frozen probes, tuples, images."""
    problem = build_task(name).build("tiny", 0, torch.device("cpu"), torch.float64)
    field, y0, ts = problem.dynamics(problem.probe_batch())
    flat = torch.cat([p.reshape(len(p), -1) for p in ((y0,) if isinstance(y0, Tensor) else y0)], dim=1)
    check_field(BatchedField(field, y0), ts[0], flat)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("field", "message"),
    [
        (Normalised().train(), r"y0: expected samples .* that do not depend on each other"),
        (MeanField(), r"y0: expected samples .* passed as y0\[None\]"),
        (Random(), r"func: expected one value at one time and state, got two"),
        (ByNumpy(), r"func: autograd's derivative \(0\) is not that of its values .* numpy"),
        (Detached(), r"func: autograd's derivative \(0\) is not that of its values"),
        (WithoutTime(), r"func: TypeError when called as func\(t, y\)"),
    ],
    ids=lambda v: type(v).__name__ if isinstance(v, nn.Module) else None,
)
def test_a_field_that_would_mislead_is_refused(field: nn.Module, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        checked(field)


def test_a_state_without_a_batch_is_refused() -> None:
    """Two numbers that are one sample look like two samples that drive each other."""

    class Matrix(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Parameter(torch.tensor([[-3.0, 1.0], [0.0, -5.0]]))

        def forward(self, t: Tensor, y: Tensor) -> Tensor:
            return self.a @ y

    with pytest.raises(UsageError, match=r"a state without a batch dimension is passed as y0\[None\]"):
        checked(Matrix(), torch.tensor([1.0, 2.0], dtype=torch.float64))
