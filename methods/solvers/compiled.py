"""Whole Runge-Kutta steps compiled by torch.compile: one kernel call a step in place of dozens of small operations.

The step, and the pull-back through it, are each traced by ``make_fx`` with the parameters as inputs, so that a field
may call ``autograd.grad`` inside. They are compiled without guards: a guard would check every parameter at every step.
"""

import time
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import make_fx

from odegrad.errors import UnsupportedError
from odegrad.methods.solvers.dynamics import FlatField
from odegrad.methods.solvers.tableau import Tableau
from odegrad.states import sent_to

Compiled = Callable[..., tuple[Tensor, ...]]


@dataclass
class _Kept:
    """The compiled functions of one module, by what they were made for."""

    functions: dict[tuple[object, ...], Compiled] = field(default_factory=dict)
    seconds: float = 0.0


_KEPT: "WeakKeyDictionary[nn.Module, _Kept]" = WeakKeyDictionary()


def compile_seconds(modules: Iterable[nn.Module]) -> float:
    """Return the seconds that compiling steps of ``modules`` has taken in this process."""
    return sum(_KEPT[m].seconds for m in modules if m in _KEPT)


class StepCompiler:
    """Makes the compiled functions of one solve, each at its first use; a later solve of the same field has them.

    Parameters
    ----------
    flat_field
        The field of the solve.
    tableau
        The Runge-Kutta method.

    Raises
    ------
    UnsupportedError
        If the field is no ``nn.Module``, or the solve stands under autocast.
    """

    def __init__(self, flat_field: FlatField, tableau: Tableau) -> None:
        module = flat_field.field
        if not isinstance(module, nn.Module):
            raise UnsupportedError(
                f"compile: expected an nn.Module whose tensors are known, got {type(module).__name__}; wrap the "
                "function in an nn.Module that holds its parameters, or leave out compile"
            )
        if flat_field.autocast is not None:
            raise UnsupportedError(
                "compile: steps are compiled without autocast, under which this solve stands; leave out one of the two"
            )
        self.module = module
        self.layout = flat_field.layout
        self.tableau = tableau
        held = dict(module.named_parameters()) | dict(module.named_buffers())
        self.names, self.tensors = list(held), list(held.values())
        self.trained = [i for i, x in enumerate(self.tensors) if isinstance(x, nn.Parameter) and x.requires_grad]
        self._key = (
            tableau,
            self.layout,
            tuple((name, x.shape, x.requires_grad) for name, x in held.items()),
            tuple(m.training for m in module.modules()),
        )
        self._ready: dict[tuple[object, ...], Compiled] = {}

    @classmethod
    def of(cls, flat_field: FlatField, tableau: Tableau) -> "StepCompiler":
        """Return the compiler of this solve, made once: a replay of one step has no time for it."""
        found = flat_field.kept.get(tableau)
        if not isinstance(found, StepCompiler):
            found = flat_field.kept[tableau] = cls(flat_field, tableau)
        return found

    def times_and_size(self, t: float, h: float, t_next: float) -> tuple[Tensor, Tensor]:
        """Return the stages' times ``[s]`` and ``h``, 0-d, as tensors of the state's kind, in one transfer."""
        numbers = torch.tensor([*self.tableau.times(t, h, t_next), h], dtype=self.layout.dtype)
        numbers = sent_to(self.layout.device, numbers)
        return numbers[:-1], numbers[-1]

    def step(self, *, fresh: bool, whole: bool) -> Compiled:
        """Return ``(y [d], k_0 [d], times [s], h, *tensors) -> (y' [d], stages [s, d], error [d])``.

        ``fresh`` evaluates the first stage in place of taking ``k_0``; ``whole`` evaluates the last one, that only the
        next step and the dense output need.

        Raises
        ------
        UnsupportedError
            If the field cannot be compiled, or there is no compiler on this machine.
        """
        return self._function(("step", fresh, whole), lambda: self._step(fresh=fresh, whole=whole), 2)

    def pull_back(self, *, whole: bool) -> Compiled:
        """Return ``(y, a [d], times [s], h, b [s, d], *tensors) -> (dL/dy [d], dL/dtheta ...)``.

        The pull-back through the step from ``y``, evaluated again, of the cotangents ``a`` of the new state and ``b``
        of the stages; one gradient for each trained parameter.

        Raises
        ------
        UnsupportedError
            If the field cannot be compiled, or there is no compiler on this machine.
        """
        step = self._step(fresh=True, whole=whole)

        def pull(y: Tensor, a: Tensor, times: Tensor, h: Tensor, b: Tensor, *tensors: Tensor) -> tuple[Tensor, ...]:
            with torch.enable_grad():
                y, *leaves = (x.detach().requires_grad_() for x in (y, *(tensors[i] for i in self.trained)))
                held = list(tensors)
                for i, leaf in zip(self.trained, leaves, strict=True):
                    held[i] = leaf
                # Forward and backward are one function to the compiler: what lies between need not go through memory.
                y_next, stages, _ = step(y, y, times, h, *held)
                grads = torch.autograd.grad([y_next, stages], [y, *leaves], [a, b], allow_unused=True)
            return tuple(torch.zeros_like(x) if g is None else g for x, g in zip((y, *leaves), grads, strict=True))

        return self._function(("pull_back", whole), lambda: pull, 2, self.tableau.stages)

    def _function(self, kind: tuple[object, ...], function: Callable[[], Compiled], *sizes: int) -> Compiled:
        if kind not in self._ready:
            kept = _KEPT.setdefault(self.module, _Kept())
            key = (*self._key, *kind)
            if key not in kept.functions:
                start = time.perf_counter()
                # Tracing and the trial call may draw numbers, and compiling must not move a training's stream.
                device = self.layout.device
                forked = torch.random.fork_rng(devices=[device] if device.type == "cuda" else [])
                with forked, warnings.catch_warnings():
                    warnings.simplefilter("ignore", DeprecationWarning)  # PyTorch's own, on its way to the compiler
                    kept.functions[key] = _compiled(function(), self._sample(*sizes))
                kept.seconds += time.perf_counter() - start
            self._ready[kind] = kept.functions[key]
        return self._ready[kind]

    def _sample(self, vectors: int, rows: int | None = None) -> list[Tensor]:
        """Return inputs of the right kind: zeros for states, times and cotangents, copies of the field's tensors."""
        d = sum(self.layout.sizes)
        shapes = [*[(d,)] * vectors, (self.tableau.stages,), (), *([] if rows is None else [(rows, d)])]
        zeros = [torch.zeros(s, dtype=self.layout.dtype, device=self.layout.device) for s in shapes]
        return [*zeros, *(x.detach().clone() for x in self.tensors)]

    def _step(self, *, fresh: bool, whole: bool) -> Compiled:
        tableau, layout = self.tableau, self.layout

        def step(y: Tensor, k0: Tensor, times: Tensor, h: Tensor, *tensors: Tensor) -> tuple[Tensor, ...]:
            held = dict(zip(self.names, tensors, strict=True))

            def f(i: int, z: Tensor) -> Tensor:
                dy = torch.func.functional_call(self.module, held, (times[i], layout.unflatten(z)))
                return layout.flatten(tuple(layout.parts_of(dy)))

            ks = [f(0, y) if fresh else k0]
            z = y
            for i in range(1, tableau.stages):
                z = y + h * _combination(tableau.a[i], ks)
                last_is_unneeded = tableau.fsal and not whole and i == tableau.stages - 1
                ks.append(torch.zeros_like(y) if last_is_unneeded else f(i, z))
            y_next = z if tableau.fsal else y + h * _combination(tableau.b, ks)
            error = torch.zeros_like(y) if tableau.error is None else h * _combination(tableau.error, ks)
            return y_next, torch.stack(ks), error

        return step


