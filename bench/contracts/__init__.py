"""The contracts that every room is built on: read this page first, then its files in this order.

* ``arity``: how a user's functions are called;
* ``fields``: the state, and the vector field ``f(t, y) -> dy/dt``;
* ``solvers``, ``observers``: the solver, and who hears of its steps;
* ``methods``: the gradient method, what it states about itself, and what it may offer beside a solve;
* ``events``: solves that end at events, and go over jumps;
* ``work``, ``costs``: what a solve has cost, and what a method predicts that it costs;
* ``taps``: who watches a backward pass, and who learns from it;
* ``tasks``: the task, and the problem that it builds from a seed.

``d`` is the number of floats in a state (whole batch), ``K`` the number of output times. A *state* is a tensor
``[batch, *state]`` or a tuple of such. Methods and tasks know only these contracts; neither knows that it is measured.
"""

from odegrad.contracts.arity import refuse_arity, told
from odegrad.contracts.costs import Bytes, Calls, PredictsBytes, PredictsCalls, Sizes, StepCounts
from odegrad.contracts.events import (
    Ending,
    EndsAtEvents,
    EventSolve,
    TakesJumps,
    ending_at_events,
    event_solve,
    taking_jumps,
)
from odegrad.contracts.fields import (
    HALVES,
    Bounded,
    CallsHeard,
    CarriesMore,
    State,
    StateT,
    VectorField,
    pass_on,
    unjudged_parts,
)
from odegrad.contracts.methods import (
    CompilesPrograms,
    GradientMethod,
    Peer,
    Solve,
    SolvesOtherwise,
    Traits,
    equivalent_solver,
)
from odegrad.contracts.observers import (
    EventObserver,
    ReconstructionObserver,
    RowObserver,
    ScaleObserver,
    StepObserver,
    WorkObserver,
)
from odegrad.contracts.solvers import Solver, SolverT, gives_samples_steps
from odegrad.contracts.taps import CurvatureConsumer, CurvaturePasses, SamplingObserver, Tap, Tappable
from odegrad.contracts.tasks import (
    Batch,
    Batch_contra,
    HeldOutLoss,
    Problem,
    Scalar,
    ScoringProblem,
    Split,
    Task,
    TaskInfo,
    TrainableEndTime,
    Training,
)
from odegrad.contracts.work import ImplicitWork, RowCounts

__all__ = [
    "HALVES",
    "Batch",
    "Batch_contra",
    "Bounded",
    "Bytes",
    "Calls",
    "CallsHeard",
    "CarriesMore",
    "CompilesPrograms",
    "CurvatureConsumer",
    "CurvaturePasses",
    "Ending",
    "EndsAtEvents",
    "EventObserver",
    "EventSolve",
    "GradientMethod",
    "HeldOutLoss",
    "ImplicitWork",
    "Peer",
    "PredictsBytes",
    "PredictsCalls",
    "Problem",
    "ReconstructionObserver",
    "RowCounts",
    "RowObserver",
    "SamplingObserver",
    "Scalar",
    "ScaleObserver",
    "ScoringProblem",
    "Sizes",
    "Solve",
    "Solver",
    "SolverT",
    "SolvesOtherwise",
    "Split",
    "State",
    "StateT",
    "StepCounts",
    "StepObserver",
    "TakesJumps",
    "Tap",
    "Tappable",
    "Task",
    "TaskInfo",
    "TrainableEndTime",
    "Training",
    "Traits",
    "VectorField",
    "WorkObserver",
    "ending_at_events",
    "equivalent_solver",
    "event_solve",
    "gives_samples_steps",
    "pass_on",
    "refuse_arity",
    "taking_jumps",
    "told",
    "unjudged_parts",
]
