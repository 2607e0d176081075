import pytest

from benchmarks.scaling_model import capacity, scaling_model


@pytest.mark.parametrize(
    ("cores", "instances", "rate", "limit"),
    [(2, 1, 500, "the cores"), (16, 1, 1000, "the front ends"), (16, 16, 4000, "the cores"), (4, 1, 1000, "the ")],
)
def test_what_fits_is_limited_by_the_cores_or_by_the_front_ends(
    cores: int, instances: int, rate: int, limit: str
) -> None:
    found = capacity(cores, instances, front_end=1.0, decoder=2.5, engine=0.5)
    assert found["requests/s"] == rate
    assert str(found["limited by"]).startswith(limit)


def test_the_table_says_that_it_is_a_model_and_has_no_more_instances_than_cores(
    capsys: pytest.CaptureFixture[str],
) -> None:
    scaling_model(0.9, 3.1, 0.1, cores="2,4", instances="1,2,4")
    printed = capsys.readouterr().out
    assert "A model" in printed
    assert len([line for line in printed.splitlines() if line.startswith("|")]) == 2 + 2 + 3
