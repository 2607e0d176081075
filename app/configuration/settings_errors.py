"""Describes errors in settings for the user."""

from typing import Literal, get_args, get_origin

from annotated_types import Ge, Gt, Le
from pydantic import ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from app.configuration.settings import Settings, variable

_UNITS = {
    "_bytes": "a number of bytes, such as 10000000, 10MB or 10MiB,",
    "_seconds": "a number of seconds, such as 90, 1.5m or 1m30s,",
}


def describe_errors(err: ValidationError) -> list[str]:
    """A sentence for each error: the setting, the value and what is valid. No key is shown."""
    return [_describe(error) for error in err.errors()]


def _describe(error: ErrorDetails) -> str:
    name = str(error["loc"][0]) if error["loc"] else ""
    field = Settings.model_fields.get(name)
    if field is None:  # a rule for several settings
        return str(error.get("ctx", {}).get("error", error["msg"]))
    where = f"--{name.replace('_', '-')}, or {variable(name)} in the environment"
    if error["type"] == "value_error":  # a check of the setting's own
        return f"setting {name}: {error['ctx']['error']} ({where})"
    value = "a key" if "Secret" in str(field.annotation) else repr(error["input"])[:100]
    return f"setting {name}: {value} is not {_valid_values(name, field)} ({where})"


def _valid_values(name: str, field: FieldInfo) -> str:
    if get_origin(field.annotation) is Literal:
        return f"one of {', '.join(get_args(field.annotation))}"
    kinds = {field.annotation, *get_args(field.annotation)}
    if bool in kinds:
        return "true or false"
    if list[int] in kinds:
        return "whole numbers separated by commas"
    if not kinds & {int, float}:
        return f"valid: {field.description}"
    number = "a number" if float in kinds else "a whole number"
    unit = next((unit for ending, unit in _UNITS.items() if name.endswith(ending)), number)
    return f"{unit} {_bounds(field)}".rstrip(" ,")


def _bounds(field: FieldInfo) -> str:
    least = next((f"from {limit.ge}" for limit in field.metadata if isinstance(limit, Ge)), "")
    over = next((f"over {limit.gt}" for limit in field.metadata if isinstance(limit, Gt)), "")
    most = next((f"to {limit.le}" for limit in field.metadata if isinstance(limit, Le)), "")
    if least and not most:
        return f"{least} on"
    return " ".join(filter(None, (least or over, most.replace("to ", "up to ") if over else most)))
