"""The reply channel: whole messages come through, whatever else comes is one clear sentence."""

import contextlib
import json
import os
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from odegrad.processes.framing import KEY_BYTES, GarbledReply, Receiver, Sender, readable
from odegrad.records.record import Status

KEY = bytes(range(KEY_BYTES))
MESSAGES = [
    {"kind": "started"},
    {"kind": "progress", "message": {"pass": "train", "loss": 0.5}},
    {"kind": "result", "value": {"train_loss": [1.0] * 1000}},
]


def sent(*messages):
    """Return the bytes that a sender writes."""
    reading, writing = os.pipe()
    try:
        for message in messages:
            Sender(writing, KEY)(message)
        return os.read(reading, 2**20)
    finally:
        os.close(reading)
        os.close(writing)


@given(st.lists(st.integers(1, 9000), max_size=5))
def test_messages_come_whole_however_the_bytes_come(cuts):
    """Any partition of the bytes gives the same messages."""
    data, receiver, found = sent(*MESSAGES), Receiver(KEY), []
    places = [0, *sorted({min(cut, len(data)) for cut in cuts}), len(data)]
    for begin, end in pairwise(places):
        found += receiver.messages(data[begin:end])
    assert found == MESSAGES


@given(st.binary(max_size=200), st.booleans(), st.integers(0, 3000), st.integers(1, 255))
def test_whatever_comes_is_a_message_or_one_sentence(noise, before, place, flip):
    """Noise before or behind a message, and a flipped byte: nothing but messages comes out, or the reason."""
    data = bytearray(noise + sent(*MESSAGES) if before else sent(*MESSAGES) + noise)
    data[place % len(data)] ^= flip
    found = []
    with contextlib.suppress(GarbledReply):
        found += Receiver(KEY).messages(bytes(data))
    assert all(message in MESSAGES for message in found)


PLAIN = st.none() | st.booleans() | st.floats() | st.text()


@given(st.recursive(PLAIN, lambda x: st.lists(x) | st.dictionaries(st.text(), x)))
def test_framed_json_of_another_form_is_no_message(value):
    """A forged object is refused, or is a message of a known kind."""
    try:
        (found,) = Receiver(KEY).messages(sent(value))
    except GarbledReply:
        return
    assert found["kind"] in {"started", "progress", "result", "failure"}


def test_a_failure_has_a_status_and_readable_text():
    """No failure is ``ok``; half a character and control characters do not go into a record."""
    (found,) = Receiver(KEY).messages(sent({"kind": "failure", "status": "error", "message": "a\ud800\x1b[2Jb"}))
    assert json.dumps(found["message"]).isascii()
    assert found["message"] == "a?\N{REPLACEMENT CHARACTER}[2Jb" == readable("a\ud800\x1b[2Jb")
    for status in (Status.OK, "fine", 3, [1]):
        with pytest.raises(GarbledReply, match="has the status"):
            list(Receiver(KEY).messages(sent({"kind": "failure", "status": status, "message": ""})))
