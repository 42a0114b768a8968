"""A task small enough to know everything about: y' = theta y on a fixed batch, squared error at t = 1."""

import dataclasses

import torch
from torch import nn

from odegrad.contracts import TaskInfo, Training

TRAINING = Training(iterations=20, optimizers={"sgd": {"lr": 0.01}}, default_optimizer="sgd")


class Growth(nn.Module):
    def __init__(self, device, dtype):
        super().__init__()
        self.theta = nn.Parameter(torch.tensor(0.5, dtype=torch.float64).to(device, dtype))

    def forward(self, t, y):
        return self.theta * y


class Problem:
    def __init__(self, seed, device, dtype):
        self.model = Growth(device, dtype)
        self.fields = (self.model,)
        self.training = TRAINING
        self.y0 = torch.linspace(0.5, 1.5, 4, dtype=torch.float64).to(device, dtype)[:, None] + 0.01 * seed
        self.ts = torch.tensor([0.0, 1.0], dtype=dtype, device=device)

    def batch(self, iteration):
        return self.y0

    def probe_batch(self):
        return self.y0

    def loss(self, solve, batch):
        return (solve(self.model, batch, self.ts)[-1] ** 2).mean()

    def evaluate(self, solve, split="test"):
        with torch.no_grad():
            return float(self.loss(solve, self.y0))

    def dynamics(self, batch):
        return self.model, batch, self.ts


class Tiny:
    info = TaskInfo(
        name="tiny_growth",
        kind="closed form",
        summary="y' = theta y",
        metric_name="mse",
        higher_is_better=False,
        target={"tiny": 3.0},
        offline=True,
        citation="none",
        licence="none",
        sizes=("tiny",),
    )

    def training(self, size):
        return TRAINING

    def build(self, size, seed, device, dtype):
        return Problem(seed, device, dtype)


class Telling(Tiny):
    """The same, which tells its loss on held-out data: for validation half of the points' own."""

    def build(self, size, seed, device, dtype):
        problem = super().build(size, seed, device, dtype)
        shares = {"validation": 0.5, "test": 1.0}
        problem.held_out_loss = lambda solve, split: shares[split] * problem.evaluate(solve)
        return problem


class Exploding(Tiny):
    """The same, climbing the loss with large steps."""

    def build(self, size, seed, device, dtype):
        problem = super().build(size, seed, device, dtype)
        problem.training = Training(20, {"sgd": {"lr": 1e3, "maximize": True}}, default_optimizer="sgd")
        return problem


class Scheduled(Tiny):
    """The same with a tenth of the learning rate from iteration 2 on, and a hundredth from iteration 4 on."""

    def build(self, size, seed, device, dtype):
        problem = super().build(size, seed, device, dtype)
        problem.training = dataclasses.replace(TRAINING, schedule={4: 0.01, 2: 0.1})
        return problem


class Samples:
    """A tap of three sample times with one f call and one product each."""

    def sample_times(self, t0, t1):
        return [t0, (t0 + t1) / 2, t1]

    def observe(self, field, t, y, a, weight):
        with torch.enable_grad():
            dy = field(torch.tensor(t, dtype=y.dtype, device=y.device), y.requires_grad_())
        torch.autograd.grad(dy, y, a)


class Curious(torch.optim.SGD):
    """Gradient descent that asks for curvature samples on every second iteration, and learns nothing from them."""

    asked = 0

    def next_tap(self):
        self.asked += 1
        return Samples() if self.asked % 2 else None


def curious(problem, lr=0.01):
    return Curious(problem.model.parameters(), lr=lr)
