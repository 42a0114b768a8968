"""What solves cost whose samples have steps of their own: f calls, their rows, and bytes, from the rounds."""

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from odegrad.contracts import Bytes, Calls, RowCounts, Sizes, StepCounts
from odegrad.methods.backward.costs import pullback_peak

INDEX_BYTES = 8
"""Of one place among rows."""

RankSteps = Sequence[tuple[int, int]]
"""The steps of a rank: sample, and number of the step among the sample's own."""


Block = Sequence[RankSteps]
"""Ranks that are redone one behind the other, with one graph."""


def ranks(rounds: RowCounts) -> list[RankSteps]:
    """Return the ranks: the j-th steps of all samples that have one, for every j."""
    return [[(i, j) for i, n in enumerate(rounds.steps) if n > j] for j in range(max(rounds.steps))]


def blocks_between(rounds: RowCounts, size: int | None) -> list[Block]:
    """Return the blocks of ``size`` ranks of each interval between outputs, or of all of its ranks."""
    found: list[Block] = []
    before = [0] * len(rounds.attempted)
    for interval in rounds.accepted:
        own = [[(i, before[i] + j) for i, n in enumerate(interval) if n > j] for j in range(max(interval))]
        found += [own[first : first + (size or len(own))] for first in range(0, len(own), size or max(len(own), 1))]
        before = [done + n for done, n in zip(before, interval, strict=True)]
    return found


@dataclass(frozen=True)
class Redone:
    """What the steps of ranks cost that are taken again."""

    calls: int
    rows: int
    newton: int = 0
    """Newton's iterations among the calls."""

    @classmethod
    def of(cls, steps: StepCounts, rounds: RowCounts, which: Sequence[RankSteps]) -> "Redone":
        """Return the calls of these ranks, each taken once: its stages, or its Jacobians and Newton iterations."""
        count, width = len(which), sum(map(len, which))
        if rounds.systems is None:
            return cls(steps.evaluations * count, steps.evaluations * width)
        # A row leaves the iteration by itself, so it has as many as in its round, and the slowest row sets the calls.
        taken = [stage for rank in which for stage in zip(*(rounds.newton[i][j] for i, j in rank), strict=True)]
        newton = sum(map(max, taken))
        return cls(count + newton, width + sum(map(sum, taken)), newton)


@dataclass(frozen=True)
class ReadingCost:
    """What it costs to read outputs inside of steps that are redone: their last stages, which the steps do without.

    That of rows that go on is the first one of their next step; so a rank that reads has the rows more that end there,
    and the last rank of a block one call more.
    """

    calls: int = 0
    rows: int = 0
    items: int = 0
    """The outputs that are read."""

    @classmethod
    def of(cls, rounds: RowCounts, blocks: Sequence[Block]) -> "ReadingCost":
        """Return what the reading of these blocks costs, each redone once."""
        calls = rows = items = 0
        for block in blocks if rounds.read else ():
            for j, rank in enumerate(block):
                count = sum(rounds.read[i][n] for i, n in rank)
                if count:
                    ends_block = j + 1 == len(block)
                    calls += ends_block
                    rows += len(rank) - (0 if ends_block else len(block[j + 1]))
                    items += count
        return cls(calls, rows, items)


