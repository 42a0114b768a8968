"""diffrax's solvers as gradient methods: checkpointed reverse mode and backward solves, compiled by jax.

The field is translated from torch (``jax_field``); solve and pull-back are two programs, each compiled once for a field
and its shapes, and called from one autograd function. The loss around them stays torch's. Kidger, On Neural
Differential Equations, 2021.
"""

import dataclasses
import os
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from odegrad.contracts import CallsHeard, Solver, State, StateT, Traits, VectorField, unjudged_parts
from odegrad.errors import UnsupportedError
from odegrad.methods.peers.jax_field import HeldArrays, JaxField, array, exchanged, tensor, translated
from odegrad.methods.peers.jax_operators import JaxArray
from odegrad.methods.peers.mapping import PeerMapping
from odegrad.methods.peers.method import PeerMethod, solved_back
from odegrad.methods.solvers.solver import OneStepSolver
from odegrad.states import parts

DIFFRAX = PeerMapping(
    library="diffrax",
    distribution="diffrax",
    install="install odegrad[jax]",
    adaptive={"bosh3": "Bosh3", "dopri5": "Dopri5", "tsit5": "Tsit5", "dopri8": "Dopri8"},
    no_fixed="diffrax's fixed steps have one size over all outputs; use dopri5 with adaptive steps",
    options=frozenset({"first_step", "max_step", "max_steps", "factors"}),
    faults=(
        "the loss, its pull-back and the update stay torch's; states and gradients are copied at the border",
        "its backward solve holds the costate to the same absolute tolerance, which swallows that of a mean loss: the "
        "gradient of moons is off by 13 times the tolerance",
        "a check that fails inside of its programs gives NaN, and no error (EQX_ON_ERROR=nan, unless it is set)",
        "jax computes and allocates where torch does not see it: operators, FLOPs and bytes are empty",
    ),
)

_PEER = dataclasses.replace(DIFFRAX.named, seen=False)

ONE_THREAD = "--xla_cpu_multi_thread_eigen=false"
ON_ERROR = "EQX_ON_ERROR"
"""equinox's variable: what a check inside of a program does where it fails; ``nan`` makes its result NaN."""
_CHECKPOINTED_STEPS = 16_384
"""The most steps of a solve whose checkpoints are laid out when it is compiled; the solver's own limit if less."""


@dataclass
class _Kept:
    """The programs of one field, by what they were made for, and the seconds that compiling them has taken."""

    programs: dict[tuple[object, ...], "_Program"] = field(default_factory=dict)
    seconds: float = 0.0


_KEPT: "WeakKeyDictionary[nn.Module, _Kept]" = WeakKeyDictionary()
"""By the module of the field's first trained parameter: a field that is made anew for each solve keeps its layers."""


@dataclass
class _Program:
    """The compiled solve of one field and its pull-back, each made at its first use."""

    jax: Any
    makers: dict[str, Callable[..., object]]
    kept: _Kept
    ready: dict[str, Callable[..., object]] = field(default_factory=dict)

    def run(self, name: str, *given: object) -> Any:
        """Return what the program ``name`` makes of ``given``, when it has ended; compile it before if it is new."""
        if name not in self.ready:
            started = time.perf_counter()
            self.ready[name] = self.jax.jit(self.makers[name]).lower(*given).compile()
            self.kept.seconds += time.perf_counter() - started
        out = self.jax.block_until_ready(self.ready[name](*given))
        self.jax.effects_barrier()
        return out


def _jax() -> object:
    """Return jax, with one thread and with float64 where asked for: imported by the first solve of a process."""
    if torch.get_num_threads() == 1 and ONE_THREAD not in os.environ.get("XLA_FLAGS", ""):
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {ONE_THREAD}".strip()
    # Its checks inside of programs call back into Python where they fail, which keeps programs from being read back.
    os.environ.setdefault(ON_ERROR, "nan")
    DIFFRAX.module()
    jax = dataclasses.replace(DIFFRAX, library="jax").module()
    jax.config.update("jax_enable_x64", True)
    jax.config.update("jax_platforms", "cpu")
    return jax


