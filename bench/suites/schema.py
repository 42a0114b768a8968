"""What a suite file may say: its keys, types and ranges, and what is answered to a wrong one."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic_core import PydanticCustomError

from odegrad.errors import SuiteError, UnknownNameError

Options = dict[str, str | int | float | bool]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Count = Annotated[int, Field(gt=0)]


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class MethodEntry(_Table):
    """A method: a gradient method or a published pair, with an optimizer and options if they are not the defaults."""

    gradient: str
    optimizer: str | None = None
    gradient_options: Options = {}
    optimizer_options: Options = {}
    name: str | None = None

    @property
    def shown(self) -> str:
        """Return the name shown in tables and figures."""
        return self.name or (f"{self.gradient}+{self.optimizer}" if self.optimizer else self.gradient)


class SolverEntry(_Table):
    """A solver with its tolerances, which a task's own override, and its options."""

    name: str
    rtol: Positive = 1e-5
    atol: Positive = 1e-5
    options: Options = {}


class TaskEntry(_Table):
    """A task at one size; what is left open is the task's own, or the solver's."""

    name: str
    size: str = "default"
    rtol: Positive | None = None
    atol: Positive | None = None
    iterations: Count | None = None


def _as_table(value: Any) -> Any:
    if not isinstance(value, (str, dict)):
        raise PydanticCustomError("method", "a string or a table")
    return {"gradient": value} if isinstance(value, str) else value


class SuiteFile(_Table):
    """A whole suite file: methods x solvers x tasks x seeds."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]
    description: str = ""
    methods: Annotated[list[Annotated[MethodEntry, BeforeValidator(_as_table)]], Field(min_length=1)]
    solvers: Annotated[list[SolverEntry], Field(min_length=1)]
    tasks: Annotated[list[TaskEntry], Field(min_length=1)]
    seeds: Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)] = [0]
    dtype: Literal["float32", "float64"] = "float32"


ENTRIES: dict[str, type[_Table]] = {"methods": MethodEntry, "solvers": SolverEntry, "tasks": TaskEntry}
"""The tables inside a suite file."""

EXPECTED = {
    "bool_type": "true or false",
    "dict_type": "a table",
    "finite_number": "a finite number",
    "float_type": "a number",
    "greater_than": "a number greater than {gt}",
    "greater_than_equal": "a number of at least {ge}",
    "int_type": "a whole number",
    "list_type": "a list",
    "model_type": "a table",
    "string_pattern_mismatch": "letters, digits, '_', '-' and '.'",
    "string_type": "a string",
    "too_short": "at least one entry",
}
"""Pydantic's kinds of error in the words of a suite's author; the other kinds keep pydantic's words."""


def validate(data: dict[str, Any], source: str) -> SuiteFile:
    """Return the checked suite file.

    Raises
    ------
    SuiteError
        If a key, type or value is wrong; the message names ``source`` and the key, what was expected and what came.
    """
    try:
        return SuiteFile.model_validate(data)
    except ValidationError as error:
        lines = [explain(dict(problem), source) for problem in error.errors(include_url=False)]
        raise SuiteError("\n".join(dict.fromkeys(lines))) from error


def explain(problem: dict[str, Any], source: str) -> str:
    """Return one of pydantic's findings as a sentence with the file, the key, what was expected and what came."""
    place = problem["loc"]
    of_option = any(str(part).endswith("_options") or part == "options" for part in place[:-1])
    key = ".".join(str(part) for part in (place[:-1] if of_option else place))
    if problem["type"] == "extra_forbidden":
        table = ENTRIES.get(str(place[0]), SuiteFile) if len(place) > 1 else SuiteFile
        return f"{source}: {key}: {UnknownNameError('key', str(place[-1]), table.model_fields)}"
    if problem["type"] == "missing":
        return f"{source}: {key}: expected a value, got nothing; add this key"
    words = EXPECTED.get(problem["type"], problem["msg"].replace("Input should be ", ""))
    expected = "a string, a number or a boolean" if of_option else words.format(**problem.get("ctx", {}))
    return f"{source}: {key}: expected {expected}, got {problem['input']!r}"
