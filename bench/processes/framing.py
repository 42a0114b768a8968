"""The reply channel: messages in frames with a key of the call, so that whatever else is written there is seen.

A frame is the key, the length and the CRC-32 of the payload, and the payload, an object in JSON. The key is drawn anew
for every call: bytes that a measured program writes into the channel's descriptor do not begin with it.
"""

import json
import os
import struct
import threading
import zlib
from collections.abc import Iterator, Mapping
from typing import Any

from odegrad.records.record import Status

KEY_BYTES = 16

REPLY_BYTES = 2**28
"""A longer message is refused."""

MESSAGE_CHARACTERS_KEPT = 4000
"""Of the text of a failure; the rest is dropped."""

FAILURES = tuple(str(status) for status in Status if status is not Status.OK)
"""What a failure may be."""

_HEAD = struct.Struct(f"!{KEY_BYTES}sQI")


class GarbledReply(Exception):  # noqa: N818
    """What came through the channel is no message; the text says what it is."""


class Sender:
    """Writes messages into a descriptor, whole, from any thread."""

    def __init__(self, descriptor: int, key: bytes) -> None:
        self._descriptor, self._key, self._turn = descriptor, key, threading.Lock()
        self._write = os.write  # bound before any code of a user's is loaded

    def __call__(self, message: Mapping[str, object]) -> None:
        """Send ``message``, plain data."""
        payload = json.dumps(message).encode()
        frame = memoryview(_HEAD.pack(self._key, len(payload), zlib.crc32(payload)) + payload)
        with self._turn:
            while frame:
                frame = frame[self._write(self._descriptor, frame) :]


class Receiver:
    """Puts messages together from the bytes that come."""

    def __init__(self, key: bytes) -> None:
        self._key, self._bytes = key, bytearray()

    def messages(self, data: bytes) -> Iterator[dict[str, Any]]:
        """Yield the messages that are whole with ``data``, each checked.

        Raises
        ------
        GarbledReply
            If the bytes are no frames, a frame is damaged or too long, or its content is no message.
        """
        self._bytes += data
        while len(self._bytes) >= min(_HEAD.size, KEY_BYTES):
            if bytes(self._bytes[:KEY_BYTES]) != self._key:
                start = bytes(self._bytes[:40])
                raise GarbledReply(f"the process wrote into the reply channel what is no message: {start!r}")
            if len(self._bytes) < _HEAD.size:
                return
            _, length, check = _HEAD.unpack_from(self._bytes)
            if length > REPLY_BYTES:
                raise GarbledReply(f"the reply is longer than {REPLY_BYTES} bytes")
            if len(self._bytes) < _HEAD.size + length:
                return
            payload = bytes(self._bytes[_HEAD.size : _HEAD.size + length])
            del self._bytes[: _HEAD.size + length]
            if zlib.crc32(payload) != check:
                raise GarbledReply("a message in the reply channel is damaged")
            yield checked(payload)


def checked(payload: bytes) -> dict[str, object]:
    """Return the message in ``payload``.

    Raises
    ------
    GarbledReply
        If it is none.
    """
    try:
        message = json.loads(payload)
    except (ValueError, RecursionError) as error:
        raise GarbledReply(f"a message in the reply channel is not JSON: {type(error).__name__}: {error}") from error
    kind = message.get("kind") if isinstance(message, dict) else None
    if kind == "progress" and isinstance(message.get("message"), dict):
        return dict(message)
    if kind == "started" or (kind == "result" and "value" in message):
        return dict(message)
    if kind == "failure" and isinstance(message.get("message"), str):
        if message.get("status") not in FAILURES:
            raise GarbledReply(f"a failure in the reply channel has the status {message.get('status')!r}")
        told = {name: readable(str(message[name])) for name in ("raised", "text") if name in message}
        return {**message, **told, "message": readable(message["message"])}
    raise GarbledReply(f"a message in the reply channel has another form: {str(message)[:100]}")


def readable(text: str) -> str:
    """Return ``text`` as a record can hold it: without halves of characters and control characters, not too long."""
    whole = text[:MESSAGE_CHARACTERS_KEPT].encode("utf-8", "replace").decode()
    return "".join(c if c.isprintable() or c in "\n\t" else "\N{REPLACEMENT CHARACTER}" for c in whole)
