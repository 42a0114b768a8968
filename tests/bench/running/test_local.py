"""Several workers on one machine, the clock's rounds, and limits."""

import itertools
import json
import os

import pytest

from odegrad.errors import UsageError
from odegrad.records.record import Status
from odegrad.records.rounds import merge, turns
from odegrad.records.shard import RECORDS, Shard
from odegrad.records.store import Store, SuiteIdentity, read_rows
from odegrad.running.local import LocalExecutor
from odegrad.running.progress import LogLines
from odegrad.running.runner import missing, sweep
from odegrad.running.slots import Slot, slots
from odegrad.running.tally import Tally

FAKE = SuiteIdentity("fake", "abc")


def rows_of(folder):
    return [json.loads(line) for line in (folder / RECORDS).read_text().splitlines()]


def overlap(one, other):
    return one[0] < other[1] and other[0] < one[1]


def test_two_workers_measure_two_runs_at_a_time(tmp_path, make_run, make_worker):
    """With two workers some passes overlap, with one none do; every run has its record either way."""
    for number, expected in ((1, False), (2, True)):
        folder = tmp_path / str(number)
        runs = [make_run("interval", seed=seed) for seed in range(4)]
        executor = LocalExecutor((make_worker(("second",)),) * number)
        with Store(folder, FAKE) as store:
            sweep(runs, runs, store, executor, LogLines(Tally(runs)))
        rows = rows_of(folder)
        assert sorted(row["seed"] for row in rows) == [0, 1, 2, 3]
        spans = [row["trace_seconds"] for row in rows]
        assert any(overlap(a, b) for i, a in enumerate(spans) for b in spans[:i]) is expected


@pytest.mark.parametrize("workers", [1, 2])
def test_times_are_taken_alone_and_in_turns(tmp_path, make_run, make_worker, workers):
    """No pass runs while a time pass does; the rounds of a block's methods alternate, forwards and backwards."""
    runs = [make_run("interval", seed=seed, variant=v) for seed in range(3) for v in (1, 2)]
    executor = LocalExecutor((make_worker(("second", "time")),) * workers)
    with Store(tmp_path, FAKE) as store:
        sweep(runs, runs, store, executor, LogLines(Tally(runs)))
    rows = rows_of(tmp_path)
    rounds = {row["run_id"]: list(zip(*[iter(row["forward_seconds_raw"])] * 2, strict=True)) for row in rows}
    assert all(len(each) == 3 for each in rounds.values())
    timed = [span for each in rounds.values() for span in each]
    others = [tuple(row["trace_seconds"]) for row in rows]
    assert not any(overlap(a, b) for a in timed for b in others)
    assert not any(overlap(a, b) for i, a in enumerate(timed) for b in timed[:i])
    for first, second in zip(runs[::2], runs[1::2], strict=True):
        order = sorted([(span[0], run.run_id) for run in (first, second) for span in rounds[run.run_id]])
        a, b = first.run_id, second.run_id
        assert [name for _, name in order] == [a, b, b, a, a, b]


def test_first_block_has_its_results_before_others_are_timed(tmp_path, make_run, make_worker):
    """Whoever watches sees a result soon; the blocks that follow are timed together."""
    runs = [make_run("interval", seed=seed) for seed in range(3)]
    executor = LocalExecutor((make_worker(("second", "time")),) * 2)
    with Store(tmp_path, FAKE) as store:
        sweep(runs, runs, store, executor, LogLines(Tally(runs)))
    spans = {row["seed"]: (row["forward_seconds_raw"], row["trace_seconds"]) for row in rows_of(tmp_path)}
    ended = spans[0][1][1]
    timed = [times for seed in (1, 2) for times in spans[seed][0]]
    assert ended < min(timed)
    assert max(timed) < min(spans[seed][1][0] for seed in (1, 2))


def test_shared_clock_times_whenever_a_run_comes(tmp_path, make_run, make_worker):
    """Told so, the executor measures every run's passes together: its rounds follow each other."""
    runs = [make_run("interval", variant=v) for v in (1, 2)]
    with Store(tmp_path, FAKE) as store:
        sweep(
            runs, runs, store, LocalExecutor((make_worker(("second", "time")),), exclusive=False), LogLines(Tally(runs))
        )
    spans = [row["forward_seconds_raw"] for row in rows_of(tmp_path)]
    assert [len(each) for each in spans] == [6, 6]
    assert spans[0][-1] < spans[1][0]


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system does not keep processes on cores")
def test_time_pass_stays_on_the_worker_s_last_cores(make_run, make_worker):
    """The other passes may use all of the worker's cores."""
    cores = tuple(sorted(os.sched_getaffinity(0)))[:2]
    worker = make_worker(("time",), cores=cores, rounds=2)
    record = worker.measure(make_run(), {}, lambda _message: None)
    assert record.measured["warmup_seconds_raw"] == [cores[-1]] * 2


