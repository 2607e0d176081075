import pytest

from app.configuration.quantities import seconds, size, whole


@pytest.mark.parametrize(
    ("text", "number"), [("10", 10), ("10_000_000", 10**7), ("1e7", 10**7), ("1.5e3", 1500), ("8.0", 8), ("+3", 3)]
)
def test_whole_numbers(text: str, number: int) -> None:
    assert whole(text) == number


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("10MB", 10**7),
        ("10 mb", 10**7),
        ("256Mi", 256 << 20),
        ("256MiB", 256 << 20),
        ("1.5GiB", 3 << 29),
        ("1k", 1000),
        ("64K", 64000),
        ("2G", 2 * 10**9),
        ("512B", 512),
        ("1e7", 10**7),
    ],
)
def test_sizes_are_of_1000_or_with_an_i_of_1024(text: str, number: int) -> None:
    assert size(text) == number


@pytest.mark.parametrize(
    ("text", "number"), [("30s", 30), ("500ms", 0.5), ("5m", 300), ("5 min", 300), ("1h30m", 5400), ("1.5h", 5400)]
)
def test_times(text: str, number: float) -> None:
    assert seconds(text) == number


@pytest.mark.parametrize("text", ["", "x", "1.5", "-1", "1e", "0x10", "1,000", "inf"])
def test_an_invalid_whole_number_is_returned_unchanged(text: str) -> None:
    assert whole(text) == text
    assert size(text) == text


@pytest.mark.parametrize("text", ["256m", "1g", "1.5k2", "10 Megabytes", "MB", "1.00001k"])
def test_an_invalid_size_is_returned_unchanged(text: str) -> None:
    assert size(text) == text


@pytest.mark.parametrize("text", ["", "30x", "s", "1h x", "-3s", "1:30", "30"])
def test_an_invalid_time_is_returned_unchanged(text: str) -> None:
    assert seconds(text) == text
