"""Which fields and inputs can have steps of each sample's own: the time that a field sees, and refusals."""

import pytest
import torch
from torch import nn

from odegrad import odeint
from odegrad.errors import UnsupportedError, UsageError
from odegrad.interface import regularised
from odegrad.measuring.counting import CountedField, Counts
from odegrad.methods.solvers.solver import make_solver
from odegrad.registry import build_gradient, solver_for

TS = torch.tensor([0.0, 1.0], dtype=torch.float64)
PER_SAMPLE = {"batch": "per_sample"}


def drawn(*shape, seed=0):
    """Return normal numbers in float64."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class _Field(nn.Module):
    """A field made of a function; takes any kind of time."""

    def __init__(self, function, *, sample_time=True):
        super().__init__()
        self.function = function
        self.sample_time = sample_time
        self.scale = nn.Parameter(torch.ones((), dtype=torch.float64))

    def forward(self, t, y):
        return self.scale * self.function(t, y)


@pytest.mark.parametrize("shape", [(3,), (3, 3), (3, 2, 4)])
def test_a_field_with_sample_time_sees_a_time_of_as_many_dimensions_as_its_state(shape):
    """``[rows, 1, ..., 1]``, never ``[rows]``, which beside ``[batch, n]`` with batch = n would go the wrong way."""
    seen = set()

    def rate(t, y):
        seen.add((t.dim() == y.dim(), t.shape[0] == y.shape[0], t[0].numel() == 1))
        return -y * t

    odeint(_Field(rate), drawn(*shape), TS, options=PER_SAMPLE)
    assert seen == {(True, True, True)}


@pytest.mark.filterwarnings("ignore:field. _Field takes one time:UserWarning")
def test_any_other_field_sees_one_sample_at_a_0d_time():
    """What it computes is what a loop over samples gives, to rounding."""
    seen = []

    def rate(t, y):
        assert t.dim() == 0
        seen.append(len(y))
        return torch.sin(y) * (1 + t) - y.cumsum(1)

    y0 = drawn(4, 3)
    together = odeint(_Field(rate, sample_time=False), y0, TS, options=PER_SAMPLE)
    alone = [odeint(_Field(rate, sample_time=False), y[None], TS, options=PER_SAMPLE) for y in y0]
    torch.testing.assert_close(together, torch.cat(alone, 1), rtol=0, atol=1e-14)
    # The whole batch is seen at first: whether its samples are apart.
    assert seen[:2] == [4, 4]
    assert set(seen[2:]) == {1}


def test_what_vectorising_costs_is_said_once_per_field():
    """A warning that names the field and what to set."""
    field = _Field(lambda t, y: -y * t, sample_time=False)
    with pytest.warns(UserWarning, match=r"_Field takes one time .* set sample_time = True"):
        odeint(field, drawn(3, 2), TS, options=PER_SAMPLE)
    odeint(field, drawn(3, 2), TS, options=PER_SAMPLE)  # a second warning would be an error here


@pytest.mark.parametrize(
    ("rate", "why"),
    [
        (lambda _t, y: -y if float(y.sum()) > 0 else y, r"vmap cannot vectorise it over samples"),
        (lambda _t, y: -y.detach().requires_grad_(), "vmap cannot vectorise it over samples"),
    ],
    ids=["branches", "differentiates inside"],
)
@pytest.mark.filterwarnings("ignore:field. _Field takes one time:UserWarning")
def test_what_vmap_cannot_transform_is_refused(rate, why):
    """With a sentence that says what to do."""
    with pytest.raises(UnsupportedError, match=f"{why}.*set sample_time = True on it, or use batch = 'joint'"):
        odeint(_Field(rate, sample_time=False), drawn(3, 2), TS, options=PER_SAMPLE)


@pytest.mark.parametrize("sample_time", [True, False])
def test_fields_that_draw_are_refused(sample_time):
    """Rounds of steps would see other numbers."""
    field = _Field(lambda _t, y: -y + torch.randn_like(y), sample_time=sample_time)
    with pytest.raises(UnsupportedError, match=r"draws random numbers|depend on each other"):
        odeint(field, drawn(3, 2), TS, options=PER_SAMPLE)


class _Normalised(nn.Module):
    """Batch normalisation inside; its time is any."""

    def __init__(self, *, sample_time):
        super().__init__()
        self.sample_time = sample_time
        self.norm, self.linear = nn.BatchNorm1d(2).double(), nn.Linear(2, 2).double()

    def forward(self, t, y):
        return self.linear(self.norm(y))


@pytest.mark.filterwarnings("ignore:field. _Normalised takes one time:UserWarning")
def test_batch_normalisation_is_refused_in_training_and_taken_in_evaluation():
    """In training it couples the samples; its statistics are as before."""
    for sample_time in (True, False):
        field = _Normalised(sample_time=sample_time)
        with pytest.raises(UnsupportedError, match=r"depend on each other|cannot be called on a part"):
            odeint(field, drawn(5, 2), TS, options=PER_SAMPLE)
        assert float(field.norm.num_batches_tracked) == 0
        odeint(field.eval(), drawn(5, 2), TS, options=PER_SAMPLE)


@pytest.mark.parametrize(
    "rate",
    [lambda _t, y: y - y.mean(0, keepdim=True), lambda _t, y: torch.softmax(y @ y.t(), 1) @ y - y],
    ids=["mean", "attention"],
)
def test_fields_that_couple_samples_are_refused(rate):
    """Also where all samples start alike, and a mean is each one's own."""
    for y0 in (drawn(4, 2), torch.ones(4, 2, dtype=torch.float64)):
        with pytest.raises(UnsupportedError, match=r"depend on each other .* use batch = 'joint'"):
            odeint(_Field(rate), y0, TS, options=PER_SAMPLE)


