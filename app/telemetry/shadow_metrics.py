"""Counts what a shadow says of the images that other models have answered."""

from typing import Literal

from prometheus_client import Counter, Histogram

from app.telemetry.metrics import STAGE_BUCKETS, Metrics

ShadowOutcome = Literal["answered", "dropped", "failed"]

_OUTCOMES: tuple[ShadowOutcome, ...] = ("answered", "dropped", "failed")
_DIFFERENCE_BUCKETS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1)


class ShadowMetrics:
    """Of one shadow, by the model that answered."""

    def __init__(self, metrics: Metrics, shadow: str) -> None:
        labels = ("model", "shadow")
        registry = metrics.counters
        self._shadow = shadow
        self._images = Counter(
            "crossvit_shadow_images",
            "Images that were sampled for the shadow",
            [*labels, "outcome"],
            registry=registry,
        )
        self._agreements = Counter(
            "crossvit_shadow_agreements",
            "Images for which the shadow has the best class of the model that answered",
            labels,
            registry=registry,
        )
        self._differences = Histogram(
            "crossvit_shadow_score_difference",
            "How far apart the two scores of the best class of the model that answered are",
            labels,
            buckets=_DIFFERENCE_BUCKETS,
            registry=registry,
        )

        self._seconds = Histogram(
            "crossvit_shadow_inference_seconds",
            "The engine call that answered a copy",
            ["shadow"],
            buckets=STAGE_BUCKETS,
            registry=registry,
        )

    def count(self, model: str, outcome: ShadowOutcome, images: int) -> None:
        """Count so many copies of images of `model`."""
        for name in _OUTCOMES:  # all are shown as 0 from the first on
            self._images.labels(model, self._shadow, name).inc(images if name == outcome else 0)

    def compare(self, model: str, *, agrees: bool, difference: float, seconds: float) -> None:
        """Count the shadow's answer to an image of `model`.

        `difference` is that of the scores, 0 to 1; the engine call of the copy took `seconds`.
        """
        self._seconds.labels(self._shadow).observe(seconds)
        self._agreements.labels(model, self._shadow).inc(agrees)
        self._differences.labels(model, self._shadow).observe(difference)
