"""Counts what Prometheus and Triton's statistics show."""

import time
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    disable_created_metrics,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from app.telemetry.logs import DroppingHandler
from app.timing import Interval

# They double the lines, for what a counter's reset shows as well.
disable_created_metrics()  # type: ignore[no-untyped-call]

_REQUEST_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
STAGE_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_BATCH_BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128)
# These labels are shown as 0 from the start: a series that appears as 1 does not count as a rise.
_DECODER_RESTART_REASONS = ("ended", "hung", "died", "failed")
_ENGINE_RESTART_REASONS = ("ended", "hung", "died", "failed", "wrong")


@dataclass(frozen=True)
class ModelState:
    """A model's values for the gauges.

    Attributes:
        name: the model's name.
        ready: whether it serves.
        queue: number of waiting images.
        info: labels of crossvit_model_info.
        refused: engines that could be expected to serve and cannot.
        inspections: number of images that wait to be explained or embedded.
    """

    name: str
    ready: bool
    queue: int
    info: dict[str, str]
    refused: Collection[str] = ()
    inspections: int = 0


@dataclass
class Total:
    """A number of events and their total seconds."""

    count: int = 0
    seconds: float = 0.0

    def add(self, seconds: float) -> None:
        self.count += 1
        self.seconds += seconds


@dataclass
class Totals:
    """Totals since the model was first loaded; `batches` has the engine calls by batch size."""

    answered: Total = field(default_factory=Total)
    failed: Total = field(default_factory=Total)
    queue: Total = field(default_factory=Total)
    decode: Total = field(default_factory=Total)
    inference: Total = field(default_factory=Total)
    batches: dict[int, Total] = field(default_factory=dict)
    last: float = 0.0  # Unix time of the last engine call


class Metrics:
    """The service's metrics; `states` is called for the models' values at each scrape.

    Attributes:
        registry: all of them.
        counters: those that only grow, which are kept when this process ends and others go on; and what it has of
            Python and the process.
    """

    def __init__(self, states: Callable[[], Iterable[ModelState]]) -> None:
        self.counters = CollectorRegistry()
        for collector in (ProcessCollector, PlatformCollector, GCCollector):
            collector(registry=self.counters)
        self.counters.register(_DroppedLines())
        self.registry = CollectorRegistry()
        self.registry.register(self.counters)
        self.registry.register(_Gauges(states))
        self.requests = self._counter("requests", "Answered requests", "route", "method", "status")
        self.request_seconds = self._histogram("request_seconds", "From headers to answer", _REQUEST_BUCKETS, "route")
        self.rejected = self._counter("rejected", "Requests that were refused, by error", "reason")
        self.queue_seconds = self._histogram(
            "queue_seconds", "An image's wait, for a decoder and for the engine", STAGE_BUCKETS, "model"
        )
        self.decode_seconds = self._histogram(
            "decode_seconds", "Decoding and resizing an image", STAGE_BUCKETS, "model"
        )
        self.inference_seconds = self._histogram("inference_seconds", "Engine calls", STAGE_BUCKETS, "model")
        self.batch_images = self._histogram("batch_images", "Images in an engine call", _BATCH_BUCKETS, "model")
        self.cascade_answers = self._counter(
            "cascade_answers", "Images that a step of a cascade answered, by the model that did", "model", "step"
        )
        self.brown_out_answers = self._counter(
            "brown_out_answers", "Images that a cheaper step answered because of the load", "model", "rung"
        )
        self.decoder_restarts = self._counter("decoder_restarts", "Decoders that had to be replaced", "reason")
        for reason in _DECODER_RESTART_REASONS:
            self.decoder_restarts.labels(reason)
        self.engine_restarts = self._counter(
            "engine_restarts", "Engines that had to be started again", "model", "reason"
        )
        self.inspections = self._counter("inspections", "Images explained or embedded", "model", "kind")
        self.inspection_seconds = self._histogram(
            "inspection_seconds", "Calls of the inspection graph", STAGE_BUCKETS, "model"
        )
        self.inspection_restarts = self._counter(
            "inspection_restarts", "Inspection processes that were lost", "model", "reason"
        )
        self._models: dict[str, ModelMetrics] = {}

    def model(self, name: str) -> "ModelMetrics":
        """The metrics of the model `name`; they are kept when it is reloaded."""
        return self._models.setdefault(name, ModelMetrics(self, name))

    @property
    def totals(self) -> dict[str, Totals]:
        """The totals of each model that has been loaded."""
        return {name: model.totals for name, model in self._models.items()}

    def show_key_files(self, ok: Mapping[str, Callable[[], bool]]) -> None:
        """Show at each scrape whether each file of keys is in order; `ok` has a check for each kind of keys."""
        text = "1 if the keys are what their file says"
        gauge = Gauge("crossvit_keys_file_ok", text, ["keys"], registry=self.registry)
        for kind, is_ok in ok.items():
            gauge.labels(kind).set_function(is_ok)

    def show_decoders(self, count: int) -> None:
        """Show how many decoders there are, by which the seconds of decoding are a share of their time."""
        Gauge("crossvit_decoders", "Processes that decode images", registry=self.registry).set(count)

    def show_brown_out(self, rungs: Callable[[], Iterable[tuple[str, int]]]) -> None:
        """Show at each scrape what `rungs` gives: the rung of each cascade, by its first model."""
        self.registry.register(_Rungs(rungs))

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"crossvit_{name}", text, labels, registry=self.counters)

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
        return Histogram(f"crossvit_{name}", text, labels, buckets=buckets, registry=self.counters)


