"""A run on another host: whatever goes to the server beside a worker, or comes back, is a row or a sentence."""

import json
import sys
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from odegrad.errors import InfrastructureError
from odegrad.processes.asking import QUESTION_KEY
from odegrad.records.record import Record, Run, Status
from odegrad.running import remote
from odegrad.running.remote import answer, measure_row
from odegrad.running.worker import Worker

RUN = Run("s", "linear", "tiny", "ok", "adam", "rk4", 0, 1e-3, 1e-3, 1)
SETTINGS = {k: v for k, v in Worker(("second",), "fake_passes:run_pass").__dict__.items() if k != "stop"}
JOB = {"run": RUN.to_dict(), "worker": SETTINGS, "preload": [], "neighbours": 1, QUESTION_KEY: "k"}
ROW = Record(RUN, Status.OK, "", {"nfe_forward": 3}).to_row()
PLAIN = st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.lists(st.integers(), max_size=2)


@pytest.fixture
def measured(monkeypatch):
    """Measure nothing: a sound job has this row."""
    monkeypatch.setattr(Worker, "machine", lambda self: {"cpu": "x"})
    monkeypatch.setattr(Worker, "measure", lambda self, run, machine, heard: Record(run, Status.OK, "", {}, machine))


@pytest.mark.parametrize(
    "line",
    ["", "[]", "{", "[" * 10**5, "3", *(json.dumps(JOB | {name: 3.5}) for name in ("run", "worker", "preload")),
     json.dumps(JOB | {"worker": {}}), json.dumps(JOB | {"run": {"suite": "s"}}),
     json.dumps(JOB | {"worker": SETTINGS | {"newer": 1}})],
)  # fmt: skip
def test_what_is_no_job_is_refused(measured, line):
    """With the key of the question where it has one."""
    found = answer(line, {})
    assert found["refused"]
    assert found[QUESTION_KEY] == ("k" if '"k"' in line else None)


def test_a_job_has_its_row(measured):
    """With the circumstances, which are found once."""
    circumstances = {}
    found = answer(json.dumps(JOB), circumstances)
    assert found == {"row": Record(RUN, Status.OK, "", {}, {"cpu": "x"}).to_row(), QUESTION_KEY: "k"}
    assert circumstances == {"cpu": "x"}


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.dictionaries(st.sampled_from(sorted(JOB)), PLAIN, max_size=3))
def test_jobs_of_any_form_are_answered(changes):
    """A row or why there is none, never an exception: the server lives on."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Worker, "machine", lambda self: {})
        patch.setattr(Worker, "measure", lambda self, run, machine, heard: Record(run, Status.OK))
        patch.setattr(remote, "prepare", lambda modules: None)
        assert {"row", "refused"} & set(answer(json.dumps(JOB | changes), {}))


SERVER = """
import json, os, sys, time
def say(**message):
    os.write(1, json.dumps(message).encode() + b"\\n")
for line in sys.stdin:
    job = json.loads(line)
    key = job["key"]
    {body}
"""
ANSWERS = {
    "sys.exit(3)": "ended early: the process ended with exit code 3",
    "os.kill(os.getpid(), 9)": "ended early: the process was killed from outside by SIGKILL",
    "os.write(1, b'garbage\\n')": "wrote what is no answer: b'garbage'",
    "say(row=job['run'])": "wrote what is no answer",
    "say(row=3, key=key)": "what the measuring server answered is no record",
    "say(row={**ROW, 'nfe_forward': 'x'}, key=key)": "is no record: column 'nfe_forward': expected a whole number",
    "say(refused='no', key=key)": "the measuring server refused the job: no",
}


@pytest.fixture
def serving(monkeypatch):
    """Return a function that puts a server in the place of ours."""
    start = remote.subprocess.Popen

    def make(body):
        code = f"ROW = {json.dumps(ROW)}".replace("null", "None").replace("true", "True").replace("false", "False")
        code += SERVER.format(body=body)
        fake = SimpleNamespace(
            Popen=lambda command, **options: start([sys.executable, "-S", "-c", code], **options),
            PIPE=remote.subprocess.PIPE,
        )
        monkeypatch.setattr(remote, "subprocess", fake)

    yield make
    for server in list(remote._servers):
        remote._end(server)


@pytest.mark.parametrize("body", ANSWERS)
def test_whatever_a_server_answers_is_a_row_or_the_machines_failure(serving, body):
    """Nothing of it is taken for a row, and the next job has a server again."""
    serving(body)
    job = {name: value for name, value in JOB.items() if name != QUESTION_KEY}
    for _ in range(2):
        with pytest.raises(InfrastructureError, match=ANSWERS[body]):
            measure_row(job)


def test_rows_of_a_server_are_handed_on(serving):
    """One after the other, by one server."""
    serving("say(row=ROW, key=key)")
    job = {name: value for name, value in JOB.items() if name != QUESTION_KEY}
    assert [measure_row(job), measure_row(job)] == [ROW, ROW]
    assert len(remote._servers) == 1
