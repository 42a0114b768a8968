"""The results folder: whose it is, what survives a crash, how fast it answers."""

import json
import math
import os
import time

import pytest

from odegrad.errors import ResultsError
from odegrad.records.record import Record, Status
from odegrad.records.shard import RECORDS
from odegrad.records.store import SUITE, Store, SuiteIdentity, encode, read_statuses

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


@pytest.mark.parametrize("line", ["nonsense", "{}", '{"run_id": "ab", "status": "fine"}', "[]"])
def test_line_that_is_no_record_is_refused(tmp_path, make_run, line):
    """A broken line in the middle is named, not passed over."""
    with Store(tmp_path, FAKE) as store:
        store.append(record(make_run()))
        with (tmp_path / RECORDS).open("a") as file:
            file.write(line + "\n")
        with pytest.raises(ResultsError, match=r"records\.jsonl: line 2 is no record"):
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


@pytest.mark.parametrize("text", ["", "[]", "{}"])
def test_damaged_suite_file_is_refused(tmp_path, text):
    """A suite.json that does not say whose folder it is is an error."""
    (tmp_path / SUITE).write_text(text)
    with pytest.raises(ResultsError, match=r"suite\.json: expected a JSON object with the key 'suite'"):
        Store(tmp_path, FAKE)


def test_records_without_owner_are_refused(tmp_path):
    """Records of an unknown suite are not mixed with ours."""
    (tmp_path / RECORDS).write_text("{}\n")
    with pytest.raises(ResultsError, match=r"holds records\.jsonl but no suite\.json"):
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


def test_many_records_are_read(tmp_path, make_run):
    """Every one of 20,000 long lines is found (the time it takes is printed, not judged)."""
    head, tail = encode(record(make_run(), train_loss=[0.123456789] * 200)).split(make_run().run_id.encode(), 1)[:2]
    with Store(tmp_path, FAKE), (tmp_path / RECORDS).open("wb") as file:
        file.writelines(head + b"%016x" % i + tail for i in range(20_000))
    begin = time.perf_counter()
    found = read_statuses(tmp_path)
    print(f"{len(found)} lines of {len(tail)} bytes in {time.perf_counter() - begin:.3f} s")
    assert len(found) == 20_000
    assert set(found.values()) == {Status.OK}
