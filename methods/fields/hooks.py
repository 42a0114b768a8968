"""What must not act inside of a pull-back of one solve: hooks of the whole gradient, caches of parametrizations."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from torch import Tensor
from torch.nn.utils import parametrize


@contextmanager
def trained_again(frozen: Iterable[Tensor]) -> Iterator[None]:
    """Let tensors that have been frozen since the solve require a gradient inside."""
    changed = [x.requires_grad_() for x in frozen]
    try:
        yield
    finally:
        for x in changed:
            x.requires_grad_(False)


@contextmanager
def hooks_at_rest(tensors: Iterable[Tensor]) -> Iterator[None]:
    """Leave out the hooks of ``tensors`` (``register_hook``) inside: they are for the whole gradient."""
    # Cleared in place: autograd holds the dictionary itself.
    resting = [(hooks, dict(hooks)) for x in tensors if (hooks := x._backward_hooks)]
    if not resting:
        yield
        return
    for hooks, _ in resting:
        hooks.clear()
    try:
        yield
    finally:
        for hooks, kept in resting:
            added = dict(hooks)
            hooks.clear()
            hooks.update({**kept, **added})


@contextmanager
def parametrizations_uncached() -> Iterator[None]:
    """Let parametrized tensors be computed at every call inside.

    What ``parametrize.cached()`` has kept may have been computed without a graph, or be the end of one that is no
    part of the call.
    """
    depth: int = parametrize._cache_enabled
    if not depth:
        yield
        return
    parametrize._cache_enabled = 0
    try:
        yield
    finally:
        parametrize._cache_enabled = depth