def replayed_calls(
    steps: StepCounts,
    rounds: RowCounts,
    *,
    blocks: Sequence[Block] | None = None,
    again: Sequence[RankSteps] = (),
    per_stage: int = 1,
    less: int = 0,
) -> Calls:
    """Return the calls of a solve without a graph and a pull-back by rank.

    Parameters
    ----------
    steps, rounds
        What was counted.
    blocks
        The ranks by the blocks that are redone; each rank by itself if None.
    again
        Ranks that are taken once more, without a graph.
    per_stage
        How often the pull-back calls f per explicit stage, ``less`` so many times per rank that reads no output inside.
    less
        See ``per_stage``.
    """
    blocks = [[rank] for rank in ranks(rounds)] if blocks is None else blocks
    which = [rank for block in blocks for rank in block]
    s, count, width = steps.evaluations, len(which), sum(map(len, which))
    once, more = Redone.of(steps, rounds, which), Redone.of(steps, rounds, again)
    forward = _solved(steps, rounds)
    if rounds.systems is None:
        each = (per_stage - 1) * s - less
        read = ReadingCost.of(rounds, blocks)
        calls, rows = once.calls + more.calls + each * count, once.rows + more.rows + each * width
        return replace(
            forward,
            backward=calls + per_stage * read.calls,
            vjps=s * count + read.calls,
            backward_rows=rows + per_stage * read.rows,
        )
    pulled = _pulled_systems(steps, which)
    redone = count + len(again)
    # Twice at the starts: for the rates that are carried, and to pull their cotangents back.
    rows = once.rows + more.rows + s * width + len(rounds.attempted) + _started(rounds)
    return replace(
        pulled,
        forward=forward.forward,
        forward_rows=forward.forward_rows,
        backward=once.calls + more.calls + pulled.backward + 2,
        backward_rows=rows,
        vjps=pulled.vjps + redone * steps.products,
        jacobians=pulled.jacobians + redone,
        factorisations=pulled.factorisations + redone,
        solves=pulled.solves + once.newton + more.newton,
    )


def kept_graph_calls(steps: StepCounts, rounds: RowCounts) -> Calls:
    """Return the calls of a solve without a graph, and of all ranks with one that is kept."""
    which = ranks(rounds)
    once, forward = Redone.of(steps, rounds, which), _solved(steps, rounds)
    calls, rows = forward.forward + once.calls, forward.forward_rows + once.rows
    if rounds.systems is None:
        read = ReadingCost.of(rounds, [which])
        vjps = steps.evaluations * len(which) + read.calls
        return Calls(calls + read.calls, 0, vjps, forward_rows=rows + read.rows)
    # The rates at the starts are called with a graph, too.
    return replace(_pulled_systems(steps, which), forward=calls + 1, forward_rows=rows + _started(rounds))


def _solved(steps: StepCounts, rounds: RowCounts) -> Calls:
    """Return the calls of a solve, and of what gradients by times cost."""
    s, times = steps.evaluations, steps.time_calls
    rows = rounds.rows(s) + times * len(rounds.attempted)
    return Calls(rounds.calls(s) + times, 0, 0, forward_rows=rows)


def _pulled_systems(steps: StepCounts, which: Sequence[RankSteps]) -> Calls:
    """Return the calls that go back through implicit stages: one with its Jacobian, system and product for each."""
    stages = steps.evaluations * len(which)
    rows, vjps = steps.evaluations * sum(map(len, which)), stages * (steps.products + 1) + 1
    return Calls(0, stages, vjps, jacobians=stages, factorisations=stages, solves=stages, backward_rows=rows)


def _started(rounds: RowCounts) -> int:
    """Return the samples that have a step."""
    return sum(n > 0 for n in rounds.steps)


def widths(rounds: RowCounts, ranks: Iterable[int]) -> int:
    """Return how many samples have a step of these ranks, summed over them."""
    return sum(sum(n > rank for n in rounds.steps) for rank in ranks)


def kept_starts(rounds: RowCounts) -> int:
    """Return the states at the starts of accepted steps, the first ones of samples left out: they are the caller's."""
    return sum(max(n - 1, 0) for n in rounds.steps)


def block_starts(rounds: RowCounts, size: int | None) -> int:
    """Return the states at the starts of blocks, between outputs or of ``size`` steps, without the first ones."""
    blocks = sum(math.ceil(n / (size or n)) for interval in rounds.accepted for n in interval if n)
    return blocks - _started(rounds)


def graph_of_ranks(steps: StepCounts, sizes: Sizes, count: int, rows: int) -> int:
    """Return the bytes of the graph of ``count`` ranks of so many ``rows``: of their calls, or their solved stages."""
    if steps.implicit:
        return rows * steps.node_states * sizes.row_bytes
    return sizes.graph_bytes_of(steps.evaluations * count, steps.evaluations * rows)


