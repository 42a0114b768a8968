"""Names to classes: built in, by entry point, or ``file.py:Class``; unknown names answer with the nearest ones."""

import importlib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import Any, NamedTuple

from torch import optim

from odegrad.contracts import GradientMethod, Problem, Scalar, Task
from odegrad.errors import OdegradError, UnknownNameError, UnsupportedError, UsageError
from odegrad.methods.solvers.solver import OneStepSolver, make_solver, solver_names
from odegrad.user.files import load_from_file


class Pair(NamedTuple):
    """A published pair of gradient method and optimizer."""

    gradient: str
    optimizer: str
    paper: str


PAIRS: Mapping[str, Pair] = {
    "snopt": Pair("adjoint", "snopt", "Liu et al., Second-Order Neural ODE Optimizer, NeurIPS 2021"),
}
"""Published pairs by the name of the method."""


@dataclass(frozen=True)
class Registry:
    """Names of one kind of thing: built-in ones as ``module:attribute``, more from an entry-point group."""

    kind: str
    builtin: Mapping[str, str]
    group: str

    def names(self) -> list[str]:
        """Return every name, built-in ones first."""
        return [*self.builtin, *sorted(e.name for e in entry_points(group=self.group) if e.name not in self.builtin)]

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
        for entry in entry_points(group=self.group):
            if entry.name == name:
                return entry.load()
        raise UnknownNameError(self.kind, name, self.names())


