"""Write what documents in ``docs`` tell from the code: run it after changing that."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from odegrad.catalogue import GRADIENTS, OPTIMIZERS, PAIRS, REGULARISERS, SOLVERS, TASKS
from odegrad.checks.conformance import shared_loop_methods
from odegrad.exits import exit_table
from odegrad.methods.peers.diffrax import DIFFRAX
from odegrad.methods.peers.mapping import PeerMapping
from odegrad.methods.peers.torchdiffeq import TORCHDIFFEQ
from odegrad.methods.peers.torchdiffeqpack import LEAPFROG, TORCHDIFFEQPACK
from odegrad.methods.peers.torchdyn import TORCHDYN
from odegrad.methods.peers.torchode import TORCHODE
from odegrad.methods.peers.xitorch import XITORCH
from odegrad.methods.solvers.solver import make_solver
from odegrad.registry import gradients, tasks

DOCS = Path(__file__).parents[1] / "docs"

METHODS = """# Methods, solvers and optimizers

Written by `python tests/make_documents.py` from the catalogue and from what methods and solvers state about themselves.
`odegrad list methods --details` tells the costs too, `--json` the options. [choosing-a-method.md](choosing-a-method.md)
says which to take.

## Gradient methods

Exact: the gradient is that of the computed loss, of the steps that the solver took (for `mali` those of solver `alf`,
for `reversible_rk` those of the wrapped solver). The others give the gradient of the continuous loss, off by
O(tolerance).

Output times: of what the gradient by them is, where they require one. `continuous`: `f(t_k, y_k) . dL/dy_k`, the
gradient of the continuous problem, under exact methods too. It is off by as much as the steps are: by O(tolerance) for
adaptive solvers, and by tens of percent on a coarse grid of `euler` or `midpoint`, whose own loss depends on the times
otherwise. Take smaller steps there, or an adaptive solver.

"""

SYMBOLS = """
N accepted and R rejected steps of s f calls (N', R' in the backward solve), K outputs, d numbers in a state, p
parameters, n nodes, M blocks, C checkpoints, A the graph of one f call, F an f call, B a vector-Jacobian product.
Memory is that at the peak of the backward pass. The family of another library's method is the library, whose solver it
takes too ([peers.md](peers.md)).

A pair of gradient method and optimizer that was published under one name:

"""

SOLVER_PAGE = """
## Solvers

Any explicit Runge-Kutta method of them becomes algebraically reversible with the option `coupling = 0.99`. Calls are
f calls of one attempted step after the first; dense output reads states from inside of a step.

The implicit ones are for stiff equations. Their calls are stages that Newton's iteration solves, an f call for each
iteration, one more with a graph for the step's Jacobian. Option `linear` says how: `blocks` takes an `n x n` Jacobian
of each sample (n at most 64) and refuses a field whose samples depend on each other, `dense` one of the whole batch (at
most 512 numbers), `krylov` products with the Jacobian (GMRES); `auto` takes the first that the sizes allow. Option
`newton` is the error at which the iteration ends, in units of the tolerance: 1e-2, or 1e-3 where a gradient must be as
exact as its solution. Their gradient is exact for the computed loss with `naive`, `anode`, `aca`, `revolve`,
`symplectic_adjoint` and `forward_sensitivity`: each stage is pulled back by one transposed linear system, and no Newton
iteration is differentiated. `interpolation`, `interpolation_dense` and `gauss_adjoint` solve the costate back by linear
systems alone, over a cubic polynomial of each step. `adjoint` refuses them, for a contracting state cannot be solved
back. They have no second derivative and are not compiled. In single precision, rtol below 1e-5 gains nothing.

`kencarp4_imex` is for a field that is fast in one half only. The field has, beside `forward(t, y)`, the methods
`stiff(t, y)` and `rest(t, y)`, whose sum it is (compared once where a solve begins; a field without them is refused).
Newton's iteration, its Jacobians and `linear` are of the stiff half alone: the rest is called six times for each step,
may mix samples and may be large. A call of either half counts as an f call; `nfe_stiff_forward` and its like tell them
apart. What the fast modes are in balance with belongs to the stiff half: forcing of them that is left to the rest is
followed to the third order only, at many more steps. Exact with `naive`, `anode`, `aca`, `revolve` and
`symplectic_adjoint`; other methods refuse it.

