"""What a field holds when a solve begins, and how a pull-back that calls it again finds it as it was.

A backward pass that evaluates f once more must evaluate the same f. Parameters may have been swapped by then
(``functional_call``, an assignment, ``load_state_dict(assign=True)``), a context of the batch may have been replaced,
the field may have been put into another mode. All of this is undone for the backward pass; what was overwritten in
place cannot be, and is refused by its name.
"""

import operator
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import _global_forward_hooks, _global_forward_pre_hooks
from torch.nn.parameter import is_lazy

from odegrad.errors import UsageError
from odegrad.methods.fields.draws import RandomSource, source_of
from odegrad.methods.fields.hooks import hooks_at_rest, parametrizations_uncached, trained_again

_OF_EVERY_MODULE = frozenset(nn.Module().__dict__) - {"training"}
"""Attributes that PyTorch's own module machinery keeps."""

_HOOKS = (
    ("_forward_hooks", ("_forward_hooks_with_kwargs", "_forward_hooks_always_called")),
    ("_forward_pre_hooks", ("_forward_pre_hooks_with_kwargs",)),
)
"""Where a module keeps what is called with its forward, and what is noted of that."""

_LONGEST = 10_000
"""A longer list is data, and is not looked through for tensors."""

_SMALL = 1 << 14
"""Of a buffer of at most so many numbers a copy is kept during a solve."""

_MISSING = object()


@dataclass
class _Space:
    """A dictionary or list of the field, and what it held."""

    path: str
    live: Any
    then: Any
    own: set[object] = field(default_factory=set)
    """Keys that f itself writes: replays write them again."""

    def name(self, key: object) -> str:
        """Say which of its places ``key`` is."""
        if not isinstance(self.live, dict):
            return f"{self.path}[{key!r}]"
        return f"{self.path}.{key}" if self.path else str(key)

    def as_it_was(self) -> bool:
        """Return whether the same objects are in it."""
        live, then = self.live, self.then
        if len(live) != len(then):
            return False
        if isinstance(live, dict):
            return all(map(operator.is_, live.values(), then.values())) and all(map(operator.is_, live, then))
        return all(map(operator.is_, live, then))

    def changed(self) -> list[object]:
        """Return the keys under which another object lies."""
        live, then = self.live, self.then
        if not isinstance(live, dict):
            return [] if len(live) != len(then) else [i for i, x in enumerate(then) if live[i] is not x]
        return [k for k in {**then, **live} if live.get(k, _MISSING) is not then.get(k, _MISSING)]


