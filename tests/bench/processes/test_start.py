"""What is said where no measuring process can be started."""

from odegrad.processes import process
from odegrad.records.record import Status


class _Refusing:
    """A process whose start raises."""

    pid = None

    def __init__(self, error):
        self.error = error

    def start(self):
        raise self.error


def test_a_long_path_of_temporary_files_is_named():
    """The fork server's socket lies there; any other error is told as it is."""
    reply = process._start(_Refusing(OSError("AF_UNIX path too long")), 1)
    assert reply.status is Status.INFRASTRUCTURE
    assert reply.message.endswith("AF_UNIX path too long; set TMPDIR to a folder with a shorter path, as /tmp")
    other = process._start(_Refusing(OSError("no memory")), 1)
    assert other.message == "no process could be started: OSError: no memory"
