"""The catalogue: what each name stands for, told without importing it, so that a list of names needs no torch.

The registry derives its tables from here, the reports their order, colours and markers, and ``odegrad list`` its rows.
Tests hold what is said here equal to what methods, solvers and tasks state about themselves.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points


@dataclass(frozen=True)
class Entry:
    """What a name stands for."""

    name: str
    family: str
    """Of methods and optimizers: one colour in every figure. Of solvers: how they step. Of tasks: the kind."""
    sentence: str
    target: str = ""
    """``module:attribute``; none of a pair, and none of a solver, which ``make_solver`` makes of its name."""


@dataclass(frozen=True)
class Method(Entry):
    """A gradient method."""

    exact: bool = False
    """As its ``Traits``."""


@dataclass(frozen=True)
class Pair(Method):
    """A published pair of gradient method and optimizer, under a name of its own."""

    gradient: str = ""
    optimizer: str = ""
    paper: str = ""


@dataclass(frozen=True)
class CataloguedTask(Entry):
    """A task; its sentence names the data, then a semicolon and the model."""

    offline: bool = True
    """As its ``TaskInfo``."""


def _method(name: str, exact: bool, family: str, place: str, sentence: str) -> Method:
    return Method(name, family, sentence, f"odegrad.methods.{place}", exact)


def _optimizer(name: str, family: str, place: str, sentence: str) -> Entry:
    return Entry(name, family, sentence, f"odegrad.methods.optimizers.{place}")


def _task(name: str, kind: str, offline: bool, place: str, sentence: str) -> CataloguedTask:
    return CataloguedTask(name, kind, sentence, f"odegrad.datasets.tasks.{place}", offline)


PEERS = ("torchdiffeq", "torchode", "TorchDiffEqPack", "torchdyn", "xitorch", "diffrax")
"""The families of other libraries' methods: each library is one."""

_BACKWARDS = "solves costate and parameter gradient backwards, reads the state from"