class _OneTime(nn.Module):
    """A field that takes one time for the whole batch, whose samples ``rate`` couples."""

    def __init__(self, rate):
        super().__init__()
        self.rate = rate

    def forward(self, t, y):
        return self.rate(t, y)


@pytest.mark.filterwarnings("ignore:field. _OneTime takes one time")
@pytest.mark.parametrize("wrapped", [True, False])
@pytest.mark.parametrize(
    "rate",
    [lambda _t, y: y.mean(0, keepdim=True) - y, lambda _t, y: torch.softmax(y @ y.T, -1) @ y - 2 * y],
    ids=["mean", "attention"],
)
def test_coupling_is_seen_in_fields_that_are_vectorised(rate, wrapped):
    """Called on one sample at a time they would be another problem, in silence: modules and functions alike."""
    with pytest.raises(UnsupportedError, match=r"depend on each other .* use batch = 'joint'"):
        odeint(_OneTime(rate) if wrapped else rate, drawn(4, 2), TS, options=PER_SAMPLE)


class _InContext(nn.Module):
    """``y' = c y`` with a row of ``c`` for each sample, taken by ``rows_of``."""

    def __init__(self, rows_of, *, sample_time):
        super().__init__()
        self.rows_of, self.sample_time = rows_of, sample_time
        self.register_buffer("context", drawn(4, 2, seed=1))

    def forward(self, _t, y):
        return self.rows_of(self.context, len(y)) * y


@pytest.mark.parametrize("sample_time", [True, False])
@pytest.mark.parametrize(
    ("rows_of", "why"),
    [
        (lambda c, _n: c, "cannot be called on a part of the batch"),
        (lambda c, n: c[:n], "goes by its place in the batch"),
        (lambda c, n: c[-n:], "goes by its place in the batch"),
        (lambda c, _n: c.mean(1, keepdim=True), "cannot be called on a part of the batch"),
    ],
    ids=["whole", "first rows", "last rows", "made of it"],
)
def test_a_field_that_holds_a_row_for_each_sample_is_refused(rows_of, why, sample_time):
    """Rows are dropped and change their places: the cause is named, and what to do; on shared steps it goes."""
    field = _InContext(rows_of, sample_time=sample_time)
    told = rf"{why}.*'context' has as many rows as there are samples; .*a part of the state that rests, or use batch"
    with pytest.raises(UnsupportedError, match=told):
        odeint(field, drawn(4, 2), TS, options=PER_SAMPLE)
    odeint(field, drawn(4, 2), TS)


