"""The results folder: whose it is, what survives a crash, how fast it answers."""

import json
import math
import os
import time
from collections import Counter

import pytest

from odegrad.errors import ResultsError
from odegrad.records.lines import encode, sealed
from odegrad.records.record import Record, Status
from odegrad.records.repair import examine_folder, repair_folder
from odegrad.records.replacing import replace_file, replacing
from odegrad.records.shard import RECORDS, WHOLE, Shard
from odegrad.records.store import SUITE, Store, SuiteIdentity, read_statuses
from odegrad.reports.frame import load

FAKE = SuiteIdentity("fake", "abc")


def record(run, status=Status.OK, **measured):
    return Record(run, status, "" if status is Status.OK else "why", measured, {"cpu": "test"})


def test_records_come_back_as_they_were(tmp_path, make_run):
    """A line read back is the record that was appended, non-finite numbers included."""
    written = record(make_run(), train_loss=[1.0, math.inf], metric_value=0.1)
    with Store(tmp_path / "deep" / "results", FAKE) as store:
        store.append(written)
    (line,) = (tmp_path / "deep" / "results" / RECORDS).read_text().splitlines()
    assert Record.from_row(json.loads(line)) == written


def test_last_status_of_a_run_counts(tmp_path, make_run):
    """A run that was measured again has its new status; a line of another writer is read as well."""
    with Store(tmp_path, FAKE) as store:
        store.append(record(make_run(seed=1), Status.ERROR))
        store.append(record(make_run(seed=2), Status.DIVERGED))
        store.append(record(make_run(seed=1)))
    with (tmp_path / RECORDS).open("a") as file:
        file.write(json.dumps(record(make_run(seed=3), Status.TIMEOUT).to_row(), separators=(",", ":")) + "\n")
    expected = {1: Status.OK, 2: Status.DIVERGED, 3: Status.TIMEOUT}
    assert read_statuses(tmp_path) == {make_run(seed=s).run_id: status for s, status in expected.items()}


def test_status_of_an_option_is_not_the_status_of_the_run(tmp_path, make_run):
    """An option called status does not confuse the reader."""
    run = make_run(status="ok")
    with Store(tmp_path, FAKE) as store:
        store.append(record(run, Status.ERROR))
        assert store.statuses() == {run.run_id: Status.ERROR}


def test_unfinished_last_line_is_dropped_and_said(tmp_path, make_run, caplog):
    """After a crash in the middle of a line, everything before it stays as it was, byte by byte."""
    with Store(tmp_path, FAKE) as store:
        store.append(record(make_run(seed=1)))
    whole = (tmp_path / RECORDS).read_bytes()
    (tmp_path / RECORDS).write_bytes(whole + encode(record(make_run(seed=2)))[:-100])
    assert read_statuses(tmp_path) == {make_run(seed=1).run_id: Status.OK}
    with caplog.at_level("WARNING"), Store(tmp_path, FAKE) as store:
        assert "dropped an unfinished last line" in caplog.text
        assert (tmp_path / RECORDS).read_bytes() == whole
        store.append(record(make_run(seed=2)))
    assert (tmp_path / RECORDS).read_bytes() == whole + encode(record(make_run(seed=2)))


def test_long_unfinished_line_without_any_whole_one(tmp_path):
    """A file that holds nothing but the beginning of a long line becomes empty."""
    with Store(tmp_path, FAKE):
        (tmp_path / RECORDS).write_bytes(b'{"run_id": ' + b"x" * 200_000)
    with Store(tmp_path, FAKE) as store:
        assert store.statuses() == {}
    assert (tmp_path / RECORDS).read_bytes() == b""


@pytest.mark.parametrize("line", ["nonsense", "{}", '{"run_id": "ab", "status": "fine"}', "[]", "[" * 100_000])
def test_line_that_is_no_record_is_refused(tmp_path, make_run, line):
    """A broken line in the middle is named, not passed over."""
    with Store(tmp_path, FAKE) as store:
        store.append(record(make_run()))
        with (tmp_path / RECORDS).open("a") as file:
            file.write(line + "\n")
        with pytest.raises(ResultsError, match=r"records\.jsonl: line 2 is (no record|not JSON)"):
            store.statuses()