METHODS: tuple[Method, ...] = (
    _method("naive", True, "naive", "gradients.naive:Naive",
            "autograd through every accepted step"),
    _method("adjoint", False, "adjoint", "gradients.adjoint:Adjoint",
            "solves state, costate and parameter gradient backwards"),
    _method("adjoint_seminorm", False, "adjoint", "gradients.adjoint_seminorm:AdjointSeminorm",
            "the adjoint method, parameter gradient outside of the error norm"),
    _method("anode", True, "replay", "gradients.anode:Anode",
            "keeps each block's start, replays the block with a graph"),
    _method("aca", True, "replay", "gradients.aca:Aca",
            "keeps every accepted state, replays one step at a time"),
    _method("revolve", True, "replay", "gradients.revolve:Revolve",
            "keeps a given number of states, replays between them by binomial checkpointing, one step at a time"),
    _method("symplectic_adjoint", True, "discrete adjoint", "gradients.symplectic_adjoint:SymplecticAdjoint",
            "keeps every accepted state, pulls back by the partner method, one function call at a time"),
    _method("mali", True, "reversible", "gradients.mali:Mali",
            "inverts the asynchronous leapfrog (solver alf) step by step: memory free of the number of steps"),
    _method("reversible_rk", True, "reversible", "gradients.reversible_rk:ReversibleRK",
            "inverts a Runge-Kutta method made reversible: memory free of the number of steps"),
    _method("interpolation", False, "interpolation", "gradients.interpolation:Interpolation",
            f"{_BACKWARDS} Chebyshev nodes (IRDM)"),
    _method("interpolation_dense", False, "interpolation", "gradients.interpolation_dense:InterpolationDense",
            f"{_BACKWARDS} the solver's dense output"),
    _method("gauss_adjoint", False, "interpolation", "gradients.gauss_adjoint:GaussAdjoint",
            "solves the costate backwards, state from Chebyshev nodes, parameter gradient by Gauss quadrature"),
    _method("forward_sensitivity", True, "forward", "gradients.forward_sensitivity:ForwardSensitivity",
            "carries the derivatives by state and parameters forward, multiplies by them; for few parameters"),
    Pair("snopt", "pair", "adjoint with the SNOpt optimizer: Kronecker-factored curvature from the same backward solve",
         gradient="adjoint", optimizer="snopt", paper="Liu et al., Second-Order Neural ODE Optimizer, NeurIPS 2021"),
    _method("torchdiffeq_naive", True, "torchdiffeq", "peers.torchdiffeq:TorchdiffeqNaive",
            "torchdiffeq.odeint, as published"),
    _method("torchdiffeq_adjoint", False, "torchdiffeq", "peers.torchdiffeq:TorchdiffeqAdjoint",
            "torchdiffeq.odeint_adjoint, as published"),
    _method("torchdiffeq_seminorm", False, "torchdiffeq", "peers.torchdiffeq:TorchdiffeqSeminorm",
            "torchdiffeq.odeint_adjoint with the seminorm, as published"),
    _method("torchode_autodiff", True, "torchode", "peers.torchode:TorchodeAutodiff",
            "torchode.AutoDiffAdjoint, as published"),
    _method("torchode_joint", False, "torchode", "peers.torchode:TorchodeJoint",
            "torchode.JointBacksolveAdjoint, as published"),
    _method("torchode_per_sample", False, "torchode", "peers.torchode:TorchodePerSample",
            "torchode.BacksolveAdjoint, as published: each sample has its own steps"),
    _method("torchdiffeqpack_aca", True, "TorchDiffEqPack", "peers.torchdiffeqpack:TorchdiffeqpackAca",
            "TorchDiffEqPack.odesolve_adjoint (ACA), as published"),
    _method("torchdiffeqpack_mali", True, "TorchDiffEqPack", "peers.torchdiffeqpack:TorchdiffeqpackMali",
            "TorchDiffEqPack.odesolve_adjoint_sym12 (MALI), as published"),
    _method("torchdyn_autograd", True, "torchdyn", "peers.torchdyn:TorchdynAutograd",
            "torchdyn's ODEProblem with sensitivity autograd, as published"),
    _method("torchdyn_adjoint", False, "torchdyn", "peers.torchdyn:TorchdynAdjoint",
            "torchdyn's ODEProblem with sensitivity adjoint, as published"),
    _method("torchdyn_interpolated", False, "torchdyn", "peers.torchdyn:TorchdynInterpolated",
            "torchdyn's ODEProblem with sensitivity interpolated_adjoint, as published"),
    _method("xitorch_adjoint", False, "xitorch", "peers.xitorch:XitorchAdjoint",
            "xitorch.integrate.solve_ivp, as published"),
    _method("diffrax_checkpointed", True, "diffrax", "peers.diffrax:DiffraxCheckpointed",
            "diffrax with RecursiveCheckpointAdjoint, compiled by jax"),
    _method("diffrax_backsolve", False, "diffrax", "peers.diffrax:DiffraxBacksolve",
            "diffrax with BacksolveAdjoint, compiled by jax"),
)  # fmt: skip
"""Gradient methods and published pairs, in the order of every table and figure."""

GRADIENTS = tuple(method for method in METHODS if not isinstance(method, Pair))
PAIRS: Mapping[str, Pair] = {method.name: method for method in METHODS if isinstance(method, Pair)}
"""Published pairs by the name of the method."""

OPTIMIZERS: tuple[Entry, ...] = (
    _optimizer("adam", "adaptive rates", "first_order:adam", "PyTorch's Adam"),
    _optimizer("adamw", "adaptive rates", "first_order:adamw", "PyTorch's AdamW: the weights decay beside the step"),
    _optimizer("adamax", "adaptive rates", "first_order:adamax", "PyTorch's Adamax: scaled by the largest gradients"),
    _optimizer("sgd", "gradient descent", "first_order:sgd", "PyTorch's SGD, with momentum where asked for"),
    _optimizer("snopt", "curvature", "snopt.factory:snopt",
               "SNOpt: Kronecker-factored curvature from a backward pass, over SGD with momentum"),
)  # fmt: skip
"""The first one is what others are compared with."""