def test_the_check_is_made_once_and_off_the_counters():
    """Three calls that nobody counts, at the first solve of a field."""
    calls, counts = [], Counts()

    def rate(_t, y):
        calls.append(len(y))
        return -y

    field = CountedField(_Field(rate), counts)
    solver = make_solver("dopri5", rtol=1e-6, batch="per_sample")
    build_gradient("aca")(field, solver, drawn(4, 2), TS)
    assert len(calls) == counts.calls["forward"] + 3
    calls.clear()
    build_gradient("aca")(field, solver, drawn(4, 2), TS)
    assert 2 * len(calls) == counts.calls["forward"]


def test_a_field_that_draws_is_refused():
    """At its first call, and where it draws later."""
    with pytest.raises(UnsupportedError, match=r"draws random numbers.* keep them in a part of the state"):
        odeint(_Field(lambda _t, y: -y + 0 * torch.randn_like(y)), drawn(3, 2), TS, options=PER_SAMPLE)


@pytest.mark.parametrize(
    ("ts", "why"),
    [
        ([[0.0, 1.0]], r"expected floating-point times \[K\] or \[batch, K\] with batch = 2"),
        ([[0.0], [0.0]], "K >= 2"),
        ([[0.0, 1.0, 0.5], [0.0, 0.5, 1.0]], r"got 1\.0 then 0\.5 at position 1 of row 0"),
        ([[0.0, 0.5, 1.0], [0.0, 0.0, 1.0]], r"got 0\.0 then 0\.0 at position 0 of row 1"),
        ([[0.0, 0.5, 1.0], [1.0, 0.5, 0.0]], "row 1 that runs backwards in time and row 0 that runs forwards"),
        ([[0.0, 0.5, 1.0], [0.5, 0.5, 0.5]], r"row 1 that holds 0\.5 alone; leave this sample out"),
        ([[0.0, 0.5, float("nan")], [0.0, 0.5, 1.0]], "expected finite times, got .* in row 0"),
        ([[[0.0, 1.0]]], "expected a 1-d floating-point tensor"),
        ([0.0, 1.0, 1.0], "strictly increasing"),
    ],
)
def test_times_that_are_none(ts, why):
    """Each mistake names its row."""
    with pytest.raises(UsageError, match=why):
        odeint(_Field(lambda _t, y: -y), drawn(2, 2), torch.tensor(ts, dtype=torch.float64), options=PER_SAMPLE)


def test_times_of_each_sample_need_the_option():
    """The joint loop has one time for all."""
    with pytest.raises(UsageError, match=r"1-d .* batch = 'per_sample'"):
        odeint(_Field(lambda _t, y: -y), drawn(2, 2), TS.expand(2, 2))


@pytest.mark.parametrize(
    ("name", "options", "why"),
    [
        ("dopri5", {"batch": "each"}, "batch: expected 'joint' or 'per_sample'"),
        ("dopri5", {"batch": "per_sample", "compaction": "all"}, "compaction: expected 'none', 'each' or 'halving'"),
        ("dopri5", {"compaction": "each"}, "compaction: it is for batch = 'per_sample'"),
        ("dopri5", {"batch": "per_sample", "num_steps": 4}, "the steps of solver dopri5 are fixed here"),
        ("rk4", {"batch": "per_sample"}, "the steps of solver rk4 are fixed here"),
        (
            "kencarp4",
            {"batch": "per_sample", "outputs": "dense"},
            "implicit steps of single samples are not read inside",
        ),
        ("dopri8", {"batch": "per_sample", "outputs": "dense"}, "dopri8 has no dense output"),
        ("dopri5", {"batch": "per_sample", "compile": True}, "do not go with compile = True"),
        ("dopri5", {"batch": "per_sample", "sees": "tangent"}, "do not go with sees = 'tangent'"),
        ("alf", {"batch": "per_sample"}, "on Runge-Kutta methods, which alf is not"),
        (
            "kencarp4",
            {"batch": "per_sample", "linear": "krylov"},
            "a system of its own there, so not linear = 'krylov'",
        ),
        ("kencarp4", {"batch": "per_sample", "num_steps": 3}, "the steps of solver kencarp4 are fixed here"),
        ("implicit_euler", {"batch": "per_sample"}, "the steps of solver implicit_euler are fixed here"),
    ],
)
def test_options_that_do_not_go_together(name, options, why):
    """Each is a sentence."""
    with pytest.raises(UsageError, match=why):
        make_solver(name, **options)


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"rtol": [1e-3, 1e-4]}, r"do not go with tolerances by part or number of the state \(rtol, atol\): give one"),
        ({"options": {**PER_SAMPLE, "norm": lambda y: y[0].abs().max()}}, "do not go with norm; leave that out"),
        ({"options": {**PER_SAMPLE, "step_t": [0.5]}}, "do not go with step_t; leave that out"),
    ],
)
def test_what_the_joint_loop_alone_takes_is_said(given, why):
    """By the names of the arguments of ``odeint``."""
    y0 = (drawn(2, 2), drawn(2, 2))
    with pytest.raises(UnsupportedError, match=why):
        odeint(lambda _t, y: y, y0, TS, **{"options": PER_SAMPLE, "atol": 1e-6, **given})


