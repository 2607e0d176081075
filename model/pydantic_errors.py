"""Describes pydantic's errors in the service's own words."""

from collections.abc import Mapping
from typing import Any

_WORDS = {
    "missing": "is missing",
    "string_type": "is not a string",
    "int_type": "is not a whole number",
    "int_parsing": "is not a whole number",
    "int_from_float": "is not a whole number",
    "int_parsing_size": "is too large a number",
    "float_type": "is not a number",
    "float_parsing": "is not a number",
    "bool_type": "is not true or false",
    "bool_parsing": "is not true or false",
    "list_type": "is not a list",
    "dict_type": "is not an object",
    "model_type": "is not an object",
    "model_attributes_type": "is not an object",
    "greater_than": "is not over {gt}",
    "greater_than_equal": "is less than {ge}",
    "less_than_equal": "is more than {le}",
    "less_than": "is not under {lt}",
    "multiple_of": "is not a multiple of {multiple_of}",
    "finite_number": "is not a finite number",
    "literal_error": "is not {expected}",
    "json_invalid": "is not JSON",
    "too_short": "has fewer than {min_length}",
    "too_long": "has more than {max_length}",
    "string_too_long": "is longer than {max_length} characters",
    "extra_forbidden": "is not known",
}


def describe_error(error: Mapping[str, Any]) -> str:
    """The predicate of a sentence about the invalid value; `error` is one of pydantic.ValidationError.errors()."""
    if error["type"] == "value_error":  # the sentence of a check of our own
        return f"is not valid: {error['ctx']['error']}"
    return _WORDS.get(error["type"], "is invalid").format_map(error.get("ctx", {}))


def error_location(error: Mapping[str, Any], whole: str) -> str:
    """The path of the invalid value in the JSON, such as inputs.0.shape; `whole` if that is all of it."""
    return ".".join(map(str, error["loc"]))[:100] or whole
