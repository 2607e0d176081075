from app.serving.brown_out import BrownOut
from tests.support.clock import Clock


def test_a_rung_is_reached_at_once_and_left_after_a_while_below_half_of_it() -> None:
    clock = Clock()
    brown_out = BrownOut([1, 3], clock)
    seen = []
    for seconds, waited in [(0.9, 0), (1.0, 0), (0.6, 5), (0.4, 1), (0.4, 0.9), (0.4, 0.2), (3.5, 0), (0.0, 1.9)]:
        clock.now += waited
        seen.append(brown_out.at("tiny", seconds))
    assert seen == [0, 1, 1, 1, 1, 0, 2, 2]
    clock.now += 0.2
    assert brown_out.at("tiny", 0.0) == 1
    clock.now += 1.9
    assert brown_out.at("tiny", 0.0) == 1
    clock.now += 0.2
    assert brown_out.at("tiny", 0.0) == 0


def test_a_wait_between_the_thresholds_keeps_the_rung() -> None:
    clock = Clock()
    brown_out = BrownOut([1, 3], clock)
    assert brown_out.at("tiny", 4) == 2
    for _ in range(10):
        clock.now += 1
        assert brown_out.at("tiny", 1.6) == 2
    clock.now += 2.1
    assert brown_out.at("tiny", 1.4) == 1
    for _ in range(10):
        clock.now += 1
        assert brown_out.at("tiny", 1.4) == 1


def test_models_have_rungs_of_their_own() -> None:
    brown_out = BrownOut([1], Clock())
    assert (brown_out.at("one", 5), brown_out.at("other", 0)) == (1, 0)
    assert dict(brown_out.rungs) == {"one": 1, "other": 0}