def test_folder_of_another_suite_is_refused(tmp_path):
    """Another suite's folder is refused and not touched; a changed suite of the same name goes on."""
    with Store(tmp_path, FAKE):
        pass
    before = (tmp_path / SUITE).read_bytes()
    with pytest.raises(
        ResultsError, match=r"expected a folder of suite 'other', got one of suite 'fake'; give another"
    ):
        Store(tmp_path, SuiteIdentity("other", "abc"))
    assert (tmp_path / SUITE).read_bytes() == before
    with Store(tmp_path, SuiteIdentity("fake", "changed")):
        assert json.loads((tmp_path / SUITE).read_text()) == {"suite": "fake", "digest": "changed"}


@pytest.mark.parametrize("text", ["", "[]", "{}", "\xff", None])
def test_damaged_or_lost_suite_file_is_written_anew(tmp_path, make_run, caplog, text):
    """The records say whose folder it is: finished runs are not locked out, and another suite's stay apart."""
    with Store(tmp_path, FAKE) as store:
        store.append(record(make_run()))
    (tmp_path / SUITE).unlink() if text is None else (tmp_path / SUITE).write_bytes(text.encode("latin-1"))
    with pytest.raises(ResultsError, match="expected a folder of suite 'other', got one of suite 'fake'"):
        Store(tmp_path, SuiteIdentity("other", "abc"))
    with caplog.at_level("WARNING"), Store(tmp_path, FAKE) as store:
        assert len(store.statuses()) == 1
    assert "by its records it is of suite 'fake'" in caplog.text
    assert json.loads((tmp_path / SUITE).read_text())["suite"] == "fake"


def test_records_of_nobody_are_refused(tmp_path):
    """Lines of an unknown suite are not mixed with ours."""
    (tmp_path / RECORDS).write_text("{}\n")
    with pytest.raises(ResultsError, match=r"records\.jsonl: line 1 is no record.*results repair"):
        Store(tmp_path, FAKE)


def test_folder_that_cannot_be_written_is_refused(tmp_path):
    """A file in the folder's place, and a read-only folder, are refused with the reason."""
    (tmp_path / "file").write_text("")
    with pytest.raises(ResultsError, match=r"expected a folder that can be written, got FileExistsError"):
        Store(tmp_path / "file", FAKE)
    with pytest.raises(ResultsError, match=r"got NotADirectoryError .*--results"):
        Store(tmp_path / "file" / "results", FAKE)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_read_only_folder_is_refused(tmp_path):
    """A folder without write permission is refused."""
    tmp_path.chmod(0o500)
    with pytest.raises(ResultsError, match="got PermissionError"):
        Store(tmp_path, FAKE)


def test_second_runner_is_refused_while_the_first_runs(tmp_path):
    """One folder has one writer at a time."""
    with Store(tmp_path, FAKE), pytest.raises(ResultsError, match="another runner is writing into it"):
        Store(tmp_path, FAKE)
    with Store(tmp_path, FAKE):
        pass


def test_line_is_written_whole_or_not_at_all(tmp_path, make_run, monkeypatch):
    """When the disk is full half way through a line, what was there stays and the error says what to do."""
    with Store(tmp_path, FAKE) as store:
        store.append(record(make_run(seed=1)))
        whole = (tmp_path / RECORDS).read_bytes()
        real = os.write

        def full(descriptor, data):
            if len(data) < 100:
                raise OSError(28, "No space left on device")
            return real(descriptor, data[: len(data) - 50])

        monkeypatch.setattr(os, "write", full)
        with pytest.raises(ResultsError, match=r"could not be written \(No space left on device\); make room"):
            store.append(record(make_run(seed=2)))
        monkeypatch.undo()
        assert (tmp_path / RECORDS).read_bytes() == whole
        store.append(record(make_run(seed=2)))
    assert len(read_statuses(tmp_path)) == 2


@pytest.mark.parametrize(("one", "other"), [(WHOLE, Shard(1, 2)), (Shard(1, 2), WHOLE), (Shard(1, 3), Shard(2, 2))])
def test_divisions_of_a_suite_keep_apart(tmp_path, one, other):
    """A whole suite beside one of its halves would measure that half twice; shards of one division go together."""
    with Store(tmp_path, FAKE, one), pytest.raises(ResultsError, match=rf"shard {one} .* and shard {other} would"):
        Store(tmp_path, FAKE, other)
    with Store(tmp_path, FAKE, Shard(1, 2)), Store(tmp_path, FAKE, Shard(2, 2)):
        pass
    with Store(tmp_path, FAKE, other):
        pass