class Held:
    """A snapshot of what ``module`` and all that it reaches hold: tensors, modes, plain attributes, hooks, generators.

    Attributes of modules are looked through, and lists, tuples and dictionaries in them; modules that lie in such
    places belong to it, and the modules of bound methods.
    """

    def __init__(self, module: nn.Module) -> None:
        self.tensors: dict[int, Tensor] = {}
        self.names: dict[int, str] = {}
        self.sources: list[RandomSource] = []
        self._places: dict[int, list[tuple[_Space, object]]] = {}
        self._spaces: list[_Space] = []
        self._moving: set[int] = set()
        self._resting: list[tuple[Tensor, Tensor]] = []
        self._numbers: dict[int, Tensor] = {}
        """What small buffers held, by their ids."""
        self._seen: set[int] = set()
        self._classes: list[tuple[nn.Module, type[nn.Module]]] = []
        self._unhooked: list[dict[Any, Any]] = []
        """Where no hook of a forward was: most often nowhere is one, and this costs no copy."""
        for hooks in (_global_forward_hooks, _global_forward_pre_hooks):
            if hooks:
                self._space("", hooks)
            else:
                self._unhooked.append(hooks)
        self._waiting: list[tuple[nn.Module, str]] = [(module, "")]
        while self._waiting:
            self._look_through(*self._waiting.pop())
        self._versions = {key: _version(x) for key, x in self.tensors.items()}
        self._at_start: list[tuple[Any, Any]] = []
        """Dictionaries and lists that the solve has changed, and what lay in them."""
        self._settled = False
        self.written: list[str] = []
        """The names of what f itself wrote to in the solve: counters, caches, buffers that no normalisation moves."""
        self.tensors_written: list[str] = []
        """Among them those of tensors."""
        self._kept: list[tuple[Tensor, int, str]] = []
        self._addresses: list[tuple[Tensor, int]] = []

    def _look_through(self, module: nn.Module, path: str) -> None:
        if id(module) in self._seen:
            return
        self._seen.add(id(module))
        self._classes.append((module, type(module)))
        attributes, prefix = module.__dict__, f"{path}." if path else ""
        self._look_at_hooks(path, attributes)
        space = self._space(path, attributes)
        for name in ("_parameters", "_buffers"):
            inner: Mapping[str, Tensor | None] = attributes[name]
            if inner:
                holder = self._space(path, inner)
                for key, x in inner.items():
                    if x is not None:
                        self._tensor(holder, key, x, prefix + key)
        if attributes["_modules"]:
            self._space(path, attributes["_modules"])
            self._waiting += [(m, prefix + k) for k, m in attributes["_modules"].items() if m is not None]
        buffers = [x for x in attributes["_buffers"].values() if x is not None and not is_lazy(x)]
        if attributes.get("track_running_stats", False):
            # A normalisation layer moves them in training, of which their versions do not tell.
            if attributes["training"]:
                self._moving |= {id(x) for x in buffers}
            else:
                self._resting += [(x, x.detach().clone()) for x in buffers]
        else:
            self._numbers.update((id(x), x.detach().clone()) for x in buffers if x.numel() <= _SMALL)
        for key, value in attributes.items():
            if key not in _OF_EVERY_MODULE:
                self._value(space, key, value, prefix + key)

    def _look_at_hooks(self, path: str, attributes: Mapping[str, Any]) -> None:
        for name, notes in _HOOKS:
            if attributes[name]:
                for key in (name, *notes):
                    self._space(path, attributes[key])
            else:
                self._unhooked.append(attributes[name])

    def _space(self, path: str, live: Any) -> _Space:
        space = _Space(path, live, live.copy())
        self._spaces.append(space)
        return space

    def _tensor(self, space: _Space, key: object, x: Tensor, name: str) -> None:
        self.tensors[id(x)] = x
        self.names.setdefault(id(x), name)
        self._places.setdefault(id(x), []).append((space, key))

    def _value(self, space: _Space, key: object, value: object, name: str) -> None:
        # The plainest first: most attributes are numbers.
        if value is None or isinstance(value, (bool, int, float, str)):
            return
        if isinstance(value, Tensor):
            self._tensor(space, key, value, name)
        elif isinstance(value, nn.Module):
            self._waiting.append((value, name))
        elif isinstance(value, tuple):
            for i, x in enumerate(value):
                self._value(space, key, x, f"{name}[{i}]")
        elif isinstance(value, (list, dict)):
            if id(value) not in self._seen and len(value) <= _LONGEST:
                self._seen.add(id(value))
                inner = self._space(name, value)
                for k, x in list(value.items() if isinstance(value, dict) else enumerate(value)):
                    self._value(inner, k, x, f"{name}[{k!r}]")
        elif isinstance(value, MethodType):
            self._value(space, key, value.__self__, name)
        else:
            source = source_of(value)
            if source is not None:
                self.sources.append(source)

    def name(self, x: Tensor) -> str:
        """Say in words where the field has ``x`` from, with a space behind; what is not known is a tensor."""
        return f"the tensor {self.names[id(x)]!r} " if id(x) in self.names else "a tensor "

    def forget(self, x: Tensor) -> None:
        """Leave ``x`` to itself: it is no part of the field's dynamics, and it may have a long history."""
        self.tensors.pop(id(x), None)
        for space, key in self._places.pop(id(x), ()):
            space.own.add(key)
            _set(space.then, key, None)

    def settle(self, trained: Sequence[Tensor]) -> None:
        """Take the solve as done: what f has written itself is its own; note what must not change any more.

        ``trained`` are watched by autograd, which knows their versions.
        """
        self._settled = True
        for space in self._spaces:
            if space.as_it_was():
                continue
            self._at_start.append((space.live, space.then.copy()))
            if not isinstance(space.live, dict) and len(space.live) != len(space.then):
                space.then = None
                self.written.append(space.path)
                continue
            for key in space.changed():
                self.written.append(space.name(key))
                value = _get(space.live, key)
                # A tensor that f computed once, and reads from then on, is a part of it.
                before = _get(space.then, key)
                if isinstance(value, Tensor) and (before is None or before is _MISSING):
                    space.then[key] = value
                else:
                    space.own.add(key)
        self._spaces = [space for space in self._spaces if space.then is not None]
        watched = {id(x) for x in trained}
        self.tensors_written = [
            self.names[key]
            for key, x in self.tensors.items()
            if key not in watched and key not in self._moving and self._versions[key] != _version(x)
        ]
        self.written += self.tensors_written
        self._kept = [
            (x, version, self.names[key])
            for key, x in self.tensors.items()
            if key not in watched
            and key not in self._moving
            and (version := self._versions[key]) is not None
            and x._version == version
        ]
        self._addresses = [(x, x.data_ptr()) for x in trained if x.is_leaf and type(x) in (Tensor, nn.Parameter)]

    @contextmanager
    def put_back(self) -> Iterator[None]:
        """Put back behind what lies in the field's places now, and its tensors' numbers: for calls of no effect."""
        spaces = [(space.live, space.live.copy()) for space in self._spaces]
        spaces += [(live, live.copy()) for live, _ in self._at_start]
        known = [(x, version) for x in self.tensors.values() if (version := _version(x)) is not None]
        numbers = [(x, version, x.detach().clone()) for x, version in known]
        try:
            yield
        finally:
            for live, before in spaces:
                _refill(live, before)
            with torch.no_grad():
                for x, version, value in numbers:
                    if x._version != version:
                        x.copy_(value)

    def begin_anew(self) -> None:
        """Make what f has written to in the solve what it was at the start; of large tensors nothing is known."""
        for live, then in self._at_start:
            _refill(live, then)
        with torch.no_grad():
            for key, value in self._numbers.items():
                if self._versions[key] != _version(self.tensors[key]):
                    self.tensors[key].copy_(value)

    @contextmanager
    def as_it_was(self, stand_ins: Mapping[int, Tensor], trained: Sequence[Tensor]) -> Iterator[None]:
        """Let the field hold inside what it held, and put what it holds now back behind.

        Parameters
        ----------
        stand_ins
            Leaves that stand in for computed tensors, by the ids of these: the graph of a call ends at them.
        trained
            Tensors whose hooks are left for the whole gradient.

        Raises
        ------
        UsageError
            If a tensor has been overwritten since.
        """
        undo: list[tuple[object, object, object, object]] = []
        frozen = [x for x in trained if not x.requires_grad]
        other = [(m, then, type(m)) for m, then in self._classes if type(m) is not then] if self._settled else []
        try:
            for module, then, _ in other:
                module.__class__ = then
            if self._settled and any(self._unhooked):
                self._unhook(undo)
            # While the solve is under way they hold what they did, but for what a call with stand-ins has written.
            for space in self._spaces if self._settled or stand_ins else ():
                if not space.as_it_was():
                    for key in space.changed():
                        if key not in space.own:
                            _put(undo, space.live, key, _get(space.then, key))
            for key, leaf in stand_ins.items():
                for space, at in self._places.get(key, ()):
                    _put(undo, space.live, at, _exchanged(space.live[at], {key: leaf}))
            self._refuse_overwritten()
            again = trained_again(frozen) if frozen else nullcontext()
            with again, hooks_at_rest(trained), parametrizations_uncached():
                yield
        finally:
            for module, _, now in other:
                module.__class__ = now
            _undone(undo)

    @contextmanager
    def lending(self, lent: Mapping[int, Tensor], leaves: Mapping[int, int]) -> Iterator[None]:
        """Let the field hold inside the tensors ``lent`` in the places of those of these ids, for one call.

        ``leaves`` says which tensor, by its id, a leaf of that id stands in for.
        """
        undo: list[tuple[object, object, object, object]] = []
        new = {**lent, **{leaf: lent[key] for leaf, key in leaves.items() if key in lent}}
        try:
            for key in lent:
                for space, at in self._places.get(key, ()):
                    _put(undo, space.live, at, _exchanged(space.live[at], new))
            with parametrizations_uncached():
                yield
        finally:
            _undone(undo)

    def _unhook(self, undo: list[tuple[Any, Any, object, object]]) -> None:
        """Take away the hooks of forwards that have come where none was."""
        for hooks in self._unhooked:
            for key in list(hooks):
                _put(undo, hooks, key, _MISSING)

    def _refuse_overwritten(self) -> None:
        moved = [name for x, version, name in self._kept if x._version != version]
        moved += [self.names[id(x)] for x, value in self._resting if not torch.equal(x, value)]
        for name in moved:
            raise UsageError(
                f"field: {name!r} was changed in place between the forward and the backward pass, which needs the "
                "old values; call backward() before changing it, replace it by a new tensor, or take gradient "
                "method naive"
            )
        for x, address in self._addresses:
            if x.data_ptr() != address:
                raise UsageError(
                    f"field: the numbers of {self.names.get(id(x), 'a trained tensor')!r} were exchanged between the "
                    "forward and the backward pass (.data = ..., .to()), which needs the old ones; call backward() "
                    "before"
                )


