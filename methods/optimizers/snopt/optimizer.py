"""SNOpt: a Kronecker-factored preconditioner over a base optimizer, fed by a tap on the backward pass."""

import logging
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor, nn, optim
from torch.optim.optimizer import StateDict

from odegrad.contracts import Solve, Tap
from odegrad.errors import UsageError
from odegrad.methods.optimizers.snopt.checks import check_arguments, check_options, check_state
from odegrad.methods.optimizers.snopt.factors import (
    Eigenbasis,
    FactorSum,
    check_finite_factors,
    eigenbasis,
)
from odegrad.methods.optimizers.snopt.integration_time import IntegrationTime
from odegrad.methods.optimizers.snopt.layers import Layer, name_the_rest, preconditionable
from odegrad.methods.optimizers.snopt.low_rank import LowRank, pull_back_each
from odegrad.methods.optimizers.snopt.preconditioner import clip, layer_moves
from odegrad.methods.optimizers.snopt.tap import CurvatureTap, OutsideHooks, undisturbed

log = logging.getLogger(__name__)

Base = Callable[[Iterable[nn.Parameter]], optim.Optimizer]
"""Makes the base optimizer over the parameters."""


NO_TAP = ""
"""Stands among the names of missing layers once a forgotten tap has been told of."""
REMEDY = "call next_tap() before each forward pass, give it to the solve (odeint(..., tap=tap)), then backward()"