REGULARISERS: tuple[Entry, ...] = (
    Entry("kinetic", "integral", "int |f|^2 / n dt, of RNODE: straight and slow paths"),
    Entry("jacobian", "integral", "int |e^T f_y|^2 / n dt, of RNODE: signs e, the Frobenius norm in the mean"),
    Entry("taylor", "integral", "int |d^K y / dt^K|^2 / n dt, of TayNODE, with the option taylor.order = K"),
    Entry("error", "sum over steps", "the error estimates of the computed steps times their sizes, of ERNODE"),
    Entry("stiffness", "sum over steps", "an eigenvalue's estimate from two stages of each computed step, of ERNODE"),
    Entry("local", "sampled", "the error estimate of one more step from a sampled, detached state, of LRNODE"),
    Entry("steer", "times", "no penalty: the last time is uniform within its weight while training, of STEER"),
    Entry("log_norm", "sampled", "max(mu_2(-J), 0) at a sampled time: the growth that a backward solve would suffer"),
)
"""Penalties on the dynamics that a training can add to its loss."""

SOLVERS: tuple[Entry, ...] = (
    Entry("euler", "fixed steps", "Euler's method, order 1"),
    Entry("midpoint", "fixed steps", "the explicit midpoint rule, order 2"),
    Entry("heun", "fixed steps", "Heun's method, the explicit trapezoidal rule, order 2"),
    Entry("heun3", "fixed steps", "Heun's method of order 3"),
    Entry("rk4", "fixed steps", "the classical Runge-Kutta method, order 4"),
    Entry("adaptive_heun", "adaptive steps", "Heun's method with Euler's for the error, orders 2 and 1"),
    Entry("fehlberg2", "adaptive steps", "Fehlberg's pair of orders 2 and 1"),
    Entry("bosh3", "adaptive steps", "Bogacki and Shampine's pair of orders 3 and 2"),
    Entry("dopri5", "adaptive steps", "Dormand and Prince's pair of orders 5 and 4"),
    Entry("tsit5", "adaptive steps", "Tsitouras's pair of orders 5 and 4"),
    Entry("dopri8", "adaptive steps", "Prince and Dormand's pair of orders 8 and 7"),
    Entry("alf", "adaptive steps", "the asynchronous leapfrog, order 2, which can be inverted"),
    Entry("implicit_euler", "implicit, fixed steps", "the implicit Euler method, order 1, for stiff equations"),
    Entry(
        "implicit_midpoint",
        "implicit, fixed steps",
        "the implicit midpoint rule, order 2, for conservative flows and not for stiff decay",
    ),
    Entry(
        "tr_bdf2",
        "implicit, adaptive steps",
        "trapezoidal rule and backward differences, order 2, for stiff equations at loose tolerances",
    ),
    Entry(
        "kvaerno3",
        "implicit, adaptive steps",
        "Kvaerno's pair of orders 3 and 2, for stiff equations at rtol 1e-3 to 1e-5",
    ),
    Entry(
        "kencarp4",
        "implicit, adaptive steps",
        "Kennedy and Carpenter's pair of orders 4 and 3, for stiff equations: take it where nothing is known",
    ),
    Entry(
        "kvaerno5",
        "implicit, adaptive steps",
        "Kvaerno's pair of orders 5 and 4, for stiff equations at tight tolerances; calls f past the last time",
    ),
    Entry(
        "rodas5p",
        "implicit, adaptive steps",
        "Steinebach's Rosenbrock pair of orders 5 and 4, for stiff equations at tight tolerances and smooth fields",
    ),
    Entry(
        "kencarp4_imex",
        "implicit-explicit, adaptive steps",
        "kencarp4 on field.stiff(t, y) with its explicit partner on field.rest(t, y), orders 4 and 3",
    ),
    Entry(
        "auto_stiff",
        "implicit or explicit, adaptive steps",
        "dopri5, and kencarp4 where stability would bind its steps, orders 5 and 4; for stiffness that comes and goes",
    ),
)


_EXACT = "continuous normalizing flow of concat-squash layers, exact trace"
_HUTCHINSON = "continuous normalizing flow, Hutchinson's trace"
_RNN = "ODE-RNN: an ODE between observations, a gated unit at each"
_VAE = "variational autoencoder, posterior refined by an amortised flow"

