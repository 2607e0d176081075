import pytest

from app.pulling.pull_options import replaced_options, same_options, without_option

KEPT = ["--labels", "/a.txt", "--mean", "0.5", "0.5", "0.5", "--resolutions", "224", "--resolutions", "384"]


@pytest.mark.parametrize(
    ("others", "expected"),
    [
        ([], KEPT),
        (["--labels", "/b.txt"], [*KEPT[2:], "--labels", "/b.txt"]),
        (["--resolutions", "480"], [*KEPT[:6], "--resolutions", "480"]),
        (["--activation", "sigmoid"], [*KEPT, "--activation", "sigmoid"]),
    ],
)
def test_an_option_takes_the_place_of_those_of_its_name_and_others_stay(others: list[str], expected: list[str]) -> None:
    assert replaced_options(KEPT, others) == expected


def test_an_option_is_left_out_with_all_its_values() -> None:
    assert without_option(KEPT, "--mean") == [*KEPT[:2], *KEPT[6:]]
    assert without_option(KEPT, "--resolutions") == KEPT[:6]


def test_the_order_of_options_says_nothing_and_their_values_do() -> None:
    assert same_options(KEPT, [*KEPT[2:], *KEPT[:2]])
    assert not same_options(KEPT, [*KEPT[:-1], "480"])
    assert not same_options(KEPT, KEPT[2:])
