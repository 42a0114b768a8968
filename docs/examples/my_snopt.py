"""SNOpt on a model of one's own: two classes of points in the plane, a linear stem, an ODE, a linear read-out."""

import torch
from torch import nn

from odegrad import SNOpt, odeint


class Field(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(8, 32), nn.Tanh(), nn.Linear(32, 8))

    def forward(self, t, y):
        return self.net(y)


torch.manual_seed(0)
x = torch.randn(256, 2)
labels = (x.norm(dim=1) < 1.0).long()
model = nn.ModuleDict({"stem": nn.Linear(2, 8), "field": Field(), "head": nn.Linear(8, 2)})
t = torch.tensor([0.0, 1.0])

optimizer = SNOpt(model, model["field"], lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9), full_precond=True)
for iteration in range(60):
    tap = optimizer.next_tap()  # watches the backward pass when the curvature is due for a refresh, otherwise None
    optimizer.zero_grad()
    ys = odeint(model["field"], model["stem"](x), t, rtol=1e-4, atol=1e-4, gradient="adjoint", tap=tap)
    loss = nn.functional.cross_entropy(model["head"](ys[-1]), labels)
    loss.backward()
    optimizer.step()
    if iteration % 20 == 0:
        print(f"iteration {iteration}: loss {loss.item():.3f}")
print(f"loss {loss.item():.3f}")