`rodas5p` has no Newton iteration: the Jacobian is a part of its formula, so f must be twice differentiable for the
gradient, which `naive`, `anode`, `aca` and `revolve` give exactly. It takes no `krylov`.

`auto_stiff` takes each step by `dopri5` or by `kencarp4`, with the options of the latter. It begins with `dopri5` and
goes over to `kencarp4` once six steps more than not have filled 0.7 of dopri5's stability interval, `h |lambda|` of
3.31: the last two stages of a step, which stand at one time, tell `|lambda|` of each sample. It goes back once three
steps more than not would have filled 0.35 of it, by a bound of the spectral radius of the Jacobian that the step has
formed (with `krylov` by one more product for each step). Neither costs an f call, and both methods carry the rate at
which the other begins. Steps say which they were, a replay takes them again as they were, and the gradient is exact
with `naive`, `anode`, `aca` and `revolve`. Where nothing is stiff it takes dopri5's steps, at dopri5's f calls
forwards. Van der Pol at `mu = 100` over 200 units of time at rtol 1e-6 takes 4,283 f calls and 194 products (`kencarp4`
6,202 and 684, `dopri5` 82,598), at `mu = 1000` over 2,000 units 6,003 and 246 (8,640 and 810), at `mu = 20` over 40
units 2,886 and 152 (4,513 and 598; 4,724). It costs more than `kencarp4` where everything is stiff: Prothero and
Robinson's equation at 1e6 and rtol 1e-4 takes 211 f calls, not 97. Steps that fill less than 0.7 stay explicit though
implicit ones may be more accurate: the same equation at rate 100 and rtol 1e-5 fills 0.67 and costs what `dopri5` does,
three times `kencarp4`. Columns `explicit_steps` and those of Newton's iterations tell the work of each. Fixed steps are
refused.

Which method takes which solvers; a refusal says what to take instead:

"""

OPTIMIZER_PAGE = """
## Optimizers

`odegrad list optimizers --details` tells their options.

"""

REGULARISER_PAGE = """
## Regularisers

Penalties on the dynamics that a training adds to its loss: [regularisers.md](regularisers.md).

"""

TASK_PAGE = """# The tasks

Written by `python tests/make_documents.py` from what the tasks state about themselves.
[your-own-task.md](your-own-task.md) says what a task is made of; `odegrad list tasks --details` tells the numbers of
parameters and of a state.

Sizes are `tiny` (seconds on a CPU), `default` and `paper`; `irregular` is irregularly sampled. The target is what a
good method reaches: higher is better for an `accuracy`, lower for every other metric (`nll` and `nelbo` in nats). What
does not work offline is fetched once, checked by its hash, into the user's cache folder, or where `ODEGRAD_DATA` says
(the MAF archive, of `miniboone` to `bsds300`, is 817 MB); where there is no network, the error says which file to place
where. The series, and `bsds300`, need two more packages: `pip install -c constraints.txt '.[data]'`.
"""

PEER_PAGE = """# Other libraries, measured alike

Written by `python tests/make_documents.py` from what the methods state about their libraries.

Each method of another library is a row beside odegrad's own: same task, initial parameters, batch, type of number,
threads and allocator settings, its times taken in rounds with the other rows of its block, after its warm-up. Its f
calls and vector-Jacobian products are counted by the field itself, and the same float64 reference judges its gradient.
A tolerance means another error in every library, so costs are compared at equal gradient error: run a sweep over
tolerances, and read the work-precision figure. Equal `rtol` alone says nothing.

A library is looked for by name, and imported in the measuring process of its own rows only. Where it is missing, or
where it cannot be told what a run asks for, the row says so (`unsupported`), and everything else works on. A sweep that
names no method takes torchdiffeq's alone.

