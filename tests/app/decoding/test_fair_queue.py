"""Turns of several callers, on a clock of their own: nothing here waits."""

from app.decoding.fair_queue import BACKGROUND_CALLER, FairQueue, Turn


def served(queue: FairQueue[str], seconds: dict[str, float], turns: int) -> list[str]:
    """The items of so many turns, one after the other, each taking what its caller's items take."""
    found = []
    for _ in range(turns):
        turn = queue.take()
        assert turn is not None
        queue.over(turn, seconds[turn.caller])
        found.append(turn.item)
    return found


def filled(**counts: int) -> FairQueue[str]:
    queue = FairQueue[str]()
    for caller, count in counts.items():
        for number in range(count):
            queue.put(caller, f"{caller}{number}")
    return queue


def test_items_of_one_caller_have_their_turns_in_order() -> None:
    queue = filled(a=5)
    assert served(queue, {"a": 1}, 5) == ["a0", "a1", "a2", "a3", "a4"]
    assert queue.take() is None


def test_callers_whose_items_take_as_long_take_turns() -> None:
    found = served(filled(a=10, b=3), {"a": 1, "b": 1}, 13)
    assert sorted(found[:6]) == ["a0", "a1", "a2", "b0", "b1", "b2"]
    assert found[6:] == [f"a{number}" for number in range(3, 10)]


def test_time_is_what_is_shared_and_not_the_number_of_items() -> None:
    found = served(filled(slow=10, quick=1000), {"slow": 1.0, "quick": 0.01}, 404)
    assert 3 <= sum(item.startswith("slow") for item in found) <= 5


def test_one_that_comes_later_waits_for_what_runs_and_no_more() -> None:
    queue = filled(slow=30)
    served(queue, {"slow": 1}, 10)
    queue.put("new", "new0")
    assert served(queue, {"slow": 1, "new": 0.01}, 1) == ["new0"]


def test_one_that_was_away_has_saved_nothing_up() -> None:
    queue = filled(a=50, b=1)
    served(queue, {"a": 1, "b": 1}, 21)
    for number in range(20):
        queue.put("b", f"b{number}")
    found = served(queue, {"a": 1, "b": 1}, 10)
    assert 4 <= sum(item.startswith("b") for item in found) <= 6


def test_one_that_sends_singly_pays_for_what_it_has_had() -> None:
    queue = filled(a=40)
    found = []
    for number in range(20):  # never more than one of them waits
        queue.put("slow", f"slow{number}")
        while True:
            (item,) = served(queue, {"a": 0.1, "slow": 1.0}, 1)
            found.append(item)
            if item.startswith("slow") or len(found) == 30:
                break
        if len(found) == 30:
            break
    assert sum(item.startswith("slow") for item in found) <= 4


def test_callers_that_come_once_each_do_not_starve_one_that_waits() -> None:
    queue = filled(a=3)
    served(queue, {"a": 1}, 1)
    for number in range(200):
        queue.put(f"once{number}", "")
        turn = queue.take()
        assert turn is not None
        queue.over(turn, 1)
        if turn.caller == "a":
            return
    raise AssertionError("a had no turn")


def test_several_turns_at_once_are_spread_before_anything_is_known_of_their_time() -> None:
    queue = filled(a=4, b=4)
    turns = [queue.take() for _ in range(4)]
    assert sorted(turn.caller for turn in turns if turn) == ["a", "a", "b", "b"]


def test_what_is_given_back_has_the_next_turn_and_costs_nothing() -> None:
    queue = filled(a=2)
    turn = queue.take()
    assert isinstance(turn, Turn)
    queue.give_back(turn)
    assert served(queue, {"a": 1}, 2) == ["a0", "a1"]


def test_what_is_dropped_or_discarded_or_cleared_is_gone() -> None:
    queue = filled(a=4)
    turn = queue.take()
    assert turn is not None
    queue.drop(turn)
    queue.discard("a", "a1")
    queue.discard("a", "never there")
    queue.discard("nobody", "a2")
    assert queue.clear() == ["a2", "a3"]
    assert queue.take() is None


def test_callers_that_have_gone_are_forgotten() -> None:
    queue = filled(**{f"c{number}": 1 for number in range(1000)})
    served(queue, {f"c{number}": 0.1 for number in range(1000)}, 1000)
    assert not queue._callers


def test_how_long_all_will_take_follows_from_what_each_callers_items_took() -> None:
    queue = filled(slow=11, quick=11)
    served(queue, {"slow": 1.0, "quick": 0.01}, 2)
    assert 9.9 < queue.seconds() < 10.3


def test_an_item_that_takes_longer_than_any_before_says_so_of_those_behind_it() -> None:
    queue = filled(a=5)
    turn = queue.take()
    assert turn is not None
    turn.started -= 2.0
    assert 7.9 < queue.seconds() < 8.5


def test_a_turn_that_was_not_used_costs_nothing() -> None:
    queue = filled(a=1, b=1)
    served(queue, {"a": 1, "b": 1}, 2)
    for item in ("unused", "unused", "unused", "a1", "a2"):
        queue.put("a", item)
    for item in ("b1", "b2", "b3"):
        queue.put("b", item)
    found: list[str] = []
    while len(found) < 2:
        turn = queue.take()
        assert turn is not None
        if turn.item == "unused":
            queue.drop(turn)
        else:
            queue.over(turn, 1)
            found.append(turn.item)
    assert sorted(found) == ["a1", "b1"]


def test_the_background_has_its_turns_while_nobody_else_waits_and_is_in_no_expected_time() -> None:
    queue = filled(**{BACKGROUND_CALLER: 2}, a=2)
    assert served(queue, {BACKGROUND_CALLER: 100.0, "a": 1.0}, 3) == ["a0", "a1", f"{BACKGROUND_CALLER}0"]
    queue.put("b", "b0")
    assert queue.seconds() == 1.0  # what those of a took, as nothing is known of b
    assert served(queue, {BACKGROUND_CALLER: 100.0, "b": 1.0}, 2) == ["b0", f"{BACKGROUND_CALLER}1"]