class SNOpt(optim.Optimizer):
    """Second-order Neural ODE optimizer (Liu, Chen and Theodorou, Second-Order Neural ODE Optimizer, NeurIPS 2021).

    Every ``update_freq`` iterations the factors of each linear and convolutional layer in ``fields`` are integrated
    along the backward solve; between, only the running curvature moves. The base optimizer steps with the
    preconditioned gradients; its L2 weight decay is added after the preconditioning. ``p.grad`` is left as it was.
    Factors and eigenbases of half-precision layers are kept in float32. Losses are batch means.

    Call ``next_tap()`` before each forward pass and give the tap to the gradient method (``method.with_tap(tap)``).

    Parameters
    ----------
    model
        Holds every parameter.
    fields
        The vector field inside ``model``, or several.
    base
        Makes the base optimizer over the model's parameters.
    eps
        Damping, added to the curvature.
    alpha
        Memory of the running curvature, in [0, 1).
    update_freq
        Iterations between two refreshes of the factors; the first iteration is one.
    step_size
        Largest distance between curvature samples, in units of the ODE's time: the factors' error goes as its square.
        Gradient methods that sample at step ends take all of those instead.
    kl_clip
        Largest change of the model's predictions in one step, as the Kullback-Leibler divergence (in nats) that the
        curvature foresees; a longer step is shortened (see ``clip``). No limit if None.
    full_precond
        Whether layers outside of the fields get (ordinary) Kronecker factors too.
    low_rank
        The curvature's vectors: by default the loss's own costate (R = 1, the empirical Fisher matrix); otherwise R
        of them, by backward passes of their own on refresh iterations (``sample``).
    integration_time
        Moves the ODE's end time along with the parameters; it stays as it is if None.

    Raises
    ------
    UsageError
        If an option is out of range, there is no field with a layer to precondition, or parameters lie on two devices.
    """

    def __init__(
        self,
        model: nn.Module,
        fields: nn.Module | Sequence[nn.Module],
        base: Base,
        *,
        eps: float = 0.05,
        alpha: float = 0.75,
        update_freq: int = 100,
        step_size: float = 0.2,
        kl_clip: float | None = None,
        full_precond: bool = False,
        low_rank: LowRank | None = None,
        integration_time: IntegrationTime | None = None,
    ) -> None:
        check_options(model, eps, alpha, update_freq, step_size, kl_clip)
        fields = [fields] if isinstance(fields, nn.Module) else fields
        check_arguments(fields, base)
        self.inside = preconditionable(fields, model)
        if not self.inside:
            raise UsageError(
                "fields: expected vector fields with at least one trained nn.Linear or nn.Conv2d layer, found none; "
                "pass the ODE's nn.Module, or use a first-order optimizer"
            )
        ids = {id(layer) for layer in self.inside.values()}
        everywhere = preconditionable([model], model) if full_precond else {}
        self.outside = {name: layer for name, layer in everywhere.items() if id(layer) not in ids}
        self.layers: dict[str, Layer] = {**self.inside, **self.outside}
        name_the_rest(model, [model] if full_precond else fields, list(self.layers.values()))
        self.eps, self.alpha, self.update_freq, self.step_size = eps, alpha, update_freq, step_size
        self.kl_clip = kl_clip
        self.base = base(model.parameters())
        super().__init__(self.base.param_groups, self.base.defaults)
        self.param_groups = self.base.param_groups
        self.state = self.base.state
        self.model = model
        self.low_rank, self.integration_time = low_rank, integration_time
        self.iteration = 0
        self.bases: dict[str, Eigenbasis] = {}
        self._sums: dict[str, FactorSum] | None = None
        self._hooks: OutsideHooks | None = None
        self._named_missing: set[str] = set()

    def next_tap(self) -> Tap | None:
        """Return the tap for the coming backward pass if it refreshes the factors or moves t1, otherwise None."""
        tap: Tap | None = None
        if self.iteration % self.update_freq == 0:
            self._drop_hooks()
            self._sums = {name: FactorSum() for name in self.layers}
            self._hooks = OutsideHooks(self.outside, self._sums)
            tap = CurvatureTap(self.inside, self._sums, self.step_size)
        return tap if self.integration_time is None else self.integration_time.tap(tap)

    def sample(self, solve: Solve, batch: object) -> bool:
        """Take the samples of the last tap, which watches ``solve``, by backward passes from R terminal vectors.

        Gradients, buffers and random states stay as they were. Return False, and do nothing, where R = 1: the loss's
        own backward pass takes them.
        """
        if self.low_rank is None or self._sums is None:
            return False
        parameters = self._trained()
        with undisturbed(self.model, parameters[0].device):
            terms = self.low_rank.terms(solve, batch)
            for total in self._sums.values():
                total.rank = len(terms)
            pull_back_each(terms, parameters)
        self._drop_hooks()
        if self.integration_time is not None:
            self.integration_time.forget()
        return True

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Precondition the gradients and let the base optimizer step with them.

        Raises
        ------
        UsageError
            If a closure is given: the curvature samples belong to one backward pass.
        NonFiniteError
            If a layer's factors, or the end time's gradient, are not finite.
        """
        if closure is not None:
            raise UsageError("closure: SNOpt takes none; call backward() once, then step()")
        refreshed = self._refresh()
        if self.integration_time is not None:
            self.integration_time.before_step(self._trained())
        moves = []
        for name, basis in self.bases.items():
            # The running curvature lives in the basis of its refresh: the rotated gradients of between move it along.
            alpha = None if name in refreshed else self.alpha
            moves += layer_moves(self.layers[name], basis, self.eps, alpha)
        if self.kl_clip is not None:
            clip(moves, self.base.param_groups, self.kl_clip)
        # The base optimizer reads p.grad: the moves stand there for its step only, and then the gradients again.
        try:
            for p, _, move in moves:
                p.grad = move
            self.base.step()
        finally:
            for p, grad, _ in moves:
                p.grad = grad
        if self.integration_time is not None:
            self.integration_time.after_step(self._trained())
        self.iteration += 1
        return None

    def state_dict(self) -> StateDict:
        """Return the base optimizer's state, the iteration and the eigenbases; between two steps."""
        layers = {
            name: {
                "input_basis": b.input_basis,
                "output_basis": b.output_basis,
                "curvature": b.curvature,
                "samples": b.samples,
            }
            for name, b in self.bases.items()
        }
        state = {"base": self.base.state_dict(), "iteration": self.iteration, "layers": layers}
        return state if self.integration_time is None else state | {"t1": self.integration_time.state_dict()}

    def load_state_dict(self, state_dict: StateDict) -> None:
        """Continue from ``state_dict()`` bit for bit.

        Raises
        ------
        UsageError
            If the state is not SNOpt's, or of layers that this model does not have.
        """
        check_state(state_dict, self.layers, with_end_time=self.integration_time is not None)
        self._drop_hooks()
        self._sums = None
        self.base.load_state_dict(state_dict["base"])
        self.param_groups, self.state = self.base.param_groups, self.base.state
        self.iteration = state_dict["iteration"]
        if self.integration_time is not None:
            self.integration_time.load_state_dict(state_dict["t1"])
        self.bases = {}
        for name, saved in state_dict["layers"].items():
            device = self.layers[name].weight.device
            a, b, s = (saved[k].to(device, copy=True) for k in ("input_basis", "output_basis", "curvature"))
            self.bases[name] = Eigenbasis(a, b, s, saved["samples"])

    def _trained(self) -> list[Tensor]:
        return [p for p in self.model.parameters() if p.requires_grad]

    def _refresh(self) -> set[str]:
        """Turn finished sums into eigenbases; return the layers that got a new one."""
        self._drop_hooks()
        if self._sums is None:
            if self.iteration % self.update_freq == 0 and NO_TAP not in self._named_missing:
                self._named_missing.add(NO_TAP)
                log.warning("SNOpt was asked for no tap though a refresh is due: %s", REMEDY)
            return set()
        sums, self._sums = self._sums, None
        check_finite_factors(sums)
        found = {name: eigenbasis(name, total) for name, total in sums.items()}
        self.bases |= {name: basis for name, basis in found.items() if basis is not None}
        missing = {name for name, basis in found.items() if basis is None} - self._named_missing
        if missing:
            log.warning(
                "SNOpt saw no curvature sample of %s: left to the base optimizer; %s",
                ", ".join(sorted(missing)),
                REMEDY,
            )
            self._named_missing |= missing
        return {name for name, basis in found.items() if basis is not None}

    def _drop_hooks(self) -> None:
        if self._hooks is not None:
            self._hooks.remove()
            self._hooks = None
