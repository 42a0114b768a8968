"""What the passes that methods share cost: f calls, products, linear systems and bytes, from the counts of steps."""

import dataclasses
from collections.abc import Sequence

from odegrad.contracts import Calls, Sizes, StepCounts


def forward_calls(steps: StepCounts) -> int:
    """Return the f calls of a solve: ``s(N + R + L)``, those of its start, and those for gradients by times.

    Of an implicit one: one for each Newton iteration of any attempt, and one for each accepted step's Jacobian. Of a
    Rosenbrock method likewise, with its stages in the place of the iterations. Where
    the field is split, those of its other half too.
    """
    outside = steps.start + steps.time_calls
    if steps.linear_stages:
        return steps.linear_stages * (steps.accepted + steps.rejected) + steps.accepted + outside
    if steps.implicit:
        work = steps.work
        explicit = steps.explicit_evaluations * (work.explicit_steps + work.explicit_steps_lost)
        return work.newton + work.newton_lost + work.rest + steps.implicit_accepted + explicit + outside
    again = steps.rejected + steps.landings
    return steps.evaluations * (steps.accepted + again) - steps.known_stages * again + outside


def replay_calls(steps: StepCounts) -> int:
    """Return the f calls that redo every accepted step: ``s N``, or those at its solved stages and its Jacobian."""
    if not steps.implicit:
        return steps.evaluations * steps.accepted
    solved = steps.linear_stages * steps.accepted or steps.work.newton
    explicit = steps.explicit_evaluations * steps.work.explicit_steps
    return solved + (1 + steps.rest_stages) * steps.implicit_accepted + explicit


def redone_calls(steps: StepCounts, which: Sequence[int]) -> int:
    """Return the f calls that take the accepted steps of these numbers again."""
    if not steps.implicit:
        return steps.evaluations * len(which)
    implicit = implicit_among(steps, which)
    explicit = steps.explicit_evaluations * (len(which) - implicit)
    return solved_calls(steps, which) + (1 + steps.rest_stages) * implicit + explicit


def implicit_among(steps: StepCounts, which: Sequence[int]) -> int:
    """Return how many of the accepted steps of these numbers are implicit."""
    if not steps.explicit_evaluations:
        return len(which) if steps.implicit else 0
    return sum(steps.newton_by_step[i] > 0 for i in which)


def solved_calls(steps: StepCounts, which: Sequence[int]) -> int:
    """Return the f calls at the solved stages of these implicit steps: Newton iterations, or the linear stages."""
    if steps.linear_stages:
        return steps.linear_stages * len(which)
    return sum(steps.newton_by_step[i] for i in which) if steps.implicit else 0


def last_stages(steps: StepCounts) -> int:
    """Return the f calls at the ends of redone steps that only what is read inside of them needs, a product each.

    Where the last stage is the first one of the next step, and every step that reaches an output ends a block.
    """
    return 0 if steps.implicit else steps.restart * steps.reading


def reads_at_end(steps: StepCounts) -> bool:
    """Return whether the last step of a solve is read inside, so that its last stage is pulled back, too."""
    return not steps.implicit and steps.restart == 1 and bool(steps.reached) and steps.reached[-1][0] > 0


def block_count(steps: StepCounts, size: int | None) -> int:
    """Return the blocks of ``size`` steps, or of any, where a step that reaches an output ends one."""
    blocks = since = 0
    for inside, at_end in steps.reached:
        since += 1
        if inside or at_end or since == size:
            blocks, since = blocks + 1, 0
    return blocks


def stage_calls(steps: StepCounts) -> int:
    """Return the f calls that the pull-back through every accepted step makes itself, at its implicit stages."""
    if not steps.implicit:
        return 0
    # Of a Rosenbrock step also the one call that linearises the field at its start.
    return (steps.evaluations + bool(steps.linear_stages) + _explicit_halves(steps)) * steps.implicit_accepted