class ModelMetrics:
    """Counts the images and engine calls of one model."""

    def __init__(self, metrics: Metrics, name: str) -> None:
        self.totals = Totals()
        self._queue = metrics.queue_seconds.labels(name)
        self._decode = metrics.decode_seconds.labels(name)
        self._inference = metrics.inference_seconds.labels(name)
        self._batch = metrics.batch_images.labels(name)
        self._restarts = metrics.engine_restarts
        self._name = name
        self.inspection = InspectionMetrics(metrics, name)
        for reason in _ENGINE_RESTART_REASONS:
            self._restarts.labels(name, reason)

    def answered(self, queued: float, decode: Interval, inference: Interval) -> None:
        """Count an image that was answered after `queued` seconds of waiting."""
        self.totals.queue.add(queued)
        self.totals.decode.add(decode.seconds)
        self.totals.inference.add(inference.seconds)
        self.totals.answered.add(queued + decode.seconds + inference.seconds)
        self._queue.observe(queued)
        self._decode.observe(decode.seconds)

    def failed(self, seconds: float) -> None:
        """Count an image that failed after `seconds`."""
        self.totals.failed.add(seconds)

    def batch(self, size: int, interval: Interval) -> None:
        """Count an engine call of `size` images."""
        self.totals.batches.setdefault(size, Total()).add(interval.seconds)
        self.totals.last = time.time()
        self._inference.observe(interval.seconds)
        self._batch.observe(size)

    def engine_restarted(self, reason: str) -> None:
        self._restarts.labels(self._name, reason).inc()


class InspectionMetrics:
    """Counts the explanations and embeddings of one model."""

    def __init__(self, metrics: Metrics, name: str) -> None:
        self._explanations = metrics.inspections.labels(name, "explanation")
        self._embeddings = metrics.inspections.labels(name, "embedding")
        self._seconds = metrics.inspection_seconds.labels(name)
        self._restarts = metrics.inspection_restarts
        self._name = name
        for reason in _ENGINE_RESTART_REASONS:
            self._restarts.labels(name, reason)

    def answered(self, *, explained: bool) -> None:
        """Count an image."""
        (self._explanations if explained else self._embeddings).inc()

    def call(self, interval: Interval) -> None:
        """Count a call of the graph."""
        self._seconds.observe(interval.seconds)

    def restarted(self, reason: str) -> None:
        self._restarts.labels(self._name, reason).inc()


class _Gauges(Collector):
    def __init__(self, states: Callable[[], Iterable[ModelState]]) -> None:
        self._states = states

    def collect(self) -> Iterable[Metric]:
        queue = GaugeMetricFamily("crossvit_queue_images", "Images that wait", labels=["model"])
        inspections = GaugeMetricFamily(
            "crossvit_inspections_waiting", "Images that wait to be explained or embedded", labels=["model"]
        )
        ready = GaugeMetricFamily("crossvit_model_ready", "1 if the model serves", labels=["model"])
        states = list(self._states())
        names = sorted({name for state in states for name in state.info})
        info = GaugeMetricFamily("crossvit_model_info", "What is served", labels=["model", *names])
        refused = GaugeMetricFamily(
            "crossvit_engine_refused",
            "1 if the engine, or jpeg-gpu, could be expected to serve and cannot",
            labels=["model", "engine"],
        )
        for state in states:
            queue.add_metric([state.name], state.queue)
            inspections.add_metric([state.name], state.inspections)
            ready.add_metric([state.name], float(state.ready))
            if state.info:
                info.add_metric([state.name, *(state.info[name] for name in names)], 1)
            for engine in sorted(state.refused):
                refused.add_metric([state.name, engine], 1)
        return [queue, inspections, ready, info, refused]


class _Rungs(Collector):
    def __init__(self, rungs: Callable[[], Iterable[tuple[str, int]]]) -> None:
        self._rungs = rungs

    def collect(self) -> Iterable[Metric]:
        gauge = GaugeMetricFamily(
            "crossvit_brown_out_rung", "0 while all is answered as it was asked for", labels=["model"]
        )
        for name, rung in self._rungs():
            gauge.add_metric([name], rung)
        return [gauge]


class _DroppedLines(Collector):
    def collect(self) -> Iterable[Metric]:
        dropped = CounterMetricFamily("crossvit_log_lines_dropped", "Lines that standard error did not take in time")
        dropped.add_metric([], DroppingHandler.dropped)
        return [dropped]
