"""Measure what logarithmic norms cost: run it anywhere, it prints processor seconds and products on one core.

Dense: a density flow's velocity on 43 numbers (concat-squash 43-860-860-43, softplus), 256 samples, 20 times.
Matrix-free: an image field (group norm, ReLU, convolution, twice) on 64 x 6 x 6 numbers, 128 samples, 10 times along
its flow, at 1e-3, with its weights as drawn and scaled up.
"""

import sys
import time
from typing import Any

import torch
from torch import Tensor, nn

from odegrad.datasets.nets.layers import ConcatConv2d, ConcatSquashNet
from odegrad.diagnosis.jacobian import jacobian_products
from odegrad.diagnosis.lanczos import extreme_eigenvalues
from odegrad.diagnosis.trajectory import log_norms, max_log_norm

TOLERANCE = 1e-3
WANTED: dict[str, dict[str, Any]] = {
    "the batch's mu_2(J)": {"smallest": False, "all_samples": False},
    "mu_2(J) of every sample": {"smallest": False},
    "mu_2(J) and mu_2(-J) of every sample": {},
}


class ImageField(nn.Module):
    """GroupNorm-ReLU-conv-GroupNorm-ReLU-conv-GroupNorm on 64 channels; convolutions see the time."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.GroupNorm(32, 64) for _ in range(3))
        self.convolutions = nn.ModuleList(ConcatConv2d(64, 64) for _ in range(2))
        with torch.no_grad():
            for p in [*self.convolutions.parameters(), *self.norms[2].parameters()]:
                p.mul_(scale)

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        """Return ``dy/dt [batch, 64, 6, 6]``."""
        for norm, convolution in zip(self.norms, self.convolutions, strict=False):
            y = convolution(t, torch.relu(norm(y)))
        out: Tensor = self.norms[2](y)
        return out


def euler(field: nn.Module, y: Tensor, ts: Tensor) -> Tensor:
    """Return states ``[K, *y.shape]`` along the flow, by Euler steps: near enough for a cost."""
    ys = [y]
    with torch.no_grad():
        for t, h in zip(ts, ts.diff(), strict=False):
            ys.append(ys[-1] + h * field(t, ys[-1]))
    return torch.stack(ys)


def dense() -> None:
    """Time 20 dense evaluations in each precision."""
    for dtype in (torch.float32, torch.float64):
        torch.manual_seed(0)
        field = ConcatSquashNet(43, (860, 860), nn.functional.softplus).to(dtype)
        ts = torch.linspace(0, 1, 20, dtype=dtype)
        ys = euler(field, torch.randn(256, 43, dtype=dtype), ts)
        for what in (max_log_norm, log_norms):
            start = time.process_time()
            what(field, ts, ys)
            print(f"dense, {dtype}: {what.__name__} of 20 times took {time.process_time() - start:.1f} s", flush=True)


def matrix_free(scale: float, *, check: bool) -> None:
    """Count products and time them at 10 times; with ``check``, against the same at 1e-7."""
    torch.manual_seed(0)
    field, ts = ImageField(scale), torch.linspace(0, 1, 10)
    ys = euler(field, torch.randn(128, 64, 6, 6), ts)
    for what, wanted in WANTED.items():
        counts, seconds, worst, before = [], 0.0, 0.0, None
        for t, y in zip(ts, ys, strict=True):
            with jacobian_products(field, t, y) as p:
                shape, clock = (p.shape[0], p.shape[1]), time.process_time()
                found = extreme_eigenvalues(p.symmetric, shape, tolerance=TOLERANCE, start=before, **wanted)
                seconds += time.process_time() - clock
                if check:
                    exact = extreme_eigenvalues(p.symmetric, shape, tolerance=1e-7)
                    off = ((found.largest - exact.largest) / exact.largest).abs()
                    off_batch = abs(float(found.largest.max() / exact.largest.max()) - 1)
                    worst = max(worst, float(off.max()) if wanted.get("all_samples", True) else off_batch)
            before = found.start
            counts.append(found.products)
        told = f", largest relative error {worst:.1e}" if check else ""
        mean = sum(counts) / len(counts)
        print(
            f"matrix-free, scale {scale:g}: {what}: pairs at each time {counts}, mean {mean:.1f}; {seconds:.1f} s{told}"
        )
        sys.stdout.flush()


if __name__ == "__main__":
    torch.set_num_threads(1)
    dense()
    for factor in (1.0, 3.0):
        matrix_free(factor, check="--check" in sys.argv)
