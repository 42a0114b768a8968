"""What solves cost whose samples have steps of their own: f calls, their rows, and bytes, from the rounds."""

import math
from collections.abc import Iterable

from odegrad.contracts import Bytes, Calls, RowCounts, Sizes, StepCounts


def replayed_calls(steps: StepCounts, rounds: RowCounts, *, per_stage: int = 1, again: int = 0) -> Calls:
    """Return the calls of a solve without a graph and a pull-back by rank.

    Parameters
    ----------
    steps, rounds
        What was counted.
    per_stage
        How often the pull-back calls f per stage, less ``again`` per rank.
    again
        See ``per_stage``.
    """
    s, ranks, taken = steps.evaluations, max(rounds.steps), sum(rounds.steps)
    # A rank is one call for all samples that have a step of that number: calls go by the longest, rows by the sum.
    each = per_stage * s - again
    return Calls(rounds.calls(s), each * ranks, s * ranks, forward_rows=rounds.rows(s), backward_rows=each * taken)


def ranks_between(rounds: RowCounts) -> int:
    """Return the ranks of all intervals: of each the most steps that a sample has in it."""
    return sum(max(interval) for interval in rounds.accepted)


def widths(rounds: RowCounts, ranks: Iterable[int]) -> int:
    """Return how many samples have a step of these ranks, summed over them."""
    return sum(sum(n > rank for n in rounds.steps) for rank in ranks)


def kept_starts(rounds: RowCounts) -> int:
    """Return the states at the starts of accepted steps, the first ones of samples left out: they are the caller's."""
    return sum(max(n - 1, 0) for n in rounds.steps)


def block_starts(rounds: RowCounts, size: int | None) -> int:
    """Return the states at the starts of blocks, between outputs or of ``size`` steps, without the first ones."""
    blocks = sum(math.ceil(n / (size or n)) for interval in rounds.accepted for n in interval if n)
    return blocks - sum(n > 0 for n in rounds.steps)


def largest_block(steps: StepCounts, sizes: Sizes, rounds: RowCounts, size: int | None) -> int:
    """Return the bytes of the graph of the largest block of ranks."""
    s, most = steps.evaluations, 0
    for interval in rounds.accepted:
        longest = max(interval)
        for first in range(0, longest, size or max(longest, 1)):
            stop = min(first + (size or longest), longest)
            rows = sum(min(n, stop) - min(n, first) for n in interval)
            most = max(most, sizes.graph_bytes_of(s * (stop - first), s * rows))
    return most


def bytes_of_replay(steps: StepCounts, sizes: Sizes, kept: int, graph: int | None = None) -> Bytes:
    """Return the bytes where ``kept`` states of samples are kept, and the graph of one rank or ``graph`` is made."""
    saved = kept * sizes.row_bytes + sizes.outputs * sizes.state_bytes
    s = steps.evaluations
    return Bytes(saved, saved + (sizes.graph_bytes_of(s, s * sizes.batch) if graph is None else graph))


def bytes_of_graph(steps: StepCounts, sizes: Sizes, rounds: RowCounts) -> Bytes:
    """Return the bytes where the graph of every rank is kept, with the times and sizes of its steps."""
    s, taken = steps.evaluations, sum(rounds.steps)
    numbers = (s + steps.restart + 1) * taken * sizes.item_bytes
    saved = sizes.graph_bytes_of(s * max(rounds.steps), s * taken) + numbers + sizes.outputs * sizes.state_bytes
    return Bytes(saved, saved)


def solved_back_calls(steps: StepCounts, backward_stages: int, weights: int) -> Calls:
    """Return the calls of a solve and a backward one of ``backward_stages`` calls a step.

    ``weights`` is how often the accepted rows of a round are pulled back to the parameters.
    """
    forward = steps.rounds_forward
    back = steps.rounds_backward
    calls = sum(each.calls(backward_stages) + weights * each.accepting_rounds for each in back)
    rows = sum(each.rows(backward_stages) + weights * sum(each.steps) for each in back)
    s = steps.evaluations
    return Calls(
        sum(each.calls(s) for each in forward),
        calls,
        calls,
        forward_rows=sum(each.rows(s) for each in forward),
        backward_rows=rows,
    )


def bytes_solved_back(steps: StepCounts, sizes: Sizes, saved: int) -> Bytes:
    """Return the bytes of a backward solve of state and costate: its stages and what these stand on."""
    stages = steps.evaluations + steps.restart
    solved = 4 * stages * sizes.state_bytes + sizes.parameter_bytes
    return Bytes(saved, saved + solved + sizes.graph_bytes_of(1, sizes.batch))