def test_a_changed_byte_is_seen(tmp_path, make_run):
    """Whichever byte of a line changes, runner and report refuse the line; lines without a checksum are read."""
    line = encode(record(make_run(), metric_value=0.5))
    old = json.dumps(record(make_run(seed=1)).to_row()).encode() + b"\n"
    for place in range(0, len(line) - 1, 7):
        (tmp_path / RECORDS).write_bytes(old + line[:place] + bytes([line[place] ^ 1]) + line[place + 1 :])
        for read in (read_statuses, load):
            with pytest.raises(ResultsError, match="line 2 "):
                read(tmp_path)
    (tmp_path / RECORDS).write_bytes(old + line)
    assert len(read_statuses(tmp_path)) == len(load(tmp_path)) == 2


def test_a_newer_schema_is_refused_before_anything_is_measured(tmp_path, make_run):
    """Runner and report alike, with a checksum and without one."""
    row = record(make_run()).to_row() | {"schema_version": 99}
    for line in (sealed({"run_id": row["run_id"], "status": "ok"} | row), json.dumps(row).encode() + b"\n"):
        (tmp_path / RECORDS).write_bytes(line)
        for read in (read_statuses, load):
            with pytest.raises(ResultsError, match="schema version 99, this odegrad reads up to 1; install the newer"):
                read(tmp_path)


def test_a_record_that_no_report_could_read_is_kept_as_an_error(tmp_path, make_run):
    """Whoever measured it: the folder stays readable."""
    with Store(tmp_path, FAKE) as store:
        store.append(record(make_run(), nfe_forward=1e308))
    (row,) = load(tmp_path).to_dict("records")
    assert (row["status"], row["message"][:41]) == ("error", "its record cannot be kept: column 'nfe_fo")


def test_repair_mends_everything(tmp_path, make_run):
    """Broken lines go aside, the line that counts stays of each run, and the folder is as good as new."""
    with Store(tmp_path, FAKE) as store:
        for status in (Status.ERROR, Status.OK):
            store.append(record(make_run(seed=1), status))
    old = json.dumps(record(make_run(seed=2)).to_row()).encode() + b"\n"
    with (tmp_path / RECORDS).open("ab") as file:
        file.write(old + b"nonsense\n" + encode(record(make_run(seed=3))).replace(b'"why"', b'"yhw"') + b'{"run')
    (tmp_path / "records-1-of-2.jsonl").write_bytes(encode(record(make_run(seed=1), Status.ERROR)))
    (tmp_path / SUITE).write_text("torn")
    found = examine_folder(tmp_path)
    kinds = {"broken": 1, "unfinished": 1, "duplicate": 2, "no checksum": 1, "suite": 1}
    assert Counter(problem.kind for problem in found) == kinds
    assert repair_folder(tmp_path) == found
    assert examine_folder(tmp_path) == []
    assert read_statuses(tmp_path) == {make_run(seed=s).run_id: Status.OK for s in (1, 2, 3)}
    (aside,) = tmp_path.glob("broken-*.txt")
    assert aside.read_bytes() == b'nonsense\n{"run\n'


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path, monkeypatch):
    """A full disk, or a writer that raises, leaves the old file and nothing beside it."""
    path = tmp_path / "report.html"
    replace_file(path, "old")

    def torn():
        with replacing(path) as part:
            part.write_text("ne")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        torn()

    def full(_descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        replace_file(path, "new")
    assert {p.name: p.read_text() for p in tmp_path.iterdir()} == {"report.html": "old"}


def test_many_records_are_read(tmp_path, make_run):
    """Every one of 20,000 long lines is found (the time it takes is printed, not judged)."""
    row = record(make_run(), train_loss=[0.123456789] * 200).to_row()
    with Store(tmp_path, FAKE), (tmp_path / RECORDS).open("wb") as file:
        heads = ({"run_id": f"{i:016x}", "status": "ok"} for i in range(20_000))
        file.writelines(sealed(head | row | head) for head in heads)
    begin = time.perf_counter()
    found = read_statuses(tmp_path)
    print(f"{(tmp_path / RECORDS).stat().st_size // 1000} kB in {time.perf_counter() - begin:.3f} s")
    assert len(found) == 20_000
    assert set(found.values()) == {Status.OK}