@dataclass(frozen=True)
class _Solve:
    """What a program is made of."""

    jax: Any
    solver: OneStepSolver
    scheme: str
    adjoint: str
    heard: CallsHeard | None

    def states(
        self, inner: JaxField, y0: Sequence[JaxArray], ts: JaxArray, tolerances: Any, held: Sequence[JaxArray]
    ) -> tuple[object, object]:
        """Return the solution's parts ``[K, *part]``, and whether diffrax has reached the end.

        ``tolerances``, ``(rtol, atol)``, are arguments of the program: a sweep over them compiles once.
        """
        diffrax, control = DIFFRAX.module(), self.solver.controller
        told: Callable[[object], object] = _unchanged if self.heard is None else _telling(self.jax, self.heard)
        solution = diffrax.diffeqsolve(
            diffrax.ODETerm(lambda t, y, args: told(inner(t, y, args))),
            getattr(diffrax, self.scheme)(),
            ts[0],
            ts[-1],
            self.solver.first_step,
            tuple(y0),
            list(held),
            saveat=diffrax.SaveAt(ts=ts),
            stepsize_controller=diffrax.PIDController(
                rtol=tolerances[0],
                atol=tolerances[1],
                safety=control.safety,
                factormin=control.min_factor,
                factormax=control.max_factor,
                dtmax=self.solver.max_step,
            ),
            adjoint=getattr(diffrax, self.adjoint)(),
            max_steps=min(self.solver.max_steps, _CHECKPOINTED_STEPS),
            throw=False,
        )
        return solution.ys, solution.result == diffrax.RESULTS.successful


def _unchanged(rates: object) -> object:
    return rates


def _telling(jax: Any, heard: CallsHeard) -> Callable[[object], object]:
    """Return the identity over rates that lets a counter hear of the call, and of the product, as each happens."""

    @jax.custom_vjp  # type: ignore[untyped-decorator, unused-ignore]
    def marked(rates: object) -> object:
        jax.debug.callback(heard.heard_call)
        return rates

    def forward(rates: object) -> object:
        return marked(rates), None

    def pull(_: None, g: Any) -> object:
        jax.debug.callback(heard.heard_product)
        return (g,)

    marked.defvjp(forward, pull)
    return marked  # type: ignore[no-any-return]


def _program(solve: _Solve, vector_field: nn.Module, y0: State, ts: Tensor, kept: _Kept) -> _Program:
    """Return the programs for this field and these shapes."""
    inner, places = translated(vector_field, ts[0].detach(), y0, solve.jax), HeldArrays.by(vector_field).trained

    def value(y0: Any, ts: JaxArray, tolerances: Any, held: Any) -> Any:
        return solve.states(inner, y0, ts, tolerances, held)

    def forward(y0: object, ts: JaxArray, tolerances: Any, held: Any) -> object:
        def of(y0: Any, trained: Any) -> Any:
            return solve.states(inner, y0, ts, tolerances, exchanged(held, places, trained))

        ys, pull, reached = solve.jax.vjp(of, y0, [held[i] for i in places], has_aux=True)
        return ys, reached, pull

    def backward(pull: Any, g: object) -> object:
        return pull(g)

    return _Program(solve.jax, {"value": value, "forward": forward, "backward": backward}, kept)


def _found(solve: _Solve, vector_field: nn.Module, held: HeldArrays, y0: State, ts: Tensor) -> _Program:
    """Return the programs for this field, made once for all that it has in common with an earlier one."""
    if not held.trained:
        raise UnsupportedError("diffrax: expected a field with trained parameters, got one without")
    owner = held.names[held.trained[0]].rpartition(".")[0]
    kept = _KEPT.setdefault(vector_field.get_submodule(owner), _Kept())
    plain = (int, float, bool, str, type(None))
    control = dataclasses.replace(solve.solver.controller, rtol=0.0, atol=0.0)  # arguments of the programs
    key = (
        solve.scheme, solve.adjoint, control, solve.solver.first_step, solve.solver.max_step,
        solve.solver.max_steps, len(ts), ts.dtype, tuple((p.shape, p.dtype) for p in parts(y0)),
        tuple((name, x.shape) for name, x in zip(held.names, held.tensors, strict=True)), id(solve.heard),
        tuple((type(m), *((k, v) for k, v in vars(m).items() if isinstance(v, plain))) for m in vector_field.modules()),
    )  # fmt: skip
    if key not in kept.programs:
        kept.programs[key] = _program(solve, vector_field, y0, ts, kept)
    return kept.programs[key]