def test_a_field_that_cannot_be_called_at_times_of_rows_is_told_so():
    """It said ``sample_time = True``; the cause stays in the chain."""
    field = _Field(lambda t, y: -y * t.reshape(1, 1))
    with pytest.raises(UnsupportedError, match=r"at t of shape \(3, 1\) and y of shape \(3, 2\) .*shape '\[1, 1\]'"):
        odeint(field, drawn(3, 2), TS, options=PER_SAMPLE)


def test_jumps_are_refused():
    """Of the field and of the state, at times of one row and of several."""
    for ts in (TS, TS.expand(2, 2)):
        for jumps, options in (([(0.2, lambda _t, y: 2 * y)], PER_SAMPLE), ([], {**PER_SAMPLE, "jump_t": [0.2]})):
            with pytest.raises(UnsupportedError, match=r"do not end one where the field or the state jumps"):
                odeint(_Field(lambda _t, y: -y), drawn(2, 2), ts, options=options, jumps=jumps)


def test_states_without_a_batch_are_refused():
    """A scalar, and parts of two batches."""
    for y0 in (torch.tensor(1.0, dtype=torch.float64), (drawn(3, 2), drawn(2, 2))):
        with pytest.raises(UsageError, match=r"expected parts \[batch, ...\] of one batch .* passed as y0\[None\]"):
            odeint(_Field(lambda _t, y: y), y0, TS, options=PER_SAMPLE)


def test_float32_and_autocast_rows_stay_in_their_own_type():
    """Times and sizes are float64 on the host; what the field sees is its state's type."""
    field = _Field(lambda t, y: -y * t).float()
    y0 = drawn(4, 2).float()
    ys = odeint(field, y0, TS.float(), rtol=1e-5, options=PER_SAMPLE)
    assert ys.dtype == torch.float32
    torch.testing.assert_close(ys[1], y0 * torch.exp(torch.tensor(-0.5)), rtol=1e-5, atol=1e-6)


def test_a_tolerance_below_the_type_is_said():
    """As in the joint loop."""
    with pytest.warns(UserWarning, match="below what torch.float32 can hold"):
        odeint(
            _Field(lambda _t, y: -y).float(), drawn(2, 2).float(), TS, rtol=1e-8, atol=1e-3,
            options={**PER_SAMPLE, "first_step": 0.5, "max_steps": 20},
        )  # fmt: skip


def test_what_shares_steps_refuses_or_is_refused():
    """Regularisers, other libraries, and a comparison that would exchange the solver."""
    solver = make_solver("dopri5", batch="per_sample")
    with pytest.raises(UnsupportedError, match="regulariser: penalties are gathered along steps"):
        regularised({"kinetic": 0.1}, gradient="aca", options=PER_SAMPLE)
    assert "on batches that share them" in (build_gradient("torchdiffeq_naive").refuses(solver) or "")
    assert solver_for(build_gradient("mali"), solver) is None