def stage_products(steps: StepCounts) -> int:
    """Return the products of the pull-back: one for each stage, and those of its Jacobian where it is implicit."""
    if steps.linear_stages:
        return (steps.linear_stages + 1 + steps.products) * steps.accepted
    if not steps.implicit:
        return steps.evaluations * steps.accepted
    stages = steps.evaluations * steps.implicit_accepted
    explicit = steps.explicit_evaluations * steps.work.explicit_steps
    return stages * (steps.products + 1) + _explicit_halves(steps) * steps.accepted + explicit


def _explicit_halves(steps: StepCounts) -> int:
    """Return the halves that the pull-back through a step of a split field meets beside the solved ones."""
    # The rest at every stage, and the stiff half at the first one.
    return steps.rest_stages + 1 if steps.rest_stages else 0


def with_systems(calls: Calls, steps: StepCounts, redone: int = 0, newton: int = 0) -> Calls:
    """Return ``calls`` with the linear systems of a backward pass through implicit steps.

    One for each stage of every accepted step; one more, and as many solves as Newton iterations, for every step that
    is ``redone`` with ``newton`` iterations in all. A Rosenbrock step has one system for all of its stages.
    """
    if not steps.implicit:
        return calls
    if steps.linear_stages:
        systems = redone + steps.accepted
        vjps, solves = calls.vjps + redone * steps.products, (steps.linear_stages + 1) * systems
        return dataclasses.replace(calls, vjps=vjps, jacobians=systems, factorisations=systems, solves=solves)
    stages = steps.evaluations * steps.implicit_accepted
    systems = redone + stages
    vjps = calls.vjps + redone * steps.products
    return dataclasses.replace(calls, vjps=vjps, jacobians=systems, factorisations=systems, solves=newton + stages)


def replayed_once(steps: StepCounts) -> Calls:
    """Return the calls of a method that redoes every accepted step once, with a graph, and pulls back through it."""
    read = last_stages(steps)
    backward = replay_calls(steps) + stage_calls(steps) + steps.carried + read
    calls = Calls(forward_calls(steps), backward, stage_products(steps) + steps.carried + read)
    return with_systems(calls, steps, redone=steps.implicit_accepted, newton=steps.work.newton)


def kept_vectors(steps: StepCounts, count: int) -> int:
    """Return the states in ``count`` carried vectors, the first one left out where it is the caller's own."""
    return steps.carried_states * count if steps.carried_states > 1 else count - 1


def graph_of_steps(steps: StepCounts, sizes: Sizes, count: int) -> int:
    """Return the bytes of the graph of ``count`` steps: of their f calls, or of implicit steps their stages."""
    if not steps.implicit:
        return steps.evaluations * count * sizes.graph_bytes
    implicit, explicit = steps.node_states * sizes.state_bytes, steps.explicit_evaluations * sizes.graph_bytes
    if count == steps.accepted:
        return steps.implicit_accepted * implicit + steps.work.explicit_steps * explicit
    # Of some of them it is not known which they are.
    return count * max(implicit if steps.implicit_accepted else 0, explicit if steps.work.explicit_steps else 0)


def read_graph(steps: StepCounts, sizes: Sizes) -> int:
    """Return the bytes that a kept graph holds more for what is read inside of its steps."""
    weights = 0 if steps.implicit else steps.evaluations + steps.restart
    outputs = sum(inside for inside, _ in steps.reached)
    return outputs * weights * sizes.item_bytes + reads_at_end(steps) * sizes.graph_bytes


def pullback_peak(steps: StepCounts, sizes: Sizes) -> int:
    """Return the bytes of going back through an implicit step: one call's graph, its Jacobian, factors and stages."""
    if not steps.implicit:
        return 0
    return sizes.graph_bytes + (3 * steps.products + 2 * steps.evaluations) * sizes.state_bytes


def costate_calls(steps: StepCounts) -> int:
    """Return the f calls of a backward solve: ``s(N' + R')``, its start, and one restart at each output between."""
    attempts = steps.accepted_backward + steps.rejected_backward
    known = steps.known_stages * steps.rejected_backward
    return steps.evaluations * attempts - known + steps.start + steps.restart * (steps.intervals - 1)
