"""Names to classes: built in, by entry point, or ``file.py:Class``; unknown names answer with the nearest ones."""

import importlib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import EntryPoint
from typing import Any

from torch import optim

from odegrad.catalogue import GRADIENTS, GROUPS, OPTIMIZERS, PAIRS, TASKS, offered
from odegrad.contracts import GradientMethod, Problem, Scalar, Task, Traits
from odegrad.errors import OdegradError, UnknownNameError, UnsupportedError, UsageError
from odegrad.methods.solvers.solver import OneStepSolver, make_solver, solver_names
from odegrad.user.files import load_from_file, place_of


@dataclass(frozen=True)
class Registry:
    """Names of one kind of thing: those of the catalogue, and more that other packages offer by entry points."""

    kind: str
    shelf: str
    """Its place in the catalogue."""
    builtin: Mapping[str, str]
    """Name -> ``module:attribute``."""

    def names(self) -> list[str]:
        """Return every name, built-in ones first."""
        return [*self.builtin, *(entry.name for entry in offered(self.shelf))]

    def get(self, name: str) -> Any:
        """Return what ``name`` stands for: a registered name, or ``file.py:Class``.

        Raises
        ------
        UnknownNameError
            If ``name`` is not registered.
        UsageError
            If the file or the class does not exist.
        """
        if ".py:" in name:
            return load_from_file(name, self.kind)
        if name.endswith(".py"):
            raise UsageError(f"{self.kind} {name!r}: expected a name in that file too, as in {name}:Name")
        if name in self.builtin:
            module, _, attribute = self.builtin[name].partition(":")
            return getattr(importlib.import_module(module), attribute)
        for entry in offered(self.shelf):
            if entry.name == name:
                return _loaded(entry, self.kind)
        raise UnknownNameError(self.kind, name, self.names())


def _loaded(entry: EntryPoint, kind: str) -> object:
    """Return what another package offers."""
    try:
        return entry.load()
    except (Exception, SystemExit) as error:  # another package may raise anything
        raise UsageError(f"{kind} {entry.name!r} of another package ({entry.value}): {place_of(error)}") from error


def is_foreign(*names: str | None) -> bool:
    """Return whether one of ``names`` stands for code that is not odegrad's own: a user's file, another package."""
    others = {entry.name for kind in GROUPS for entry in offered(kind)}
    return any(name is not None and (".py" in name or name in others) for name in names)


def others_offer(shelf: str) -> bool:
    """Return whether other packages offer something of that kind."""
    return bool(offered(shelf))


gradients = Registry("gradient method", "methods", {entry.name: entry.target for entry in GRADIENTS})
optimizers = Registry("optimizer", "optimizers", {entry.name: entry.target for entry in OPTIMIZERS})
tasks = Registry("task", "tasks", {entry.name: entry.target for entry in TASKS})


def default_gradients() -> list[str]:
    """Return the gradient methods to take where none is named.

    Those whose cost grows with the steps alone, and that need no package beside odegrad's own.
    """

    def taken(traits: Traits) -> bool:
        return traits.grows_with == "steps" and (traits.peer is None or not traits.peer.optional)

    return [name for name in gradients.names() if taken(gradients.get(name).traits)]


def resolve_method(name: str) -> tuple[str, str | None]:
    """Return (gradient method, optimizer) of a method's name; None for the optimizer means the task's default."""
    if name in PAIRS:
        return PAIRS[name].gradient, PAIRS[name].optimizer
    if ".py:" not in name and name not in gradients.names():
        raise UnknownNameError("method", name, [*gradients.names(), *PAIRS])
    return name, None


