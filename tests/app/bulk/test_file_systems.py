"""Addresses that cannot be read are problems of their images."""

from pathlib import Path

import pytest

from app.bulk.file_systems import read_image
from app.errors import NoImage


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("a\0.jpg", "the address has a NUL character"),
        ("https://host/a\0.jpg", "the address has a NUL character"),
        ("nosuch://bucket/a.jpg", "nosuch://bucket/a.jpg cannot be opened"),
        ("s3://", "s3:// names no file"),
        ("gone.jpg", "No such file or directory"),
        ("x" * 300, "File name too long"),
    ],
)
def test_an_address_that_cannot_be_is_a_problem_of_its_image(tmp_path: Path, address: str, message: str) -> None:
    with pytest.raises(NoImage, match=message):
        read_image(address, str(tmp_path), 1000)
