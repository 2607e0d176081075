"""pydantic's errors are told in the project's own words."""

from typing import Annotated, Literal

import pytest
from pydantic import BaseModel, Field, ValidationError, field_validator

from model.pydantic_errors import describe_error, error_location


class Vase(BaseModel):
    """With one field for each kind of error."""

    flowers: Annotated[int, Field(ge=1, multiple_of=2)] = 2
    colour: Literal["red", "blue"] = "red"
    name: str = "x"

    @field_validator("name")
    @classmethod
    def _has_no_blanks(cls, name: str) -> str:
        if " " in name:
            raise ValueError("a name has no blanks")
        return name


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"flowers": "x"}, "flowers is not a whole number"),
        ({"flowers": 0}, "flowers is less than 1"),
        ({"flowers": 3}, "flowers is not a multiple of 2"),
        ({"colour": "green"}, "colour is not 'red' or 'blue'"),
        ({"name": "a b"}, "name is not valid: a name has no blanks"),
    ],
)
def test_an_error_is_the_rest_of_a_sentence(values: dict[str, object], expected: str) -> None:
    with pytest.raises(ValidationError) as caught:
        Vase.model_validate(values)
    (error,) = caught.value.errors()
    assert f"{error_location(error, 'all')} {describe_error(error)}" == expected