TASKS: tuple[CataloguedTask, ...] = (
    _task("digits", "classification", True, "digits:Digits",
          "handwritten digits of 8x8 pixels; conv stem, ODE block of two 3x3 convolutions, linear read-out"),
    _task("digits_mlp", "classification", True, "digits:DigitsMLP",
          "handwritten digits of 8x8 pixels; linear stem, ODE block of two linear layers, linear read-out"),
    _task("mnist", "classification", False, "image_sets:Mnist",
          "70,000 handwritten digits of 28x28 pixels; conv stem, ODE block of two convolutions, linear read-out"),
    _task("fashion_mnist", "classification", False, "image_sets:FashionMnist",
          "70,000 pictures of clothes of 28x28 pixels; the net of mnist"),
    _task("svhn", "classification", False, "image_sets:Svhn",
          "99,289 digits of house numbers in 32x32 pixels, in colour; the net of mnist"),
    _task("cifar10", "classification", False, "image_sets:Cifar10",
          "60,000 photographs of 32x32 pixels, in colour, training images cropped and mirrored; the net of mnist"),
    _task("cifar10_resnet4", "classification", False, "image_sets:Cifar10ResNet4",
          "photographs as in cifar10; convolution with batch norm, ODE block of two with weight norm, linear"),
    _task("circles", "density", True, "plane:Circles",
          f"two concentric rings in the plane; {_EXACT}"),
    _task("moons", "density", True, "plane:Moons",
          f"two interleaved half circles in the plane; {_EXACT}"),
    _task("pinwheel", "density", True, "plane:Pinwheel",
          f"five swirled arms in the plane; {_EXACT}"),
    _task("two_spirals", "density", True, "plane:TwoSpirals",
          f"two spiral arms in the plane; {_EXACT}"),
    _task("eight_gaussians", "density", True, "plane:EightGaussians",
          f"eight Gaussians on a circle in the plane; {_EXACT}"),
    _task("checkerboard", "density", True, "plane:Checkerboard",
          f"the dark squares of a board of four by four; {_EXACT}"),
    _task("wine_density", "density", True, "tables:WineDensity",
          f"13 chemical measurements of 178 wines; {_HUTCHINSON}"),
    _task("breast_cancer_density", "density", True, "tables:BreastCancerDensity",
          f"30 features of cell nuclei in 569 images; {_HUTCHINSON}"),
    _task("miniboone", "density", False, "tables:Miniboone",
          f"43 features of 36,488 neutrino events; {_HUTCHINSON}"),
    _task("gas", "density", False, "tables:Gas",
          f"8 readings of gas sensors, 852,174 rows; {_HUTCHINSON}"),
    _task("power", "density", False, "tables:Power",
          f"6 readings of a household's meters, 1,659,917 rows; {_HUTCHINSON}"),
    _task("hepmass", "density", False, "tables:Hepmass",
          f"21 features of 315,123 simulated collisions; {_HUTCHINSON}"),
    _task("bsds300", "density", False, "tables:Bsds300",
          f"63 grey levels of 1,000,000 patches of photographs; {_HUTCHINSON}"),
    _task("japanese_vowels", "time series", True, "series:JapaneseVowels",
          f"nine speakers by the cepstrum of two vowels, 7 to 29 observations; {_RNN}"),
    _task("basic_motions", "time series", True, "series:BasicMotions",
          f"four activities by a smart watch's 6 channels, 100 observations; {_RNN}"),
    _task("cde_vowels", "time series", True, "series:CDEVowels",
          "nine speakers by the cepstrum of two vowels; neural CDE along a cubic Hermite path of 13 channels"),
    _task("character_trajectories", "time series", False, "series:CharacterTrajectories",
          f"20 letters by a pen's path, 60 to 182 observations; {_RNN}"),
    _task("articulary_word_recognition", "time series", False, "series:ArticularyWordRecognition",
          f"25 words by sensors on tongue and lips, 144 observations; {_RNN}"),
    _task("spoken_arabic_digits", "time series", False, "series:SpokenArabicDigits",
          f"ten spoken digits by their cepstrum, 4 to 93 observations; {_RNN}"),
    _task("latent_spiral", "time series", True, "latent_spiral:LatentSpiral",
          "noisy spirals at 100 times; latent ODE: recurrent encoder, ODE, decoder; evidence lower bound"),
    _task("latent_periodic", "time series", True, "latent_periodic:LatentPeriodic",
          "noisy sinusoids at 10 to 20 times of their own; latent ODE solved for at each one's times"),
    _task("lotka_volterra", "time series", True, "orbits:LotkaVolterra",
          "cycles of predators and prey; MLP field fitted to pieces of them"),
    _task("three_body", "time series", True, "orbits:ThreeBody",
          "three equal masses on disturbed figure-eight orbits; MLP field of all twelve coordinates"),
    _task("bouncing_ball", "time series", True, "hybrid:BouncingBall",
          "heights of a bouncing ball at 40 times; gravity and restitution are fitted through its bounces"),
    _task("integrate_and_fire", "time series", True, "hybrid:IntegrateAndFire",
          "periods of leaky neurons that fire at a threshold; input weight and time constant are fitted"),
    _task("dosing", "time series", True, "hybrid:Dosing",
          "concentrations after repeated doses; elimination and volume by covariates are fitted"),
    _task("vae_digits", "inference", True, "vae_images:VAEDigits",
          f"binary digits of 8x8 pixels; {_VAE}"),
    _task("vae_frey_faces", "inference", False, "vae_images:VAEFreyFaces",
          f"1,965 images of one face, 28x20 pixels, grey by a discretised logistic distribution; {_VAE}"),
    _task("vae_caltech", "inference", False, "vae_images:VAECaltech",
          f"8,671 silhouettes of objects, 28x28 pixels; {_VAE}"),
    _task("linear", "closed form", True, "closed_form:Linear",
          "damped oscillations y' = A y; all of A is fitted to solutions by the matrix exponential"),
    _task("logistic", "closed form", True, "closed_form:Logistic",
          "logistic growth of populations; rates and capacities are fitted"),
    _task("rotation", "closed form", True, "closed_form:Rotation",
          "planes that turn for several periods; their angular velocities are fitted"),
    _task("contracting", "closed form", True, "closed_form:Contracting",
          "y' = A y with eigenvalues -1 and -20; all of A is fitted; breaks what solves the state backwards"),
    _task("equilibrium", "closed form", True, "resting:Equilibrium",
          "a forced decay that starts at its centre and rests there; the centre is fitted"),
    _task("quiet_start", "closed form", True, "resting:QuietStart",
          "a net with fixed weights that starts from zeros, as augmented components do; its biases are fitted"),
    _task("van_der_pol", "stiff", True, "stiff:VanDerPol",
          "relaxation oscillations of the van der Pol equation, mu = 5, or 100 at the size stiff; MLP field fitted to "
          "pieces of them, at mu = 100 the equation's coefficients"),
    _task("van_der_pol_spread", "stiff", True, "stiff:VanDerPolSpread",
          "van der Pol oscillators of unlike stiffness in one batch; the equation's coefficients are fitted"),
    _task("robertson", "stiff", True, "stiff:Robertson",
          "Robertson's chemical reaction over nine decades of time; field of concat-squash layers in log time"),
    _task("prothero_robinson", "stiff", True, "stiff:ProtheroRobinson",
          "a cosine followed at rates up to 1e6; its amplitudes and phases are fitted to the closed form"),
    _task("robertson_raw", "stiff", True, "kinetics:RobertsonRaw",
          "Robertson's chemical reaction in its own time, to 1e4 s at paper; its rate constants are fitted"),
    _task("pollu", "stiff", True, "kinetics:Pollu",
          "air pollution, 20 species and 25 reactions over an hour; all rate constants are fitted"),
    _task("rober_neural", "stiff", True, "kinetics:RoberNeural",
          "Robertson's chemical reaction in its own time, to 40 s; a leaky net learns stiff dynamics"),
    _task("davis_skodje", "stiff", True, "kinetics:DavisSkodje",
          "a fast species on the curve of a slow one, rates up to 1e6; a leaky net learns curve and rates"),
)  # fmt: skip
"""Tasks, in the order of every list."""

KINDS: Mapping[str, Sequence[Entry]] = {
    "methods": METHODS,
    "optimizers": OPTIMIZERS,
    "regularisers": REGULARISERS,
    "solvers": SOLVERS,
    "tasks": TASKS,
}
"""What a name can stand for."""

GROUPS: Mapping[str, str] = {
    "methods": "odegrad.methods",
    "optimizers": "odegrad.optimizers",
    "tasks": "odegrad.tasks",
}
"""The groups of entry points under which other packages offer theirs."""


def offered(kind: str) -> list[EntryPoint]:
    """Return what other packages offer of ``kind``, by name, not loaded; names of the catalogue keep their meaning."""
    known = {entry.name for entry in KINDS[kind]}
    return sorted((e for e in entry_points(group=GROUPS[kind]) if e.name not in known), key=lambda e: e.name)