def _version(x: Tensor) -> int | None:
    return None if is_lazy(x) or x.is_inference() else x._version


def _get(live: Any, key: object) -> object:
    return live.get(key, _MISSING) if isinstance(live, dict) else live[key]


def _set(live: Any, key: object, value: object) -> None:
    if value is _MISSING:
        live.pop(key, None)
    else:
        live[key] = value


def _refill(live: Any, held: Any) -> None:
    live.clear()
    if isinstance(live, dict):
        live.update(held)
    else:
        live.extend(held)


def _put(undo: list[tuple[object, object, object, object]], live: object, key: object, value: object) -> None:
    undo.append((live, key, value, _get(live, key)))
    _set(live, key, value)


def _undone(undo: list[tuple[Any, Any, object, object]]) -> None:
    """Put back what ``_put`` has noted."""
    for live, key, inside, outside in reversed(undo):
        # What f has written meanwhile is its own.
        if _get(live, key) is inside:
            _set(live, key, outside)


def _exchanged(value: object, new: Mapping[int, Tensor]) -> object:
    """Return ``value`` with other tensors in the places of those of the ids in ``new``; tuples are made anew."""
    if isinstance(value, tuple):
        parts: list[Any] = [_exchanged(x, new) for x in value]
        return type(value)(*parts) if hasattr(value, "_fields") else tuple(parts)
    return new.get(id(value), value)
