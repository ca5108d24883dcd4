"""Field types of a strategy: bounded numbers, quantities with units, paths, names; and their messages."""

import os
import re
from collections.abc import Callable
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    SerializationInfo,
    ValidationInfo,
    WithJsonSchema,
)
from pydantic.fields import FieldInfo
from pydantic_core import PydanticCustomError

from planner.strategy.addresses import copy_command, is_address, path_of_address
from planner.units import (
    EXAMPLES,
    Dimension,
    QuantityError,
    format_quantity,
    legal_units,
    parse_quantity,
    quantity_pattern,
    shorten,
)

# Validation and serialisation context: True while the values come from, or go to, text that people write.
AS_TEXT = {"text": True}


class Section(BaseModel):
    """A mapping of the strategy: unknown keys forbidden, no coercion of text to numbers, immutable."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    @classmethod
    def written_keys(cls) -> dict[str, FieldInfo]:
        """Its fields by the names that people write."""
        return {field.alias or name: field for name, field in cls.model_fields.items()}


def make_error(
    code: str, found: str, expected: str, fix: str | None = None, *, meant: Any = None, hint: str = ""
) -> PydanticCustomError:
    """What a validator raises; `load` makes a Problem of it.

    `meant`: the legal value that seems to be meant. With neither it nor a fix, `load` looks for one, or takes
    the field's example. hint: what follows a fix with `meant`.
    """
    context = {"code": code, "found": found, "expected": expected, "fix": fix, "meant": meant, "hint": hint}
    return PydanticCustomError("switchyard", "{found}", context)


def show(value: object) -> str:
    """A value as the message of a Problem names it."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (int, float)):
        return f"{shorten(repr(value), 40)} (a number)"
    if isinstance(value, str):
        return f"{shorten(repr(value))} (text)"
    if isinstance(value, dict):
        return "a mapping"
    return "a list" if isinstance(value, (tuple, list)) else type(value).__name__


def is_text(info: ValidationInfo | SerializationInfo) -> bool:
    """Whether the values come from (go to) text, where a quantity needs a unit."""
    return isinstance(info.context, dict) and bool(info.context.get("text"))


