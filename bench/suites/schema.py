"""What a suite file may say: its keys, types and ranges, and what is answered to a wrong one."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic_core import PydanticCustomError

from odegrad.errors import SuiteError, UnknownNameError
from odegrad.records.record import EVALUATIONS

Value = str | int | float | bool
OptionValues = dict[str, Value]
OneOrMore = BeforeValidator(lambda value: value if isinstance(value, list) else [value])
"""Takes a single value for a list of one."""
OptionGrid = dict[str, Annotated[list[Value], OneOrMore, Field(min_length=1)]]
"""Options, of which a list stands for each of its values."""
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Count = Annotated[int, Field(gt=0, le=10**9)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]
Dtype = Literal["float32", "float64", "bfloat16", "float16"]
FieldType = Literal["", "bfloat16", "float16"]
PassName = Literal["time", "count", "memory", "train", "diagnose"]
Rule = dict[str, Annotated[list[Value], OneOrMore, Field(min_length=1)]]
"""Fields of a run -> the value, or values, that it picks out; text may hold ``*`` and ``?``."""


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class MethodEntry(_Table):
    """A method: a gradient method or a published pair, with an optimizer and options if they are not the defaults."""

    gradient: str
    optimizer: str | None = None
    gradient_options: OptionGrid = {}
    optimizer_options: OptionGrid = {}
    name: str | None = None

    @property
    def shown(self) -> str:
        """Return the name shown in tables and figures."""
        return self.name or (f"{self.gradient}+{self.optimizer}" if self.optimizer else self.gradient)


class OptimizerEntry(_Table):
    """An optimizer that every method without one of its own is run with."""

    name: str
    options: OptionGrid = {}


class RegulariserEntry(_Table):
    """Penalties that every method is trained with: weights by name, and options behind a dot."""

    name: str
    """Shown behind the method's name; ``none`` for the training without."""
    options: OptionGrid = {}


class SolverEntry(_Table):
    """A solver with its tolerances, which a task's own override, and its options."""

    name: str
    rtol: Positive = 1e-5
    atol: Positive = 1e-5
    options: OptionValues = {}


class ToleranceEntry(_Table):
    """Tolerances that every solver and task is run at."""

    rtol: Positive
    atol: Positive


class TaskEntry(_Table):
    """A task at one size or several; what is left open is the task's own, or the solver's."""

    name: str
    size: Annotated[list[str], OneOrMore, Field(min_length=1)] = ["default"]
    rtol: Positive | None = None
    atol: Positive | None = None
    iterations: Count | None = None


class TuningEntry(_Table):
    """How settings are chosen before the runs that count: one trial a point of a method's grid of options."""

    seed: Seed = 1000
    """Of the trials; none of the suite's own."""
    iterations: Count | None = None
    """Of a trial; the run's own if left out."""
    by: Literal["metric", "loss"] = "metric"
    """What the trials are judged by on the validation split: the metric at the end, or the least loss on the way."""


def _as_table(key: str) -> BeforeValidator:
    """Return a validator that takes a name for a table with nothing else in it."""

    def convert(value: object) -> object:
        if not isinstance(value, (str, dict)):
            raise PydanticCustomError("method", "a string or a table")
        return {key: value} if isinstance(value, str) else value

    return BeforeValidator(convert)


def _as_tolerances(value: object) -> object:
    """Take one number for both tolerances."""
    if isinstance(value, bool) or not isinstance(value, (int, float, dict)):
        raise PydanticCustomError("tolerance", "a number or a table of rtol and atol")
    return value if isinstance(value, dict) else {"rtol": float(value), "atol": float(value)}


class SuiteFile(_Table):
    """A whole suite file.

    Methods x optimizers x regularisers x solvers x tolerances x tasks x sizes x seeds x devices x dtypes x precisions.
    """

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]
    description: str = ""
    methods: Annotated[list[Annotated[MethodEntry, _as_table("gradient")]], Field(min_length=1)]
    optimizers: list[Annotated[OptimizerEntry, _as_table("name")]] = []
    regularisers: list[RegulariserEntry] = []
    solvers: Annotated[list[SolverEntry], Field(min_length=1)]
    tolerances: list[Annotated[ToleranceEntry, BeforeValidator(_as_tolerances)]] = []
    tasks: Annotated[list[TaskEntry], Field(min_length=1)]
    seeds: Annotated[list[Seed], Field(min_length=1)] = [0]
    devices: list[Literal["cpu", "cuda"]] = []
    dtype: Annotated[list[Dtype], OneOrMore, Field(min_length=1)] = ["float32"]
    precision: Annotated[list[FieldType], OneOrMore, Field(min_length=1)] = [""]
    passes: list[PassName] = []
    evaluations: Count = EVALUATIONS
    workers: Count = 1
    tuning: TuningEntry | None = None
    include: list[Rule] = []
    exclude: list[Rule] = []


ENTRIES: dict[str, type[_Table]] = {
    "methods": MethodEntry,
    "optimizers": OptimizerEntry,
    "regularisers": RegulariserEntry,
    "solvers": SolverEntry,
    "tolerances": ToleranceEntry,
    "tasks": TaskEntry,
    "tuning": TuningEntry,
}
"""The tables inside a suite file."""

OPTION_TABLES = frozenset({"options", "gradient_options", "optimizer_options"})

EXPECTED = {
    "bool_type": "true or false",
    "dict_type": "a table",
    "finite_number": "a finite number",
    "float_type": "a number",
    "greater_than": "a number greater than {gt}",
    "greater_than_equal": "a number of at least {ge}",
    "int_type": "a whole number",
    "less_than": "a number less than {lt}",
    "less_than_equal": "a number of at most {le}",
    "list_type": "a list",
    "model_type": "a table",
    "string_pattern_mismatch": "letters, digits, '_', '-' and '.'",
    "string_type": "a string",
    "too_short": "at least one entry",
}
"""Pydantic's kinds of error in the words of a suite's author; the other kinds keep pydantic's words."""


def validate(data: dict[str, object], source: str) -> SuiteFile:
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
    option = next((i + 2 for i, part in enumerate(place[:-1]) if part in OPTION_TABLES), None)
    key = ".".join(str(part) for part in place[:option])
    if problem["type"] == "extra_forbidden":
        table = ENTRIES.get(str(place[0]), SuiteFile) if len(place) > 1 else SuiteFile
        return f"{source}: {key}: {UnknownNameError('key', str(place[-1]), table.model_fields)}"
    if problem["type"] == "missing":
        return f"{source}: {key}: expected a value, got nothing; add this key"
    words = EXPECTED.get(problem["type"], problem["msg"].replace("Input should be ", ""))
    expected = "a string, a number or a boolean" if option else words.format(**problem.get("ctx", {}))
    return f"{source}: {key}: expected {expected}, got {problem['input']!r}"
