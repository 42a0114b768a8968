"""The catalogue tells what methods, solvers, optimizers and tasks state about themselves, and is quick to read."""

import importlib
import itertools
import subprocess
import sys
from pathlib import Path

import pytest

from odegrad import catalogue
from odegrad.commands.listing import LISTINGS
from odegrad.methods.regularisers.chosen import NAMES, OPTIONS
from odegrad.methods.solvers.solver import make_solver, solver_names
from odegrad.registry import default_gradients, gradients, optimizers, tasks
from odegrad.reports.canvas.style import FAMILIES, MARKERS, UNKNOWN_MARKERS, look
from odegrad.reports.names import METHOD_ORDER, sort_key

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("entry", catalogue.GRADIENTS, ids=lambda entry: entry.name)
def test_a_method_is_told_as_it_states_itself(entry):
    """Name, sentence, exactness; a peer is what does not stand on the shared loop; what lies between is in words."""
    traits = gradients.get(entry.name).traits
    assert (entry.name, entry.sentence, entry.exact) == (traits.name, traits.summary, traits.exact)
    assert (entry.family in catalogue.PEERS) == (not traits.shared_loop)
    assert traits.keeps


@pytest.mark.parametrize("pair", catalogue.PAIRS.values(), ids=lambda pair: pair.name)
def test_a_pair_is_of_known_names(pair):
    """It is as exact as its gradient method."""
    method = next(entry for entry in catalogue.GRADIENTS if entry.name == pair.gradient)
    assert pair.exact == method.exact
    assert pair.optimizer in optimizers.names()


@pytest.mark.parametrize("entry", catalogue.TASKS, ids=lambda entry: entry.name)
def test_a_task_is_told_as_it_states_itself(entry):
    """Name, kind, sentence, and whether it works offline; the sentence names data and model."""
    info = tasks.get(entry.name).info
    assert (entry.name, entry.family, entry.sentence, entry.offline) == (
        info.name, info.kind, info.summary, info.offline,
    )  # fmt: skip
    data, _, model = entry.sentence.partition("; ")
    assert data
    assert model


def test_solvers_are_those_there_are():
    """In their order; those with an error estimate choose their steps; the order is told."""
    assert [entry.name for entry in catalogue.SOLVERS] == solver_names()
    for entry in catalogue.SOLVERS:
        solver = make_solver(entry.name)
        assert entry.family.endswith("adaptive steps") == solver.estimates_error
        assert entry.family.startswith("implicit") == solver.implicit
        assert str(solver.order) in entry.sentence.partition("order")[2]


def test_optimizers_are_there():
    """Every target can be called."""
    assert all(callable(optimizers.get(entry.name)) for entry in catalogue.OPTIMIZERS)


def test_every_file_of_a_method_is_in_the_catalogue():
    """A gradient method without an entry would not be found by its name."""
    files = {
        f"odegrad.methods.{folder}.{path.stem}"
        for folder in ("gradients", "peers")
        for path in (ROOT / "methods" / folder).glob("*.py")
        if path.stem != "__init__"
    }
    others = ("mapping", "method", "packing", "jax_field", "jax_operators", "torchdiffeq_solvers")
    shared = {f"odegrad.methods.peers.{name}" for name in others}
    assert files - shared == {entry.target.partition(":")[0] for entry in catalogue.GRADIENTS}


def test_names_are_given_once():
    """Within a kind."""
    for entries in catalogue.KINDS.values():
        names = [entry.name for entry in entries]
        assert len(set(names)) == len(names)


def test_methods_that_grow_or_need_a_package_are_left_out_by_default():
    """By what they state: those whose forward cost has a term of the parameters, and those of optional libraries."""
    grown = {name for name in gradients.names() if gradients.get(name).traits.grows_with == "parameters"}
    assert grown == {name for name in gradients.names() if "each with p" in gradients.get(name).traits.cost_forward}
    peers = {name: gradients.get(name).traits.peer for name in gradients.names()}
    optional = {name for name, peer in peers.items() if peer and peer.optional}
    assert default_gradients() == [name for name in gradients.names() if name not in grown | optional]
    assert grown
    assert optional


def test_family_of_another_library_s_method_is_the_library():
    """As its traits say; odegrad's own have none."""
    for entry in catalogue.GRADIENTS:
        peer = gradients.get(entry.name).traits.peer
        assert entry.family == peer.distribution if peer else entry.family not in catalogue.PEERS


def test_looks_come_from_family_and_place():
    """Colour and marker are unique; neighbours differ in marker; a colour is a family's, and hollow are the peers."""
    entries = [*catalogue.METHODS, *(e for e in catalogue.OPTIMIZERS if e.name not in catalogue.PAIRS)]
    looks = {entry.name: look(entry.name) for entry in entries}
    assert len({(each.colour, each.marker, each.hollow) for each in looks.values()}) == len(entries)
    assert {each.marker for each in looks.values()} <= set(MARKERS)
    assert not set(MARKERS) & set(UNKNOWN_MARKERS)
    assert {entry.family for entry in [*catalogue.METHODS, *catalogue.OPTIMIZERS]} == set(FAMILIES)
    for entry in entries:
        assert looks[entry.name].colour == FAMILIES[entry.family][0]
        assert looks[entry.name].hollow == (entry.family in catalogue.PEERS)
    for kind in (catalogue.METHODS, catalogue.OPTIMIZERS):
        markers = [looks[entry.name].marker for entry in kind]
        assert all(a != b for a, b in itertools.pairwise(markers))


def test_the_order_of_the_reports_is_the_catalogue_s():
    """Others follow by name."""
    names = [entry.name for entry in catalogue.METHODS]
    assert list(METHOD_ORDER) == names
    assert sorted(["zeta", "beta", *reversed(names)], key=sort_key) == [*names, "beta", "zeta"]


LISTED = """
import sys
sys.argv = ["odegrad", "list", *sys.argv[1:]]
from odegrad.cli import main
try:
    main()
except SystemExit as done:
    assert not done.code, done.code
slow = {"torch", "pandas", "matplotlib", "sklearn"} & set(sys.modules)
assert not slow, slow
"""


@pytest.mark.parametrize("kind", ["", *LISTINGS])
def test_a_list_imports_nothing_slow(kind):
    """A fresh process lists every name of the catalogue, or of one kind, without torch, pandas or matplotlib."""
    words = [sys.executable, "-c", LISTED, *kind.split()]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    for name, entries in catalogue.KINDS.items():
        shown = kind in {"", name}
        assert all((entry.sentence in done.stdout) >= shown for entry in entries)
        assert all((entry.name in done.stdout) >= shown for entry in entries)


def test_targets_resolve():
    """Every ``module:attribute`` is there."""
    for entry in [*catalogue.GRADIENTS, *catalogue.OPTIMIZERS, *catalogue.TASKS]:
        module, _, attribute = entry.target.partition(":")
        assert hasattr(importlib.import_module(module), attribute), entry


def test_regularisers_are_those_that_can_be_built():
    """Every name of the catalogue has a weight of its own, and the other way round."""
    assert [entry.name for entry in catalogue.REGULARISERS] == list(NAMES)
    assert all(option.partition(".")[0] in NAMES for option in OPTIONS)