def _compiled(function: Compiled, inputs: Sequence[Tensor]) -> Compiled:
    """Return ``function`` traced and compiled for ``inputs``, and called once, which is when the compiler works."""
    try:
        traced = make_fx(function, tracing_mode="fake")(*inputs)
    except Exception as error:
        raise UnsupportedError(
            f"compile: the field cannot be traced ({type(error).__name__}: {_first_line(error)}); its control flow may "
            "not depend on numbers in tensors, and every tensor that it uses must be a parameter or a buffer; leave "
            "out compile for this field"
        ) from error
    _refuse_side_effects(traced.graph)
    compiled: Compiled = torch.compile(traced, fullgraph=True, dynamic=False, options=_options())
    try:
        with torch.no_grad():
            compiled(*inputs)
    except Exception as error:
        raise UnsupportedError(
            f"compile: torch.compile failed on the step ({type(error).__name__}: {_first_line(error)}); on a CPU it "
            "needs a C++ compiler such as g++; leave out compile on this machine"
        ) from error
    return compiled


def _combination(weights: Sequence[float], ks: Sequence[Tensor]) -> Tensor:
    total: Tensor | None = None
    for w, k in zip(weights, ks, strict=False):
        if w != 0.0:
            total = w * k if total is None else torch.add(total, k, alpha=w)
    return torch.zeros_like(ks[0]) if total is None else total


def _refuse_side_effects(graph: torch.fx.Graph) -> None:
    """Raise if the traced step draws random numbers or changes one of its inputs (running statistics).

    Raises
    ------
    UnsupportedError
        If it does.
    """
    for node in graph.nodes:
        if not isinstance(node.target, torch._ops.OpOverload):
            continue
        if torch.Tag.nondeterministic_seeded in node.target.tags:
            raise UnsupportedError(
                f"compile: the field draws random numbers ({node.target}), which a compiled step would not repeat in "
                "the backward pass; leave out compile, or draw them once and keep them in a buffer"
            )
        for argument, value in zip(node.target._schema.arguments, node.args, strict=False):
            written = argument.alias_info is not None and argument.alias_info.is_write
            if written and isinstance(value, torch.fx.Node) and value.op == "placeholder":
                raise UnsupportedError(
                    f"compile: the field changes a buffer at every call ({node.target}), as batch normalisation in "
                    "training does; leave out compile, or use a normalisation without running statistics"
                )


def _options() -> dict[str, str | int | bool | Callable[..., object]]:
    """Return the compiler's options: no guards, where this PyTorch can leave them out."""
    no_guards = getattr(torch.compiler, "skip_all_guards_unsafe", None)
    return {} if no_guards is None else {"guard_filter_fn": no_guards}


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), "no message")
