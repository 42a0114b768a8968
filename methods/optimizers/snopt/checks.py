"""What SNOpt refuses: options out of range, models it cannot work on, states of something else."""

import math
from collections.abc import Mapping

from torch import nn
from torch.optim.optimizer import StateDict

from odegrad.errors import UsageError
from odegrad.methods.optimizers.snopt.layers import Layer, matrix_shape


def check_options(
    model: nn.Module, eps: float, alpha: float, update_freq: int, step_size: float, kl_clip: float | None = None
) -> None:
    """Raise UsageError if there is no model, an option is out of range, or parameters lie on two devices."""
    if not isinstance(model, nn.Module):
        raise UsageError(
            f"model: expected the nn.Module that holds every parameter, got {type(model).__name__}; pass the model "
            "itself, not model.parameters()"
        )
    if not (_is_number(eps) and eps > 0):
        raise UsageError(f"eps: expected a positive number, got {eps!r}; 0.03 to 0.1 are usual")
    if not (_is_number(alpha) and 0 <= alpha < 1):
        raise UsageError(f"alpha: expected a number in [0, 1), got {alpha!r}; 0.75 is usual")
    if isinstance(update_freq, bool) or not isinstance(update_freq, int) or update_freq < 1:
        raise UsageError(f"update_freq: expected a positive whole number, got {update_freq!r}; 100 is usual")
    if not (_is_number(step_size, infinite=True) and step_size > 0):
        raise UsageError(f"step_size: expected a positive time, got {step_size!r}; a fifth of the interval is usual")
    if kl_clip is not None and not (_is_number(kl_clip, infinite=True) and kl_clip > 0):
        raise UsageError(f"kl_clip: expected a positive number of nats, got {kl_clip!r}; 1e-3 is usual, None for none")
    devices = {str(p.device) for p in model.parameters()}
    if len(devices) > 1:
        raise UsageError(f"model: expected all parameters on one device, got {sorted(devices)}; move it with .to()")


def _is_number(value: object, *, infinite: bool = False) -> bool:
    if not isinstance(value, int | float) or isinstance(value, bool):
        return False
    return not math.isnan(value) and (infinite or math.isfinite(value))


def check_arguments(fields: object, base: object) -> None:
    """Raise UsageError if ``fields`` are no modules, or ``base`` makes no optimizer."""
    if not isinstance(fields, list | tuple) or not all(isinstance(field, nn.Module) for field in fields):
        raise UsageError(f"fields: expected the ODE's nn.Module, or a list of such, got {fields!r}; pass model.field")
    if not callable(base):
        raise UsageError(
            f"base: expected a function that makes an optimizer, got {type(base).__name__}; pass "
            "lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9)"
        )


def check_state(state_dict: StateDict, layers: Mapping[str, Layer], *, with_end_time: bool) -> None:
    """Raise UsageError if the state is not SNOpt's, or of layers that the model does not have."""
    missing = sorted({"base", "iteration", "layers", *(["t1"] if with_end_time else [])} - set(state_dict))
    if missing:
        raise UsageError(
            f"state_dict: expected what SNOpt.state_dict() returns, got one without {missing}; "
            "load another optimizer's state into the base optimizer"
        )
    unknown = sorted(set(state_dict["layers"]) - set(layers))
    if unknown:
        raise UsageError(f"state_dict: it has layers {unknown}, the model has {sorted(layers)}; load it into its model")
    for name, saved in state_dict["layers"].items():
        shape, expected = tuple(saved["curvature"].shape), matrix_shape(layers[name])
        if shape != expected:
            raise UsageError(
                f"state_dict: expected curvature of shape {expected} for layer {name}, got {shape}; load it into a "
                "model of the same widths, with the same biases trained"
            )
