"""Reports of instances added up."""

from prometheus_client import exposition

from app.instances.instance_report import SummedMetrics, read_totals, report_of
from app.instances.report_sums import growing, sum_reports
from app.telemetry.metrics import Metrics, ModelState
from app.timing import Interval


def counted(images: int, *, ready: bool, queue: int) -> Metrics:
    """The metrics of an instance that has answered so many images."""
    metrics = Metrics(lambda: [ModelState("a", ready, queue, {"engine": "openvino"}, {"tensorrt"})])
    model = metrics.model("a")
    for number in range(images):
        metrics.requests.labels("/classify", "POST", "200").inc()
        model.batch(1, Interval(0, 0.02))
        model.answered(0.5, Interval(0, 0.25), Interval(number, number + 2))
    return metrics


def lines(*metrics: Metrics, ended: tuple[Metrics, ...] = ()) -> dict[str, float]:
    """What Prometheus reads of these instances, and of others that have ended."""
    reports = [report_of(one, counters_only=False) for one in metrics]
    reports += [growing(report_of(one, counters_only=True)) for one in ended]
    text = exposition.generate_latest(SummedMetrics(sum_reports(reports, 2))).decode()
    pairs = (line.rpartition(" ") for line in text.splitlines() if not line.startswith("#"))
    return {name: float(value) for name, _, value in pairs}


def test_counters_histograms_and_queues_add_up_and_what_is_served_is_shown_once() -> None:
    found = lines(counted(3, ready=True, queue=2), counted(4, ready=False, queue=5))
    assert found['crossvit_requests_total{method="POST",route="/classify",status="200"}'] == 7
    assert found['crossvit_decode_seconds_count{model="a"}'] == 7
    assert found['crossvit_decode_seconds_bucket{le="0.25",model="a"}'] == 7
    assert found['crossvit_decode_seconds_bucket{le="0.1",model="a"}'] == 0
    assert found['crossvit_queue_images{model="a"}'] == 7
    assert found['crossvit_model_info{engine="openvino",model="a"}'] == 1
    assert found['crossvit_engine_refused{engine="tensorrt",model="a"}'] == 1


def test_a_model_is_ready_while_half_of_the_instances_have_it_ready() -> None:
    one, other = counted(0, ready=True, queue=0), counted(0, ready=False, queue=0)
    assert lines(one, other)['crossvit_model_ready{model="a"}'] == 1
    assert lines(other, other)['crossvit_model_ready{model="a"}'] == 0


def test_what_an_ended_instance_counted_stays_and_what_it_held_does_not() -> None:
    alive = counted(1, ready=True, queue=1)
    found = lines(alive, ended=(counted(5, ready=True, queue=3),))
    assert found['crossvit_batch_images_count{model="a"}'] == 6
    assert found['crossvit_queue_images{model="a"}'] == 1
    assert found["process_open_fds"] == lines(alive)["process_open_fds"]


def test_the_totals_of_statistics_add_up() -> None:
    reports = [report_of(counted(images, ready=True, queue=0), counters_only=True) for images in (2, 3)]
    totals = read_totals(sum_reports(reports, 2))["a"]
    assert (totals.answered.count, totals.queue.count, totals.queue.seconds) == (5, 5, 2.5)
    assert {size: total.count for size, total in totals.batches.items()} == {1: 5}
    assert totals.last == max(report["totals"]["a"]["last"] for report in reports)
