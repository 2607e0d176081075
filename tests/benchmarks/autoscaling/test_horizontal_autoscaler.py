from typing import Any

from benchmarks.autoscaling.horizontal_autoscaler import HorizontalAutoscaler, ScalingPolicy


def autoscaler(**changed: Any) -> HorizontalAutoscaler:
    values: dict[str, Any] = {
        "least": 1,
        "most": 20,
        "targets": {"waiting": 10.0},
        "stabilization": 300.0,
        "up": (ScalingPolicy(percent=True, value=100, seconds=30), ScalingPolicy(percent=False, value=2, seconds=30)),
        "down": (ScalingPolicy(percent=True, value=50, seconds=60),),
    }
    return HorizontalAutoscaler(**(values | changed))


def test_replicas_are_the_metric_divided_by_its_target_rounded_up() -> None:
    assert autoscaler().decide(0, 4, {"waiting": 61}) == 7
    assert autoscaler().decide(0, 4, {"waiting": 43}) == 4  # within a tenth of the target


def test_of_several_metrics_the_one_that_wants_the_most_counts() -> None:
    scaler = autoscaler(targets={"waiting": 10.0, "busy": 0.7})
    assert scaler.decide(0, 4, {"waiting": 0, "busy": 3.8}) == 6


def test_a_step_up_is_bounded_by_the_policy_that_allows_the_most_within_its_time() -> None:
    scaler = autoscaler()
    assert scaler.decide(0, 1, {"waiting": 500}) == 3  # two more
    assert scaler.decide(15, 3, {"waiting": 500}) == 3  # of one in the last 30 s two were added already
    assert scaler.decide(31, 3, {"waiting": 500}) == 6
    assert scaler.decide(62, 6, {"waiting": 500}) == 12
    assert scaler.decide(93, 12, {"waiting": 500}) == 20  # the most


def test_what_was_wanted_within_the_window_is_kept_and_then_half_goes_in_a_minute() -> None:
    scaler = autoscaler()
    scaler.decide(0, 8, {"waiting": 80})
    assert scaler.decide(299, 8, {"waiting": 0}) == 8
    assert scaler.decide(301, 8, {"waiting": 0}) == 4
    assert scaler.decide(316, 4, {"waiting": 0}) == 4
    assert scaler.decide(362, 4, {"waiting": 0}) == 2