def build_gradient(
    name: str | Callable[..., GradientMethod], options: Mapping[str, Scalar] | None = None
) -> GradientMethod:
    """Return the gradient method ``name``, a registered name, ``file.py:Class`` or a class, with its ``options``.

    Raises
    ------
    UsageError
        If an option is unknown or has a value the method refuses.
    """
    if not isinstance(name, str):
        return _construct(name, "gradient method", name_of(name), options)  # type: ignore[no-any-return]
    if name in PAIRS:
        pair = PAIRS[name]
        raise UsageError(
            f"gradient method {name!r}: expected a gradient method, got a pair of one and an optimizer; take gradient "
            f"method {pair.gradient!r}, and {pair.optimizer!r} as the optimizer"
        )
    factory = gradients.get(name)
    if not isinstance(getattr(factory, "traits", None), Traits):
        raise UsageError(
            f"gradient method {name!r}: expected a class with traits = Traits(...) of odegrad.contracts, got "
            f"{name_of(factory)} without; docs/your-own-method.md shows one"
        )
    return _construct(factory, "gradient method", name, options)  # type: ignore[no-any-return]


def build_solver(name: str, rtol: float, atol: float, options: Mapping[str, Scalar] | None = None) -> OneStepSolver:
    """Return the solver ``name`` with its tolerances and ``options``."""
    if name not in solver_names():
        raise UnknownNameError("solver", name, solver_names())
    return make_solver(name, rtol=rtol, atol=atol, **dict(options or {}))  # type: ignore[arg-type]


def odeint_solver(name: str, rtol: float, atol: float, options: Mapping[str, Scalar] | None = None) -> OneStepSolver:
    """Return the solver that ``odegrad.odeint`` takes: as ``build_solver``, with ``outputs = "auto"`` unless said.

    A suite states how its solver meets the outputs, step ends by default; who gives a model many output times and
    nothing else means them as torchdiffeq does.
    """
    return build_solver(name, rtol, atol, {"outputs": "auto", **(options or {})})


def solver_for(method: GradientMethod, wanted: OneStepSolver) -> OneStepSolver | None:
    """Return ``wanted``, or ``alf`` at its tolerances if the method takes no other; None if it takes neither.

    Samples with steps of their own are never exchanged for samples that share them.
    """
    if method.refuses(wanted) is None:
        return wanted
    if wanted.per_sample:
        return None
    other = build_solver("alf", wanted.controller.rtol, wanted.controller.atol)
    return other if method.refuses(other) is None else None


def build_optimizer(name: str, problem: Problem, options: Mapping[str, Scalar] | None = None) -> optim.Optimizer:
    """Return the optimizer ``name`` over ``problem``: the task's own settings for it, overridden by ``options``."""
    factory = optimizers.get(name)
    settings = {**problem.training.optimizers.get(name, {}), **(options or {})}
    return _construct(factory, "optimizer", name, settings, problem)  # type: ignore[no-any-return]


def build_task(name: str | Callable[..., Task]) -> Task:
    """Return the task ``name``, a registered name, ``file.py:Class`` or a class."""
    factory = tasks.get(name) if isinstance(name, str) else name
    return _construct(factory, "task", name_of(name), None)  # type: ignore[no-any-return]


def name_of(name: object) -> str:
    """Return a name as it is, and that of a class or function."""
    return name if isinstance(name, str) else getattr(name, "__name__", type(name).__name__)


def check_supported(method: GradientMethod, solver: OneStepSolver) -> None:
    """Raise UnsupportedError with the method's reason if ``method`` cannot use ``solver``."""
    reason = method.refuses(solver)
    if reason is not None:
        raise UnsupportedError(f"{method.traits.name} cannot use solver {solver.name}: {reason}")


def options_of(factory: Any, given: int = 0) -> dict[str, inspect.Parameter]:
    """Return the options that ``factory`` takes by name, behind its first ``given`` arguments."""
    taken = [p for p in inspect.signature(factory).parameters.values() if p.kind is not p.VAR_POSITIONAL]
    return {p.name: p for p in taken[given:]}


def _construct(factory: Any, kind: str, name: str, options: Mapping[str, Scalar] | None, *first: object) -> Any:
    asked = dict(options or {})
    known = options_of(factory, len(first))
    if not any(p.kind is p.VAR_KEYWORD for p in known.values()):
        for key in asked:
            if key not in known:
                raise UnknownNameError("option", key, known, of=f"{kind} {name!r}")
    try:
        return factory(*first, **asked)
    except OdegradError:
        raise
    except (TypeError, ValueError) as error:
        raise UsageError(f"{kind} {name!r} with options {asked}: {error}") from error