`pip install -c constraints.txt '.[peers]'` brings torchode, TorchDiffEqPack and xitorch. torchdyn declares packages
that would bring another torch, so it is installed without them:
`pip install --no-deps torchdyn torchcde torchsde pytorch-lightning lightning-utilities torchmetrics attrs tqdm boltons
trampoline`.

`pip install -c constraints.txt '.[jax]'` brings diffrax. Its methods translate the field from torch to jax: traced once
at its shapes, every operator by its counterpart, and held against torch in value and vector-Jacobian product before
the first solve (1e-12 in float64, 1e-4 in float32; tests hold every task that works offline to 1e-12). An operator
without a counterpart is named, and the row is a refusal. Solve and pull-back are one compiled program each, on one
thread; `compile_seconds` is a column of its own, times wait for the result, and f calls and products are counted by
callbacks from inside the program. What jax computes is not seen by torch's counters: operators, FLOPs and bytes are
empty, not zero.

## What is mapped

Times, tolerances and the initial state go to every library as they are; a state of several parts goes to torchode,
TorchDiffEqPack, torchdyn and xitorch as one tensor `[batch, n]`. The step control of all is the elementary one, with
safety 0.9 and a step that changes by a factor of 0.2 to 10. What is not listed here is refused.

"""

PEER_REFUSED = """
No library is told `compile`, `sees = "tangent"` or `control = "pi"`, and `max_steps` only where it is listed. None but
torchdiffeq tells of its steps, so that the columns of steps are empty and not zero. To all but torchdiffeq a field must
have trained parameters, and to torchode, TorchDiffEqPack, torchdyn and xitorch no others, since these differentiate by
all that it has.

## What is known to be wrong

Each is a property of the library as published, seen in its source or by a test in `tests/methods/peers`. A row with it
is measured all the same, unless its gradient would be wrong.