gradients = Registry(
    "gradient method",
    {
        "naive": "odegrad.methods.gradients.naive:Naive",
        "adjoint": "odegrad.methods.gradients.adjoint:Adjoint",
        "adjoint_seminorm": "odegrad.methods.gradients.adjoint_seminorm:AdjointSeminorm",
        "anode": "odegrad.methods.gradients.anode:Anode",
        "aca": "odegrad.methods.gradients.aca:Aca",
        "symplectic_adjoint": "odegrad.methods.gradients.symplectic_adjoint:SymplecticAdjoint",
        "interpolation": "odegrad.methods.gradients.interpolation:Interpolation",
        "interpolation_dense": "odegrad.methods.gradients.interpolation_dense:InterpolationDense",
        "gauss_adjoint": "odegrad.methods.gradients.gauss_adjoint:GaussAdjoint",
        "revolve": "odegrad.methods.gradients.revolve:Revolve",
        "mali": "odegrad.methods.gradients.mali:Mali",
        "reversible_rk": "odegrad.methods.gradients.reversible_rk:ReversibleRK",
        "forward_sensitivity": "odegrad.methods.gradients.forward_sensitivity:ForwardSensitivity",
        "torchdiffeq_naive": "odegrad.methods.peers.torchdiffeq:TorchdiffeqNaive",
        "torchdiffeq_adjoint": "odegrad.methods.peers.torchdiffeq:TorchdiffeqAdjoint",
        "torchdiffeq_seminorm": "odegrad.methods.peers.torchdiffeq:TorchdiffeqSeminorm",
    },
    "odegrad.methods",
)
optimizers = Registry(
    "optimizer",
    {
        "adam": "odegrad.methods.optimizers.first_order:adam",
        "adamw": "odegrad.methods.optimizers.first_order:adamw",
        "adamax": "odegrad.methods.optimizers.first_order:adamax",
        "sgd": "odegrad.methods.optimizers.first_order:sgd",
        "snopt": "odegrad.methods.optimizers.snopt.factory:snopt",
    },
    "odegrad.optimizers",
)
tasks = Registry(
    "task",
    {
        "digits": "odegrad.datasets.tasks.digits:Digits",
        "digits_mlp": "odegrad.datasets.tasks.digits:DigitsMLP",
        "mnist": "odegrad.datasets.tasks.image_sets:Mnist",
        "fashion_mnist": "odegrad.datasets.tasks.image_sets:FashionMnist",
        "svhn": "odegrad.datasets.tasks.image_sets:Svhn",
        "cifar10": "odegrad.datasets.tasks.image_sets:Cifar10",
        "cifar10_resnet4": "odegrad.datasets.tasks.image_sets:Cifar10ResNet4",
        "circles": "odegrad.datasets.tasks.plane:Circles",
        "moons": "odegrad.datasets.tasks.plane:Moons",
        "pinwheel": "odegrad.datasets.tasks.plane:Pinwheel",
        "two_spirals": "odegrad.datasets.tasks.plane:TwoSpirals",
        "eight_gaussians": "odegrad.datasets.tasks.plane:EightGaussians",
        "checkerboard": "odegrad.datasets.tasks.plane:Checkerboard",
        "wine_density": "odegrad.datasets.tasks.tables:WineDensity",
        "breast_cancer_density": "odegrad.datasets.tasks.tables:BreastCancerDensity",
        "miniboone": "odegrad.datasets.tasks.tables:Miniboone",
        "gas": "odegrad.datasets.tasks.tables:Gas",
        "power": "odegrad.datasets.tasks.tables:Power",
        "hepmass": "odegrad.datasets.tasks.tables:Hepmass",
        "bsds300": "odegrad.datasets.tasks.tables:Bsds300",
        "japanese_vowels": "odegrad.datasets.tasks.series:JapaneseVowels",
        "basic_motions": "odegrad.datasets.tasks.series:BasicMotions",
        "character_trajectories": "odegrad.datasets.tasks.series:CharacterTrajectories",
        "articulary_word_recognition": "odegrad.datasets.tasks.series:ArticularyWordRecognition",
        "spoken_arabic_digits": "odegrad.datasets.tasks.series:SpokenArabicDigits",
        "vae_digits": "odegrad.datasets.tasks.vae_images:VAEDigits",
        "vae_frey_faces": "odegrad.datasets.tasks.vae_images:VAEFreyFaces",
        "vae_caltech": "odegrad.datasets.tasks.vae_images:VAECaltech",
        "latent_spiral": "odegrad.datasets.tasks.latent_spiral:LatentSpiral",
        "linear": "odegrad.datasets.tasks.closed_form:Linear",
        "logistic": "odegrad.datasets.tasks.closed_form:Logistic",
        "rotation": "odegrad.datasets.tasks.closed_form:Rotation",
        "contracting": "odegrad.datasets.tasks.closed_form:Contracting",
        "lotka_volterra": "odegrad.datasets.tasks.orbits:LotkaVolterra",
        "three_body": "odegrad.datasets.tasks.orbits:ThreeBody",
        "van_der_pol": "odegrad.datasets.tasks.stiff:VanDerPol",
        "robertson": "odegrad.datasets.tasks.stiff:Robertson",
    },
    "odegrad.tasks",
)


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
    return _construct(factory, "gradient method", name, options)  # type: ignore[no-any-return]


def build_solver(name: str, rtol: float, atol: float, options: Mapping[str, Scalar] | None = None) -> OneStepSolver:
    """Return the solver ``name`` with its tolerances and ``options``."""
    if name not in solver_names():
        raise UnknownNameError("solver", name, solver_names())
    return make_solver(name, rtol=rtol, atol=atol, **dict(options or {}))  # type: ignore[arg-type]


def build_optimizer(name: str, problem: Problem, options: Mapping[str, Scalar] | None = None) -> optim.Optimizer:
    """Return the optimizer ``name`` over ``problem``: the task's own settings for it, overridden by ``options``."""
    factory = optimizers.get(name)
    settings = {**problem.training.optimizers.get(name, {}), **(options or {})}
    return _construct(factory, "optimizer", name, settings, problem)  # type: ignore[no-any-return]


def build_task(name: str | Callable[..., Task]) -> Task:
    """Return the task ``name``, a registered name, ``file.py:Class`` or a class."""
    factory = tasks.get(name) if isinstance(name, str) else name
    return _construct(factory, "task", name_of(name), None)  # type: ignore[no-any-return]


def name_of(name: Any) -> str:
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


def _construct(factory: Any, kind: str, name: str, options: Mapping[str, Scalar] | None, *first: Any) -> Any:
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