class _Bridge(torch.autograd.Function):
    """A solve by diffrax: state parts and trained parameters in, the solution's parts out."""

    @staticmethod
    def forward(
        ctx: Any,
        program: _Program,
        name: str,
        ts: Tensor,
        solver: OneStepSolver,
        held: HeldArrays,
        n: int,
        *inputs: Tensor,
    ) -> object:
        jax, control = program.jax, solver.controller
        tolerances = (float(control.rtol), float(control.atol))
        given = [array(p, jax) for p in inputs[:n]], array(ts, jax), tolerances, [array(x, jax) for x in held.tensors]
        ys, reached, *pull = program.run(name, *given)
        ctx.program, ctx.pull = program, pull
        if not bool(reached):
            raise DIFFRAX.failed(solver, "the step limit was reached, or a step is not finite")
        return tuple(tensor(y) for y in ys)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> object:
        program = ctx.program
        states, trained = program.run("backward", *ctx.pull, tuple(array(g, program.jax) for g in grads))
        return (*[None] * 6, *(tensor(g) for g in (*states, *trained)))


@dataclass(frozen=True)
class DiffraxCheckpointed(PeerMethod):
    """``diffrax.RecursiveCheckpointAdjoint``: reverse mode through the steps, by binomial checkpoints."""

    traits: ClassVar[Traits] = Traits(
        name="diffrax_checkpointed",
        summary="diffrax with RecursiveCheckpointAdjoint, compiled by jax",
        paper="Kidger, On Neural Differential Equations, 2021",
        exact=True,
        keeps="states at binomial places",
        memory="C d + A s",
        cost_forward="s(N+R)+2 F",
        cost_backward="s r N F + s N B",
        backward_phase="recompute",
        state_from="replay",
        times="none",
        shared_loop=False,
        peer=_PEER,
    )
    mapping: ClassVar[PeerMapping] = DIFFRAX
    adjoint: ClassVar[str] = "RecursiveCheckpointAdjoint"

    def solved(self, field: VectorField, solver: Solver, y0: StateT, ts: Tensor) -> StateT:
        """Return the library's solution at ``ts``."""
        taken, scheme = DIFFRAX.taken(solver)
        DIFFRAX.times(ts)
        heard = field if isinstance(field, CallsHeard) else None
        inner: Any = field if heard is None else heard.inner
        if unjudged_parts(inner):
            raise UnsupportedError(
                "diffrax judges its steps by every part of the state here, and this field carries some that no step is "
                "judged by; leave out the regulariser, or use another method"
            )
        held = HeldArrays.by(inner)
        program = _found(_Solve(_jax(), taken, scheme, self.adjoint, heard), inner, held, y0, ts)
        pieces = parts(y0)
        inputs = (*pieces, *(held.tensors[i] for i in held.trained))
        name = "forward" if torch.is_grad_enabled() and any(x.requires_grad for x in inputs) else "value"
        ys: Any = _Bridge.apply(program, name, ts, taken, held, len(pieces), *inputs)  # type: ignore[no-untyped-call]
        return ys[0] if isinstance(y0, Tensor) else ys  # type: ignore[no-any-return]

    def keep_programs(self, folder: Path) -> None:
        """Have jax look programs up in ``folder``, and leave there those that it compiles (its persistent cache)."""
        jax: Any = _jax()
        jax.config.update("jax_compilation_cache_dir", str(folder))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
        jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)

    def compile_seconds(self, modules: Iterable[nn.Module]) -> float:
        """Return the seconds that compiling programs for fields among ``modules`` has taken in this process."""
        return sum(_KEPT[m].seconds for m in modules if m in _KEPT)


@dataclass(frozen=True)
class DiffraxBacksolve(DiffraxCheckpointed):
    """``diffrax.BacksolveAdjoint``: state, costate and parameter gradient solved back in one norm."""

    traits: ClassVar[Traits] = solved_back(
        "diffrax_backsolve",
        "diffrax with BacksolveAdjoint, compiled by jax",
        "Kidger, On Neural Differential Equations, 2021",
        _PEER,
    )
    adjoint: ClassVar[str] = "BacksolveAdjoint"