"""

MAPPINGS: Sequence[tuple[str, PeerMapping]] = (
    ("torchdiffeq_*", TORCHDIFFEQ),
    ("torchode_*", TORCHODE),
    ("torchdiffeqpack_aca", TORCHDIFFEQPACK),
    ("torchdiffeqpack_mali", LEAPFROG),
    ("torchdyn_*", TORCHDYN),
    ("xitorch_adjoint", XITORCH),
    ("diffrax_*", DIFFRAX),
)
"""Methods -> how their library is told of a solver."""


def table(head: tuple[str, ...], rows: Sequence[tuple[object, ...]]) -> str:
    """Return a table in Markdown."""
    written = ["| " + " | ".join(str(cell) for cell in line) + " |\n" for line in (head, *rows)]
    return "".join([written[0], f"|{'---|' * len(head)}\n", *written[1:]])


def yes(value: object) -> str:
    """Return a truth value in words."""
    return "yes" if value else "no"


KINDS_OF_SOLVER = {
    "explicit": "dopri5", "`alf`": "alf", "implicit": "kencarp4", "implicit, no dense output": "implicit_midpoint",
    "`rodas5p`": "rodas5p", "`kencarp4_imex`": "kencarp4_imex", "`auto_stiff`": "auto_stiff",
}  # fmt: skip
"""Kinds of solver -> one of each."""


def taken_solvers() -> str:
    """Return the table of the solvers that each method of the shared loop takes."""
    solvers = [make_solver(name, rtol=1e-4, atol=1e-6) for name in KINDS_OF_SOLVER.values()]
    rows = [
        (f"`{name}`", *(yes(gradients.get(name)().refuses(solver) is None) for solver in solvers))
        for name in shared_loop_methods()
    ]
    return table(("Method", *KINDS_OF_SOLVER), rows)


def methods_page() -> str:
    """Return the page of methods, solvers and optimizers."""
    stated = [(entry, gradients.get(entry.name).traits) for entry in GRADIENTS]
    solvers = [(entry, make_solver(entry.name)) for entry in SOLVERS]
    return (
        METHODS
        + table(
            ("Method", "Family", "How it pulls the gradient back", "Keeps", "Exact", "Output times"),
            [(f"`{e.name}`", e.family, e.sentence, t.keeps, yes(e.exact), t.times) for e, t in stated],
        )
        + "\n"
        + table(
            ("Method", "Memory", "Forward", "Backward", "Source"),
            [(f"`{e.name}`", t.memory, t.cost_forward, t.cost_backward, t.paper) for e, t in stated],
        )
        + SYMBOLS
        + table(
            ("Pair", "Gradient method", "Optimizer", "What it is", "Source"),
            [(f"`{p.name}`", f"`{p.gradient}`", f"`{p.optimizer}`", p.sentence, p.paper) for p in PAIRS.values()],
        )
        + SOLVER_PAGE
        + taken_solvers()
        + "\n"
        + table(
            ("Solver", "What it is", "Order", "Calls", "Error estimate", "Dense output", "Source"),
            [
                (
                    f"`{e.name}`", e.sentence, s.order, s.scheme.evaluations, yes(s.estimates_error),
                    yes(s.has_dense_output), s.scheme.source,
                )
                for e, s in solvers
            ],
        )
        + OPTIMIZER_PAGE
        + table(("Optimizer", "Family", "What it is"), [(f"`{e.name}`", e.family, e.sentence) for e in OPTIMIZERS])
        + REGULARISER_PAGE
        + table(("Regulariser", "Kind", "What it is"), [(f"`{e.name}`", e.family, e.sentence) for e in REGULARISERS])
    )  # fmt: skip


def tasks_page() -> str:
    """Return the page of tasks, by kind."""
    page = TASK_PAGE
    for kind in dict.fromkeys(entry.family for entry in TASKS):
        rows = []
        for info in (tasks.get(entry.name).info for entry in TASKS if entry.family == kind):
            data, _, model = info.summary.partition("; ")
            target = ", ".join(f"{value:g} at {size}" for size, value in info.target.items())
            limit = "" if info.limit is None else f" (no model can expect better than {info.limit:.4g})"
            aim = f"{info.metric_name} {target}{limit}" if target else f"{info.metric_name}, none known"
            source = f"{info.citation}; licence: {info.licence}"
            rows.append((f"`{info.name}`", data, model, ", ".join(info.sizes), yes(info.offline), aim, source))
        page += f"\n## {kind.capitalize()}\n\n"
        page += table(("Task", "Data", "Model", "Sizes", "Offline", "Target", "Source"), rows)
    return page


def commands_page() -> str:
    """Return the page of commands as it is, with its table of exit codes written anew."""
    page = (DOCS / "commands.md").read_text(encoding="utf-8")
    before, start, rest = page.partition("| Code | Means |")
    return before + exit_table() + rest[rest.index("\n\n") + 1 :] if start else page


def peers_page() -> str:
    """Return the page of other libraries: what is mapped, and what is known to be wrong."""

    def listed(names: Mapping[str, str]) -> str:
        return (
            ", ".join(f"`{ours}`" if ours == its else f"`{ours}` as `{its}`" for ours, its in names.items()) or "none"
        )

    rows = [
        (
            f"`{names}`", listed(m.adaptive), listed(m.fixed), ", ".join(sorted(m.options)) or "none", m.outputs,
            yes(m.times_have_gradient), m.norm,
        )
        for names, m in MAPPINGS
    ]  # fmt: skip
    faults = "".join(f"* `{names}`: {fault}.\n" for names, mapping in MAPPINGS for fault in mapping.faults)
    head = (
        "Methods",
        "Adaptive steps",
        "Fixed steps",
        "Options",
        "Outputs",
        "Gradient of their times",
        "Norm of a step's error",
    )
    return PEER_PAGE + table(head, rows) + PEER_REFUSED + faults


PAGES = {
    "commands.md": commands_page,
    "methods.md": methods_page,
    "peers.md": peers_page,
    "task-list.md": tasks_page,
}
"""File in ``docs`` -> the function that returns its text."""


if __name__ == "__main__":
    for name, page in PAGES.items():
        (DOCS / name).write_text(page(), encoding="utf-8")