def largest_block(steps: StepCounts, sizes: Sizes, rounds: RowCounts, size: int | None) -> int:
    """Return the bytes of the graph of the largest block of ranks."""
    most = 0
    for interval in rounds.accepted:
        longest = max(interval)
        for first in range(0, longest, size or max(longest, 1)):
            stop = min(first + (size or longest), longest)
            rows = sum(min(n, stop) - min(n, first) for n in interval)
            most = max(most, graph_of_ranks(steps, sizes, stop - first, rows))
    return most


def bytes_of_replay(steps: StepCounts, sizes: Sizes, kept: int, graph: int | None = None) -> Bytes:
    """Return the bytes where ``kept`` rows are carried over, and the graph of one rank or ``graph`` is made."""
    saved = kept * steps.carried_states * sizes.row_bytes + sizes.outputs * sizes.state_bytes + _unit(steps, sizes)
    largest = graph_of_ranks(steps, sizes, 1, sizes.batch) if graph is None else graph
    return Bytes(saved, saved + largest + pullback_peak(steps, sizes))


def bytes_of_graph(steps: StepCounts, sizes: Sizes, rounds: RowCounts) -> Bytes:
    """Return the bytes where the graph of every rank is kept, with the times and sizes of its steps."""
    which, taken = ranks(rounds), sum(rounds.steps)
    # Times of all stages, those at a step's two ends among them, and the size.
    numbers = (steps.evaluations + steps.restart + 1) * taken * sizes.item_bytes
    saved = graph_of_ranks(steps, sizes, len(which), taken) + numbers + sizes.outputs * sizes.state_bytes
    # Of what is read inside: the last stages more, each output's weights of all stages, and which row it is of.
    read = ReadingCost.of(rounds, [which])
    weights = (steps.evaluations + steps.restart) * sizes.item_bytes + INDEX_BYTES
    saved += sizes.graph_bytes_of(read.calls, read.rows) + weights * read.items
    if steps.implicit:
        # What is carried at the starts, and the call there; where rows end, those that go on are taken out.
        narrowed = sum(len(b) for a, b in itertools.pairwise(which) if len(b) < len(a))
        carried = (narrowed + _started(rounds)) * steps.carried_states * sizes.row_bytes
        saved += carried + _unit(steps, sizes) + sizes.graph_bytes_of(1, _started(rounds))
    return Bytes(saved, saved + pullback_peak(steps, sizes))


def _gathered(back: Sequence[RowCounts], weights: int) -> int:
    """Return the calls that pull accepted rows to the parameters, ``weights`` times each; see ``RowCostate``."""
    calls = waiting = most = 0
    for each in back:
        most = max(most, len(each.attempted))
        for rows in itertools.chain.from_iterable([accepted] * weights for accepted in each.accepting):
            if waiting and waiting + rows > most:
                calls, waiting = calls + 1, 0
            waiting += rows
    return calls + (waiting > 0)


def _unit(steps: StepCounts, sizes: Sizes) -> int:
    """Return the bytes of the unit matrix that a field's Jacobians are formed by; 0 of explicit steps."""
    return sizes.row_bytes**2 // sizes.item_bytes if steps.implicit else 0


def solved_back_calls(steps: StepCounts, backward_stages: int, weights: int) -> Calls:
    """Return the calls of a solve and a backward one of ``backward_stages`` calls a step.

    ``weights`` is how often the accepted rows of a round are pulled back to the parameters.
    """
    forward = steps.rounds_forward
    back = steps.rounds_backward
    calls = sum(each.calls(backward_stages) for each in back) + _gathered(back, weights)
    rows = sum(each.rows(backward_stages) + weights * sum(each.steps) for each in back)
    solved = [_solved(steps, each) for each in forward]
    return Calls(
        sum(each.forward for each in solved),
        calls,
        calls,
        forward_rows=sum(each.forward_rows for each in solved),
        backward_rows=rows,
    )


def bytes_solved_back(steps: StepCounts, sizes: Sizes, saved: int) -> Bytes:
    """Return the bytes of a backward solve of state and costate: its stages and what these stand on."""
    stages = steps.evaluations + steps.restart
    solved = 4 * stages * sizes.state_bytes + sizes.parameter_bytes
    return Bytes(saved, saved + solved + sizes.graph_bytes_of(1, sizes.batch))
