"""Other libraries' methods: counts against a diary, gradients against the reference, refusals; skipped if not there."""

import subprocess
import sys
from importlib.util import find_spec

import pytest
import torch
from torch import nn

from odegrad.binding import solve_with
from odegrad.checks.problems import SmoothNet
from odegrad.errors import UnsupportedError
from odegrad.measuring.call_counts import count_columns
from odegrad.methods.peers.mapping import EXTRA, PeerMapping
from odegrad.methods.peers.packing import PackedField, Packing
from odegrad.methods.solvers.solver import make_solver
from odegrad.reference.reference import reference
from odegrad.reference.subject import Subject, of_problem
from odegrad.reference.two_ways import relative_distance
from odegrad.registry import build_gradient, build_task, default_gradients, gradients

TORCH_PEERS = {
    "torchode_autodiff": "torchode",
    "torchode_joint": "torchode",
    "torchode_per_sample": "torchode",
    "torchdiffeqpack_aca": "TorchDiffEqPack",
    "torchdiffeqpack_mali": "TorchDiffEqPack",
    "torchdyn_autograd": "torchdyn",
    "torchdyn_adjoint": "torchdyn",
    "torchdyn_interpolated": "torchdyn",
    "xitorch_adjoint": "xitorch",
}
TOLERANCE, LEAPFROG_TOLERANCE = 1e-7, 1e-4
"""Of the certificates; the leapfrog has order 2, and would take thousands of steps."""
LIMIT = 10.0
"""Times the tolerance: what a gradient may be off by."""


def _tolerance(name):
    return LEAPFROG_TOLERANCE if "mali" in name else TOLERANCE


def _solver(name):
    return make_solver("alf" if "mali" in name else "dopri5", rtol=_tolerance(name), atol=_tolerance(name))


def _installed(name):
    return pytest.param(
        name,
        marks=pytest.mark.skipif(find_spec(TORCH_PEERS[name]) is None, reason=f"{TORCH_PEERS[name]} is not installed"),
    )


PRESENT = [_installed(name) for name in TORCH_PEERS]


class _Diary(nn.Module):
    """Notes its calls, and the products through them, by Python alone."""

    def __init__(self, inner):
        super().__init__()
        self.inner, self.calls, self.pulls = inner, 0, 0

    def forward(self, t, y):
        self.calls += 1
        dy = self.inner(t, y)
        if dy.requires_grad and torch.is_grad_enabled():
            dy.register_hook(self._note)
        return dy

    def _note(self, _grad):
        self.pulls += 1


