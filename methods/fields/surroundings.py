"""What surrounds the calls of a field: autocast, which a solver's own arithmetic is not under, kernels, transforms."""

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor
from torch._functorch.pyfunctorch import temporarily_clear_interpreter_stack
from torch.autograd import forward_ad
from torch.nn.attention import SDPBackend, sdpa_kernel


@dataclass(frozen=True)
class Autocast:
    """Autocast as it was when a solve began."""

    device_type: str
    dtype: torch.dtype

    @classmethod
    def now(cls, device_type: str) -> "Autocast | None":
        """Return the state at this moment; None where autocast is off."""
        if not torch.is_autocast_enabled(device_type):
            return None
        return cls(device_type, torch.get_autocast_dtype(device_type))

    def entered(self) -> torch.autocast:
        """Return the context in which f is called."""
        # Without the cache: a weight that was cast without a graph would be found again by a call with one, and lose
        # its gradient.
        return torch.autocast(self.device_type, self.dtype, cache_enabled=False)


@contextmanager
def autocast_off(device_type: str) -> Iterator[None]:
    """Compute in the tensors' own types inside: steps, interpolants and sums of gradients."""
    if not torch.is_autocast_enabled(device_type):
        yield
        return
    with torch.autocast(device_type, enabled=False):
        yield


def out_of_inference() -> AbstractContextManager[object]:
    """Let graphs be made inside although the caller is in inference mode, where ``enable_grad`` makes none."""
    return torch.inference_mode(False) if torch.is_inference_mode_enabled() else nullcontext()


def usable(grad: Tensor) -> Tensor:
    """Return a cotangent that was made in inference mode as a tensor that may be written to outside of it."""
    return grad.clone() if grad.is_inference() else grad


def inside_transform() -> bool:
    """Return whether the call is inside of a transform of ``torch.func``."""
    return torch._C._are_functorch_transforms_active()


def inside_derivative() -> bool:
    """Return whether the call is inside of a transform of ``torch.func``, or of forward mode with its dual numbers."""
    return inside_transform() or forward_ad._current_level >= 0


def outside_transforms() -> AbstractContextManager[object]:
    """Make tensors inside that no transform wraps: they may outlive it."""
    return temporarily_clear_interpreter_stack() if inside_transform() else nullcontext()


def outside_of_their_transforms(tensors: Iterable[Tensor]) -> AbstractContextManager[object]:
    """Let operations on ``tensors`` be done outside of transforms, if none of these is what one is of.

    A transform takes all that is computed inside of it for its own, numbers too on which nothing depends.
    """
    wrapped = any(map(torch._C._functorch.is_functorch_wrapped_tensor, tensors))
    return nullcontext() if wrapped else outside_transforms()


def with_second_derivatives() -> AbstractContextManager[None]:
    """Let attention be computed inside by operations that can be differentiated twice; fused ones cannot."""
    kernels: AbstractContextManager[None] = sdpa_kernel(SDPBackend.MATH)
    return kernels
