"""The curvature tap: at each sample of state and costate, one f call and one pull-back to every layer's output."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge

from odegrad.contracts import State, VectorField
from odegrad.methods.optimizers.snopt.factors import FactorSum
from odegrad.methods.optimizers.snopt.layers import Layer, cotangent_rows, input_rows

Use = tuple[str, Tensor, GradientEdge]
"""One call of a layer: its name, its input, and the place in the graph of its output."""


class CurvatureTap:
    """Adds each sample to the factors of the layers inside the field; changes nothing else.

    The cotangent of a layer's output comes from one ``torch.autograd.grad`` over all layers' outputs, so a field that
    runs autograd inside (a divergence) cannot count twice. Buffers and random states stay as they were, hooks are
    removed.

    Parameters
    ----------
    layers
        Name -> layer.
    sums
        Name -> the factors to add to.
    spacing
        Largest distance between two samples, in units of time.
    """

    def __init__(self, layers: Mapping[str, Layer], sums: Mapping[str, FactorSum], spacing: float) -> None:
        self.layers = layers
        self.sums = sums
        self.spacing = spacing

    def sample_times(self, t0: float, t1: float) -> Sequence[float]:
        """Return an even grid on ``[t0, t1]`` with both ends, at most ``spacing`` apart."""
        # Rounded up, but not by rounding errors: an interval of three spacings has three parts.
        n = max(1, -int(-(t1 - t0) * (1 - 1e-12) // self.spacing))
        return [t0 + i * (t1 - t0) / n for i in range(n)] + [t1]

    def observe(self, field: VectorField, t: float, y: State, a: State, weight: float) -> None:
        """Add the sample at time ``t``: state ``y``, costate ``a``, quadrature weight ``weight``."""
        first = y if isinstance(y, Tensor) else y[0]
        uses: list[Use] = []
        with undisturbed(field, first.device):
            with _noting(self.layers, uses), torch.enable_grad():
                dy = field(torch.full((), t, dtype=first.dtype, device=first.device), y)
            self._pull_back(dy, a, uses, weight)

    def _pull_back(self, dy: State, a: State, uses: list[Use], weight: float) -> None:
        """Add the rows of every use, from one pull-back of ``a`` to all their outputs."""
        pairs = zip((dy,) if isinstance(dy, Tensor) else dy, (a,) if isinstance(a, Tensor) else a, strict=True)
        outputs = [(d, cotangent) for d, cotangent in pairs if d.requires_grad]
        if not uses or not outputs:
            return
        grads = torch.autograd.grad(
            [d for d, _ in outputs], [edge for _, _, edge in uses], [c for _, c in outputs], allow_unused=True
        )
        for (name, x, _), g in zip(uses, grads, strict=True):
            if g is not None:
                layer = self.layers[name]
                self.sums[name].add(input_rows(layer, x), cotangent_rows(layer, g), weight)


class OutsideHooks:
    """Takes input and cotangent of layers outside of the ODE from the training's own forward and backward pass."""

    def __init__(self, layers: Mapping[str, Layer], sums: Mapping[str, FactorSum]) -> None:
        self._handles = [
            layer.register_forward_hook(_catcher(layer, sums[name]), with_kwargs=True) for name, layer in layers.items()
        ]

    def remove(self) -> None:
        """Remove the hooks."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()


def _input(args: tuple[Tensor, ...], kwargs: Mapping[str, Tensor]) -> Tensor:
    """Return the input of a call by position or as ``input=``."""
    return (args[0] if args else kwargs["input"]).detach()


Hook = Callable[[nn.Module, tuple[Tensor, ...], dict[str, Tensor], Tensor], None]


def _catcher(layer: Layer, total: FactorSum) -> Hook:
    def catch(_module: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Tensor], output: Tensor) -> None:
        if output.requires_grad:
            x = _input(args, kwargs)
            output.register_hook(  # type: ignore[no-untyped-call]
                lambda g: total.add(input_rows(layer, x), cotangent_rows(layer, g), 1.0)
            )

    return catch


@contextmanager
def _noting(layers: Mapping[str, Layer], uses: list[Use]) -> Iterator[None]:
    """Note every use of ``layers``.

    The output is noted by its gradient edge: an activation in place (``ReLU(inplace=True)``) turns the tensor itself
    into the activation, and its cotangent would no longer be the layer's.
    """

    def noter(name: str) -> Hook:
        def note(_module: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Tensor], output: Tensor) -> None:
            if output.requires_grad:
                uses.append((name, _input(args, kwargs), get_gradient_edge(output)))

        return note

    handles = [layer.register_forward_hook(noter(name), with_kwargs=True) for name, layer in layers.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def undisturbed(field: VectorField | nn.Module, device: torch.device) -> Iterator[None]:
    """Lend the field copies of its buffers, and put random states back as they were.

    The buffers themselves are never written to, not even with their old values: autograd would take them for changed,
    and refuse a graph that saved one.
    """
    own: list[tuple[nn.Module, str, Tensor]] = []
    if isinstance(field, nn.Module):
        for module in field.modules():
            named = module.named_buffers(recurse=False, remove_duplicate=False)
            own += [(module, name, buffer) for name, buffer in named]
    copies = {id(buffer): buffer.detach().clone() for _, _, buffer in own}
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        try:
            for module, name, buffer in own:
                setattr(module, name, copies[id(buffer)])
            yield
        finally:
            for module, name, buffer in own:
                setattr(module, name, buffer)