def test_rounds_are_merged():
    """Raw repeats are put together, medians are of all of them, each round has its median iteration."""
    first = {"forward_seconds": 9.0, "compile_seconds": 3.0, "forward_seconds_raw": [1.0, 9.0, 2.0]}
    first |= {"backward_seconds_raw": [1.0, 1.0, 1.0], "update_seconds_raw": [0.5, 0.5, 0.5]}
    first |= {"time_relative_interval": 9.0, "taints": "load"}
    second = {**first, "compile_seconds": 1.0, "forward_seconds_raw": [3.0, 4.0, 5.0], "taints": "throttled,load"}
    merged = merge([first, second])
    assert merged["forward_seconds_raw"] == [1.0, 9.0, 2.0, 3.0, 4.0, 5.0]
    assert merged["forward_seconds"] == 3.5
    assert merged["round_seconds_raw"] == [3.5, 5.5]
    assert merged["compile_seconds"] == 3.0
    assert merged["taints"] == "load,throttled"
    iterations = sorted([2.5, 10.5, 3.5, 4.5, 5.5, 6.5])  # 95 % of the median by order statistics: the whole range
    assert merged["time_relative_interval"] == (iterations[-1] - iterations[0]) / (2 * 5.0)


def test_turns_cancel_a_steady_drift():
    """With an even number of rounds every method's mean place in the queue is the same."""
    order = list(turns(["a", "b", "c"], 4))
    places = {name: [i for i, each in enumerate(order) if each == name] for name in "abc"}
    assert {name: sum(each) for name, each in places.items()} == {"a": 22, "b": 22, "c": 22}


@pytest.mark.parametrize("behaviour", ["allocates", "child_allocates"])
def test_memory_limit_ends_a_run_that_allocates_without_end(make_run, make_worker, behaviour):
    """The run, or a child of its own, is stopped at its limit; the row says so and names the option."""
    worker = make_worker(memory_bytes=2**30)
    record = worker.measure(make_run(behaviour), {}, lambda _message: None)
    assert record.status is Status.OUT_OF_MEMORY, record.message
    assert f"limit {2**30} bytes, --memory" in record.message
    assert record.measured["nfe_forward"] == 10


def test_what_the_machine_spoilt_is_tried_again(make_run, make_worker, tmp_path):
    """One more try is the default; a method's own failure is never tried again."""
    run = make_run("fails_once", file=str(tmp_path / "mark"))
    assert make_worker(retries=0).measure(run, {}, lambda _: None).status is Status.INFRASTRUCTURE
    (tmp_path / "mark").unlink()
    assert make_worker().measure(run, {}, lambda _: None).status is Status.OK


def test_slots_share_out_cores_and_gpus():
    """Neighbouring cores go together; each worker has one GPU; a single worker has everything."""
    assert slots((0, 1, 2, 3, 4), (), 2, 2) == (Slot((0, 1), None), Slot((2, 3), None))
    assert slots((0, 1), ("0", "1"), 1, 1) == (Slot((0, 1), None),)
    assert slots((0, 1), ("3", "5"), 2, 1) == (Slot((0,), "3"), Slot((1,), "5"))
    with pytest.raises(UsageError, match=r"--workers 3: expected at most 2 with 1 thread"):
        slots((0, 1), (), 3, 1)
    with pytest.raises(UsageError, match=r"--workers 2: expected at most one run a GPU, and 1 are visible"):
        slots((0, 1), ("0",), 2, 1)


def test_shards_are_whole_blocks_and_together_the_suite():
    """Every run is in exactly one shard; neighbours of one block stay together."""
    items = [(block, i) for block in range(7) for i in range(3)]
    parts = [Shard(i, 3).of(items, lambda item: item[0]) for i in (1, 2, 3)]
    assert sorted(itertools.chain.from_iterable(parts)) == items
    assert all(len({i for b, i in part if b == block}) in {0, 3} for part in parts for block in range(7))
    assert Shard.parse("2/4") == Shard(2, 4)
    for wrong in ("0/2", "3/2", "a/b", "2"):
        with pytest.raises(UsageError, match=r"--shard .*: expected I/N with I from 1 to N"):
            Shard.parse(wrong)


def test_shards_write_beside_each_other_and_know_of_each_other(tmp_path, make_run, make_worker):
    """Two runners hold the folder at once, each with a file of its own; what one has finished is finished for all."""
    runs = [make_run(seed=seed) for seed in range(4)]
    executor = LocalExecutor((make_worker(("second",)),))
    with Store(tmp_path, FAKE, Shard(1, 2)) as one, Store(tmp_path, FAKE, Shard(2, 2)) as two:
        sweep(runs[:2], runs[:2], one, executor, LogLines(Tally(runs)))
        sweep(runs[2:], runs[2:], two, executor, LogLines(Tally(runs)))
        assert missing(runs, one.statuses()) == missing(runs, two.statuses()) == []
    assert {path.name for path in tmp_path.glob("records*.jsonl")} == {"records-1-of-2.jsonl", "records-2-of-2.jsonl"}
    assert read_rows(tmp_path, {runs[3].run_id})[runs[3].run_id]["seed"] == 3
    with Store(tmp_path, FAKE) as whole:
        assert missing(runs, whole.statuses()) == []