def _whole(value: Any) -> Any:
    """`1e5` is a float in YAML and an integer to people; so is `1e18`, which is out of range everywhere."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _quantity(dimension: Dimension, whole: bool, *, maximum: str | None = None) -> list[Any]:
    most = 1e29 if maximum is None else parse_quantity(maximum, dimension)
    example = EXAMPLES[dimension]

    def parse(value: Any, info: ValidationInfo) -> Any:
        expected = f"a number with a unit ({legal_units(dimension)}), for example {example}"
        if isinstance(value, str):
            try:
                value = parse_quantity(value, dimension)
            except QuantityError as error:
                raise make_error("SW116", str(error), expected) from None
        elif isinstance(value, bool) or not isinstance(value, (int, float)):
            raise make_error("SW116", f"{show(value)} is not a quantity", expected)
        elif is_text(info) and dimension != "tokens":
            raise make_error("SW116", f"{value!r} has no unit", expected)
        if not 0 < value <= most:
            bounds = "more than 0" if maximum is None else f"more than 0, at most {maximum}"
            raise make_error(
                "SW114", f"{value!r} {dimension} is out of range", f"{bounds}, for example {example}"
            )
        if whole and value != int(value):
            raise make_error(
                "SW114", f"{value!r} {dimension} is not an integer", f"an integer number of {dimension}"
            )
        return int(value) if whole else float(value)

    def write(value: Any, info: SerializationInfo) -> Any:
        return format_quantity(value, dimension) if is_text(info) and value is not None else value

    schema = {"type": "string", "pattern": quantity_pattern(dimension), "examples": [example]}
    if dimension == "tokens":
        schema["type"] = ["string", "integer"]
    return [BeforeValidator(parse), PlainSerializer(write), WithJsonSchema(schema)]


_bytes, _rate, _flops, _time = (
    _quantity("bytes", whole=True),
    _quantity("bytes/s", whole=False),
    _quantity("FLOP/s", whole=False),
    _quantity("seconds", whole=False, maximum="365000 d"),  # 1000 years, for the MTBF of a GPU
)
parse_bytes_per_s = _rate[0].func  # of a value and its ValidationInfo
Bytes = Annotated[int, _bytes[0], _bytes[1], _bytes[2]]
BytesPerSecond = Annotated[float, _rate[0], _rate[1], _rate[2]]
FlopPerSecond = Annotated[float, _flops[0], _flops[1], _flops[2]]
Seconds = Annotated[float, _time[0], _time[1], _time[2]]
# How long a process waits. Clocks count nanoseconds in 64 bits: 292 years.
LONGEST_WAIT = "30 d"
_wait = _quantity("seconds", whole=False, maximum=LONGEST_WAIT)
Wait = Annotated[float, _wait[0], _wait[1], _wait[2]]
_tokens, _cost = _quantity("tokens", whole=True), _quantity("$/GPU-hour", whole=False)
Tokens = Annotated[int, _tokens[0], _tokens[1], _tokens[2]]
DollarsPerGpuHour = Annotated[float, _cost[0], _cost[1], _cost[2]]

LARGEST = 10**9  # of any count; keeps products of a few of them exact and tables of them finite
Positive = Annotated[int, Field(ge=1, le=LARGEST), BeforeValidator(_whole)]
NotNegative = Annotated[int, Field(ge=0, le=LARGEST), BeforeValidator(_whole)]
# Not Positive with a second bound: messages and the schema for editors would show the first one.
VocabSize = Annotated[int, Field(ge=2, le=LARGEST), BeforeValidator(_whole)]
Seed = Annotated[int, Field(ge=0, le=2**63 - 1), BeforeValidator(_whole)]
# AdamW moves every weight by about the learning rate in each step.
LearningRate = Annotated[float, Field(gt=0, lt=1)]
PositiveNumber = Annotated[float, Field(gt=0)]
NotNegativeNumber = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Decay = Annotated[float, Field(ge=0, lt=1)]


def _matches(pattern: str, expected: str) -> Callable[[str], str]:
    compiled = re.compile(pattern)

    def check(value: str) -> str:
        if compiled.fullmatch(value) is None:
            found = f"{shorten(value)!r} is not allowed here" if value else "the text is empty"
            raise make_error("SW117", found, expected)
        return value

    return check


def _pattern(pattern: str) -> WithJsonSchema:
    """The same for editors."""
    return WithJsonSchema({"type": "string", "pattern": f"^{pattern}$"})


# A folder under output.folder and a job's name: no separators, no leading dot or dash.
NAME_PATTERN = r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}"
_RUN_NAME = r"(?!.*\.\.)[A-Za-z0-9](?:[A-Za-z0-9._-]{0,98}[A-Za-z0-9_-])?"
RunName = Annotated[
    str,
    AfterValidator(
        _matches(
            _RUN_NAME,
            "1 to 100 letters, digits, dots, dashes and underscores, starting with a letter or digit",
        )
    ),
    _pattern(_RUN_NAME),
]
_VARIABLE = re.compile(r"\$(?:([A-Za-z_][A-Za-z0-9_]*)|\{([^{}]*)\})")


_WINDOWS_VARIABLE = re.compile(r"%([A-Z][A-Z0-9_]{2,})%")


def expand_path(value: Any) -> Any:
    """A path with ~ and $NAME expanded on this machine, so that files and other hosts get the same folder.

    Raises:
        PydanticCustomError: for a user or a variable that this machine does not have, and for an address.
    """
    if not isinstance(value, str):
        return value
    if is_address(value):
        command, path = copy_command(value), path_of_address(value)
        copied = f"; this copies what is there: {command}" if command else ""
        raise make_error(
            "SW117",
            f"{shorten(value)!r} is an address, not a path",
            "a path of this machine or of a file system that all hosts share",
            None if path else f"write the path of a folder instead{copied}",
            meant=path,
        )
    expected = "a path, which may start with ~/ or ~NAME/ and hold $NAME of variables that are set here"
    if windows := _WINDOWS_VARIABLE.search(value):
        name = "HOME" if windows.group(1) == "USERPROFILE" else windows.group(1)
        found = f"{windows.group(0)} in {shorten(value)!r} is a variable as Windows writes it"
        raise make_error("SW117", found, expected, f"write ${name}, or write the path out")
    for match in _VARIABLE.finditer(value):
        name = match.group(1) or match.group(2)
        if not os.environ.get(name):  # an empty one would make $DATA/x a folder of the root
            found = f"the variable {shorten(name)!r} in {shorten(value)!r} is not set, or empty"
            fix = f"write the path out, or set {shorten(name)} before the command"
            raise make_error("SW117", found, expected, fix)
    value = _VARIABLE.sub(lambda match: os.environ[match.group(1) or match.group(2)], value)
    if not value.startswith("~"):
        return value
    path = os.path.expanduser(value)  # noqa: PTH111 (leaves an unknown ~NAME as it is)
    if path.startswith("~"):
        user = value[1:].partition("/")[0]
        found = f"no user {shorten(user)!r} on this machine" if user else "this user has no home folder"
        raise make_error("SW117", found, expected)
    return path


# Paths reach shell scripts and manifests: quoted there, but a control character is never meant.
_PATH = r"[^\x00-\x1f\x7f]{1,4096}"
check_path = _matches(_PATH, "a path: 1 to 4096 characters, none of them a control character")
PATTERN_OF_PATHS = f"^{_PATH}$"
PATH_MARK = _pattern(_PATH)  # by which a key is known to hold paths
Path = Annotated[str, BeforeValidator(expand_path), AfterValidator(check_path), PATH_MARK]
NAMES_VARIABLE = "a variable's name: letters, digits, underscores"
VariableName = Annotated[str, AfterValidator(_matches(r"[A-Za-z_][A-Za-z0-9_]{0,254}", NAMES_VARIABLE))]


def _variable_value(value: Any) -> Any:
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _scalar(value: Any) -> Any:
    if value is not None and not isinstance(value, (str, int, float)):
        raise make_error(
            "SW113", f"{show(value)} is not a single value", "text, a number, true, false or null"
        )
    return value


# A setting that is passed to another program as it is written.
Scalar = Annotated[bool | int | float | str | None, BeforeValidator(_scalar)]
VariableValue = Annotated[
    str,
    BeforeValidator(_variable_value),
    AfterValidator(_matches(r"[^\x00-\x1f\x7f]{0,4096}", "text on one line")),
]
Text = Annotated[str, Field(min_length=1, max_length=1000)]
