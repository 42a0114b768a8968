"""What the passes that methods share cost: f calls, products, linear systems and bytes, from the counts of steps."""

import dataclasses

from odegrad.contracts import Calls, Sizes, StepCounts


def forward_calls(steps: StepCounts) -> int:
    """Return the f calls of a solve: ``s(N + R)`` and those of its start.

    Of an implicit one: one for each Newton iteration of any attempt, and one for each accepted step's Jacobian.
    """
    if steps.implicit:
        return steps.work.newton + steps.work.newton_lost + steps.accepted + steps.start
    return steps.evaluations * (steps.accepted + steps.rejected) + steps.start


def replay_calls(steps: StepCounts) -> int:
    """Return the f calls that redo every accepted step: ``s N``, or its Newton iterations and its Jacobian."""
    return steps.work.newton + steps.accepted if steps.implicit else steps.evaluations * steps.accepted


def stage_calls(steps: StepCounts) -> int:
    """Return the f calls that the pull-back through every accepted step makes itself, at its implicit stages."""
    return steps.evaluations * steps.accepted if steps.implicit else 0


def stage_products(steps: StepCounts) -> int:
    """Return the products of the pull-back: one for each stage, and those of its Jacobian where it is implicit."""
    return steps.evaluations * steps.accepted * (steps.products + 1 if steps.implicit else 1)


def with_systems(calls: Calls, steps: StepCounts, redone: int = 0, newton: int = 0) -> Calls:
    """Return ``calls`` with the linear systems of a backward pass through implicit steps.

    One for each stage of every accepted step; one more, and as many solves as Newton iterations, for every step that
    is ``redone`` with ``newton`` iterations in all.
    """
    if not steps.implicit:
        return calls
    stages = steps.evaluations * steps.accepted
    systems = redone + stages
    vjps = calls.vjps + redone * steps.products
    return dataclasses.replace(calls, vjps=vjps, jacobians=systems, factorisations=systems, solves=newton + stages)


def replayed_once(steps: StepCounts) -> Calls:
    """Return the calls of a method that redoes every accepted step once, with a graph, and pulls back through it."""
    backward = replay_calls(steps) + stage_calls(steps) + steps.carried
    calls = Calls(forward_calls(steps), backward, stage_products(steps) + steps.carried)
    return with_systems(calls, steps, redone=steps.accepted, newton=steps.work.newton)


def kept_vectors(steps: StepCounts, count: int) -> int:
    """Return the states in ``count`` carried vectors, the first one left out where it is the caller's own."""
    return steps.carried_states * count if steps.carried_states > 1 else count - 1


def graph_of_steps(steps: StepCounts, sizes: Sizes, count: int) -> int:
    """Return the bytes of the graph of ``count`` steps: of their f calls, or of implicit steps their stages."""
    if steps.implicit:
        return count * steps.node_states * sizes.state_bytes
    return steps.evaluations * count * sizes.graph_bytes


def pullback_peak(steps: StepCounts, sizes: Sizes) -> int:
    """Return the bytes of going back through an implicit step: one call's graph, its Jacobian, factors and stages."""
    if not steps.implicit:
        return 0
    return sizes.graph_bytes + (3 * steps.products + 2 * steps.evaluations) * sizes.state_bytes


def costate_calls(steps: StepCounts) -> int:
    """Return the f calls of a backward solve: ``s(N' + R')``, its start, and one restart at each output between."""
    attempts = steps.accepted_backward + steps.rejected_backward
    return steps.evaluations * attempts + steps.start + steps.restart * (steps.intervals - 1)