Y0 = torch.randn(3, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def _subject(field, ts):
    return Subject(lambda solve: (solve(field, Y0, ts)[1:] ** 2).sum(), tuple(field.parameters()), (field,))


@pytest.mark.parametrize("name", PRESENT)
@pytest.mark.parametrize("times", [(0.0, 1.0), (1.0, 0.4, 0.0)], ids=["forward", "backward in time"])
def test_counts_equal_a_diary(name, times):
    """The count pass's f calls and products are those that a second, independent counter writes down."""
    if name == "torchdyn_interpolated":
        times = (times[0], times[-1])
    method, ts = build_gradient(name), torch.tensor(times, dtype=torch.float64)
    columns = count_columns(_subject(SmoothNet(d=4, hidden=8), ts), method, _solver(name))
    diary = _Diary(SmoothNet(d=4, hidden=8))
    subject = _subject(diary, ts)
    loss = subject.loss(solve_with(method, _solver(name)))
    forward = diary.calls
    subject.pull_back(loss)
    assert columns["nfe_forward"] == forward > 0
    assert columns["nfe_backward"] == diary.calls - forward
    if name != "torchode_per_sample":  # a hook is not called inside of torch.func
        assert columns["vjps"] == diary.pulls > 0
    assert columns["accepted_steps"] is None, "it tells nobody of its steps: not counted is not zero"


@pytest.mark.skipif(find_spec("torchode") is None, reason="torchode is not installed")
def test_torchode_counts_the_same_calls():
    """Its own statistics of f calls, per sample, are the counter's calls."""
    import torchode

    field = _Diary(SmoothNet(d=4, hidden=8))
    build_gradient("torchode_autodiff")(field, _solver(""), Y0, torch.tensor([0.0, 1.0], dtype=torch.float64))
    ours, field.calls = field.calls, 0
    term = torchode.ODETerm(lambda t, x: field(t[0], x.reshape(3, 4)).reshape(1, -1))
    controller = torchode.IntegralController(TOLERANCE, TOLERANCE, term=term).double()
    driver = torchode.AutoDiffAdjoint(torchode.Dopri5(term), controller)
    ts = torch.tensor([[0.0, 1.0]], dtype=torch.float64)
    solution = driver.solve(torchode.InitialValueProblem(Y0.reshape(1, -1), t_eval=ts))
    assert ours == field.calls == int(solution.stats["n_f_evals"][0])


@pytest.fixture(scope="module")
def references():
    """Return (subject's maker, reference) of three tasks, found once."""
    found = {}

    def of(name):
        if name not in found:
            task = build_task(name)

            def make():
                return of_problem(task.build("tiny", 0, torch.device("cpu"), torch.float64), smooth=task.info.smooth)

            found[name] = make, reference(make()).gradient
        return found[name]

    return of


@pytest.mark.parametrize("task", ["linear", "moons", "digits_mlp"])
@pytest.mark.parametrize("name", PRESENT)
def test_gradient_is_certified(name, task, references):
    """Within 10 times the tolerance of the float64 reference, or a refusal or a fault with its reason."""
    make, true = references(task)
    solve, limit = solve_with(build_gradient(name), _solver(name)), LIMIT * _tolerance(name)
    if (name, task) in {("torchode_per_sample", "moons"), ("torchdyn_interpolated", "linear")}:
        with pytest.raises(UnsupportedError):
            make().gradient(solve)
        return
    error = relative_distance(make().gradient(solve), true)
    if name == "torchdyn_interpolated":
        # The known fault, reproduced: its spline between the ends of steps is none of the tolerance's.
        assert limit < error < 100 * limit
    else:
        assert error < limit


@pytest.mark.skipif(find_spec("torchdyn") is None, reason="torchdyn is not installed")
def test_rk4_of_torchdyn_is_no_row():
    """Why its ``RungeKutta4`` is refused: y' = t stays h / 4 behind after a time of 1, where order 4 is exact."""
    from torchdyn.numerics import odeint

    grid = torch.linspace(0.0, 1.0, 11, dtype=torch.float64)
    _, ys = odeint(lambda t, y: t * torch.ones_like(y), torch.zeros(1, 1, dtype=torch.float64), grid, solver="rk4")
    assert abs(float(ys[-1]) - 0.5 + 0.1 / 4) < 1e-7, "as exact as it should be: map it"


@pytest.mark.skipif(find_spec("TorchDiffEqPack") is None, reason="TorchDiffEqPack is not installed")
def test_plain_odesolve_is_no_row():
    """Why TorchDiffEqPack's ``odesolve`` is left out: its outputs lie on straight lines between the ends of steps."""
    import TorchDiffEqPack

    rate = nn.Linear(1, 1, bias=False).double()
    nn.init.constant_(rate.weight, -1.0)
    options = {"method": "dopri5", "h": None, "t0": 0.0, "t1": 1.0, "rtol": 1e-8, "atol": 1e-8, "t_eval": [0.3, 1.0]}
    y0 = torch.ones(1, 1, dtype=torch.float64)
    found = TorchDiffEqPack.odesolve(lambda t, y: rate(y), y0, options=options)
    exact = torch.exp(torch.tensor([-0.3, -1.0], dtype=torch.float64))
    assert float((found.reshape(-1) - exact).abs().max().detach()) > 1e-5, "as exact as asked for: make it a row"


@pytest.mark.parametrize("name", TORCH_PEERS)
def test_missing_library_is_a_refusal(name, monkeypatch):
    """Without the package the answer is a reason and what to install; nothing is imported to find out."""
    monkeypatch.setattr("odegrad.methods.peers.mapping.find_spec", lambda _library: None)
    todo = "install it without its dependencies" if TORCH_PEERS[name] == "torchdyn" else "install odegrad[peers]"
    reason = build_gradient(name).refuses(_solver(name))
    assert reason.startswith(f"{TORCH_PEERS[name]} is not installed; {todo}")


@pytest.mark.parametrize(
    ("name", "solver"),
    [
        pytest.param("torchdyn_autograd", make_solver("midpoint", num_steps=60), marks=PRESENT[5].marks),
        pytest.param("torchdyn_adjoint", make_solver("midpoint", num_steps=60), marks=PRESENT[6].marks),
        pytest.param("torchdiffeqpack_mali", make_solver("alf", num_steps=60), marks=PRESENT[4].marks),
    ],
)
def test_fixed_steps_are_as_many_as_asked_for(name, solver):
    """Each interval between outputs has its steps, and the solution is that of odegrad's naive to the step's error."""
    field, ts = _Diary(SmoothNet(d=4, hidden=8)), torch.tensor([0.0, 0.3, 1.0], dtype=torch.float64)
    ys = build_gradient(name)(field, solver, Y0, ts)
    starts = 2 * len(ts[1:]) if solver.name == "alf" else 0  # a velocity at each start, for which TorchDiffEqPack pays
    assert field.calls - starts <= solver.scheme.evaluations * solver.num_steps * 2 < field.calls + 1
    exact = build_gradient("naive")(field, make_solver("dopri8", rtol=1e-10, atol=1e-10), Y0, ts)
    torch.testing.assert_close(ys, exact, rtol=0, atol=1e-4)


def test_torchdiffeq_is_told_the_factors():
    """Its step control takes odegrad's safety and bounds, where it was silent about them before."""
    field, ts = SmoothNet(d=4, hidden=8), torch.tensor([0.0, 3.0], dtype=torch.float64)
    usual, careful = (
        make_solver("dopri5", rtol=1e-6, atol=1e-6),
        make_solver("dopri5", rtol=1e-6, atol=1e-6, safety=0.4),
    )
    calls = [
        count_columns(_subject(field, ts), build_gradient("torchdiffeq_naive"), solver)["nfe_forward"]
        for solver in (usual, careful)
    ]
    assert calls[1] > calls[0]
    assert "control = 'elementary'" in build_gradient("torchdiffeq_naive").refuses(make_solver("dopri5", control="pi"))


def test_a_peer_with_an_extra_is_taken_by_name_only():
    """A sweep that names no method takes none that needs an extra, so that removing it changes nothing."""
    assert not set(TORCH_PEERS) & set(default_gradients())
    assert all(gradients.get(name).traits.peer.optional for name in TORCH_PEERS)


def test_no_library_is_imported_before_its_own_row():
    """Traits, refusals and the registry cost nobody else an import."""
    libraries = set(TORCH_PEERS.values())
    code = (
        "import sys\nfrom odegrad.registry import gradients, build_gradient, build_solver\n"
        "[build_gradient(n).refuses(build_solver('dopri5', 1e-3, 1e-3)) for n in gradients.names()]\n"
        f"print(sorted({libraries} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


EVERYWHERE = PeerMapping("torch", "ours", EXTRA, adaptive={"dopri5": "x"}, fixed={"rk4": "y"})


@pytest.mark.parametrize(
    ("solver", "options", "reason"),
    [
        ("tsit5", {}, "no such method for adaptive steps; it takes dopri5"),
        ("midpoint", {"num_steps": 2}, "no such method for fixed steps; it takes rk4"),
        ("dopri5", {"compile": True}, "leave out compile"),
        ("dopri5", {"sees": "tangent"}, "use sees = 'state'"),
        ("dopri5", {"control": "pi"}, "use control = 'elementary'"),
        ("dopri5", {"safety": 0.8}, "leave out safety"),
        ("dopri5", {"first_step": 0.1}, "cannot be told first_step"),
        ("dopri5", {"max_step": 0.1}, "cannot be told max_step"),
    ],
)
def test_what_is_not_mapped_is_refused(solver, options, reason):
    """Each option that the library cannot be told, with what to do."""
    assert reason in EVERYWHERE.refuses(make_solver(solver, **options))


ALL_OPTIONS = frozenset({"first_step", "max_step", "factors"})


def test_what_is_mapped_is_taken():
    """A named solver of each kind, and another library's own options."""
    assert EVERYWHERE.taken(make_solver("dopri5"))[1] == "x"
    assert EVERYWHERE.taken(make_solver("rk4", num_steps=3))[1] == "y"
    told = PeerMapping(
        "torch", "ours", "peers", {"dopri5": "x"}, options=frozenset({"first_step", "max_step", "factors"})
    )
    assert told.refuses(make_solver("dopri5", first_step=0.1, max_step=0.2, safety=0.8)) is None


def test_failing_import_is_a_sentence(monkeypatch):
    """A library that is there and cannot be imported says so, and what to do."""

    def broken(_name):
        raise ImportError("no symbol")

    monkeypatch.setattr("odegrad.methods.peers.mapping.importlib.import_module", broken)
    with pytest.raises(UnsupportedError, match=r"ours cannot be imported \(no symbol\); install odegrad\[peers\]"):
        EVERYWHERE.module()


@pytest.mark.parametrize("as_tuple", [False, True])
def test_packing_there_and_back(as_tuple):
    """States come back bit for bit, with any leading dimensions; the field sees them in the user's shapes."""
    y = (torch.randn(3, 2, 2), torch.randn(3)) if as_tuple else torch.randn(3, 2, 2)
    packing = Packing.of(y)
    packed = packing.pack(y)
    assert packed.shape == (3, 5 if as_tuple else 4)
    back = packing.unpacked(packed.expand(2, -1, -1), y)
    for part, whole in zip(back if as_tuple else [back], y if as_tuple else [y], strict=True):
        assert torch.equal(part[1], whole)

    class Field(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.tensor(2.0))

        def forward(self, t, y):
            assert t.dim() == 0
            return tuple(self.scale * t * p for p in y) if as_tuple else self.scale * t * y

    assert torch.equal(PackedField(Field(), packing)(torch.tensor([0.5]), packed), packed)


def test_trained_times_are_refused():
    """A library that gives them no gradient would give zeros; one that does is let through."""
    ts = torch.tensor([0.0, 1.0], requires_grad=True)
    with pytest.raises(UnsupportedError, match="detach them"):
        EVERYWHERE.times(ts)
    assert build_gradient("torchdiffeq_naive")(SmoothNet(d=4, hidden=8), _solver(""), Y0, ts.double()).requires_grad


def test_frozen_parameters_are_refused():
    """The libraries differentiate by every parameter, so one that is not trained cannot be mapped."""
    field = SmoothNet(d=4, hidden=8)
    next(field.parameters()).requires_grad_(False)
    with pytest.raises(UnsupportedError, match="make the others buffers"):
        PackedField(field, Packing.of(torch.zeros(3, 4, dtype=torch.float64)))
