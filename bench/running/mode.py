"""How a sweep tells how far it is: names only, so that the command line need not import what draws."""

from enum import StrEnum


class ProgressMode(StrEnum):
    """How a sweep tells how far it is."""

    AUTO = "auto"
    """A table on a terminal; lines where there is none, or where ``NO_COLOR`` is set."""
    TABLE = "table"
    PLAIN = "plain"
