"""Numbers as a reader sees them: significant digits, kB and MB, ms and s. A missing value is a dash, never a blank."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import pandas as pd

from odegrad.records.columns import COLUMN_OF, ShownAs

MISSING = "–"
WIDE, ROUGH = 0.1, 0.05
"""Half the width in which a time is known, relative to it, from which it is told, and from which a digit is dropped."""

_SECONDS = ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs"))
_BYTES = ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"), (1.0, "B"))

Number = float | int | None
"""A number, or None, NaN or NA where there is none."""


def significant(value: Number, digits: int = 3) -> str:
    """Return ``value`` with at least that many significant digits; very large and small ones in powers of ten."""
    number = to_float(value)
    if number is None:
        return MISSING
    if math.isinf(number):
        return "inf" if number > 0 else "-inf"
    if number == 0.0:
        return "0"
    rounded = float(f"{number:.{digits - 1}e}")
    exponent = math.floor(math.log10(abs(rounded)))
    if exponent < -3 or exponent >= 6:
        return f"{rounded:.{digits - 1}e}"
    return f"{number:.{max(0, digits - 1 - exponent)}f}"


def error(value: Number) -> str:
    """Return a relative error as ``1.2e-07``; exactly zero is ``0``."""
    number = to_float(value)
    return significant(value) if number is None or number == 0.0 or math.isinf(number) else f"{number:.1e}"


def count(value: Number) -> str:
    """Return a count: whole, or with one decimal where the median lies between two."""
    number = to_float(value)
    if number is None or math.isinf(number):
        return significant(value)
    return f"{number:.0f}" if number == round(number) else f"{number:.1f}"


def count_between(low: Number, high: Number) -> str:
    """Return a range of counts: ``20-26``."""
    return _between(count(low), count(high))


def seconds(value: Number) -> str:
    """Return a time as ``12.3 s``, ``4.56 ms`` or ``7.89 µs``."""
    return _with_unit([value], _SECONDS)


def seconds_together(values: Sequence[Number], noise: Number = None) -> str:
    """Return times in one unit, that of the largest, no more exact than they are known: ``31 / 53 / 4.1 ms ±12 %``.

    ``noise`` is half the width of the interval in which they are known, relative to them. Up to ``ROUGH``, or unknown,
    they have three digits, beyond it two, and beyond ``WIDE`` it is told.
    """
    wide = to_float(noise) or 0.0
    text = _with_unit(values, _SECONDS, 3 if wide <= ROUGH else 2)
    return text if wide <= WIDE or MISSING in text else f"{text} ±{100 * wide:.0f} %"


def seconds_between(low: Number, high: Number) -> str:
    """Return a range of times in one unit, two digits each: ``3.6-4.5 s``."""
    return _with_unit([low, high], _SECONDS, 2, "-")


def memory(value: Number) -> str:
    """Return bytes as ``640 B``, ``12.3 kB``, ``4.56 MB`` or ``1.23 GB`` (powers of ten)."""
    number = to_float(value)
    return f"{number:.0f} B" if number is not None and abs(number) < 1e3 else _with_unit([value], _BYTES)


def metric(value: Number) -> str:
    """Return a task's metric, or its target or limit: four significant digits."""
    return significant(value, 4)


TEXTS: Mapping[ShownAs, Callable[[Any], str]] = {
    ShownAs.TEXT: str,
    ShownAs.COUNT: count,
    ShownAs.NUMBER: significant,
    ShownAs.METRIC: metric,
    ShownAs.ERROR: error,
    ShownAs.MEMORY: memory,
    ShownAs.DURATION: seconds,
}
"""How a column is shown -> what writes its values."""


def of_column(name: str, value: object) -> str:
    """Return a value of a record's column, or a median of it, as a reader sees it."""
    return TEXTS[COLUMN_OF[name].shown_as](value)


def memory_between(low: Number, high: Number) -> str:
    """Return a range of bytes in one unit, ``4.43-4.61 MB``; one number where the ends read the same."""
    return memory(low) if memory(low) == memory(high) else _with_unit([low, high], _BYTES, between="-")


def seconds_unit(largest: float) -> tuple[float, str]:
    """Return the unit that suits an axis up to ``largest`` seconds, as ``(seconds in it, its name)``."""
    return _unit(largest, _SECONDS)


def memory_unit(largest: float) -> tuple[float, str]:
    """Return the unit that suits an axis up to ``largest`` bytes, as ``(bytes in it, its name)``."""
    return _unit(largest, _BYTES)


def to_float(value: Number) -> float | None:
    """Return a float, or None where there is no number."""
    return None if value is None or pd.isna(value) else float(value)


def _between(low: str, high: str) -> str:
    return low if low == high else f"{low}-{high}"


def _with_unit(
    values: Iterable[Number], units: Sequence[tuple[float, str]], digits: int = 3, between: str = " / "
) -> str:
    numbers = [to_float(v) for v in values]
    sizes = [abs(n) for n in numbers if n is not None and math.isfinite(n)]
    if not sizes:
        return between.join(significant(n) for n in numbers)
    scale, unit = _unit(max(sizes), units)
    return f"{between.join(significant(None if n is None else n / scale, digits) for n in numbers)} {unit}"


def _unit(largest: float, units: Sequence[tuple[float, str]]) -> tuple[float, str]:
    # 0.9996 ms is shown as 1.00 ms, not as 1000 µs
    return next((unit for unit in units if largest >= 0.9995 * unit[0]), units[-1])
