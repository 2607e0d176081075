"""What concerns all instances of the service: readiness, changes of the models, rate limits, metrics."""

from collections.abc import Callable, Iterable, Mapping
from typing import Protocol

from prometheus_client import Metric

from app.api.rate_limit import RateLimit
from app.errors import NotReady
from app.serving.repository import Repository
from app.telemetry.metrics import Metrics, Totals
from bundle.bundle_errors import ExplainedError


class MetricFamilies(Protocol):
    """What prometheus_client can write as text."""

    def collect(self) -> Iterable[Metric]: ...


class InstanceGroup(Protocol):
    """All instances of the service, seen from one of them.

    Everything raises NotReady if the parent of the instances does not answer.
    """

    async def check_ready(self, name: str | None = None, deep: bool = False) -> None:
        """Raise NotReady, UnknownModel or WrongAnswers unless enough instances have the model ready.

        `name` is that of a model, None for the default one; `deep` sends the golden images through the engines first.
        """
        ...

    async def instances(self) -> tuple[int, int]:
        """How many instances there are, and in how many of them the default model is ready."""
        ...

    async def reload(self) -> list[str]:
        """As Repository.reload, in all instances."""
        ...

    async def load(self, name: str) -> None:
        """As Repository.load, in all instances."""
        ...

    async def unload(self, name: str) -> None:
        """As Repository.unload, in all instances."""
        ...

    async def take(self, name: str, images: int, paid: int) -> None:
        """Count the images of a key as RateLimit.take does, whichever instances its requests come to."""
        ...

    async def metrics(self) -> MetricFamilies:
        """The metrics of all instances together."""
        ...

    async def totals(self) -> Mapping[str, Totals]:
        """The totals of all instances together, by the models' names."""
        ...


class LocalInstance:
    """This process as an instance, which is the whole service if there is only one.

    Args:
        repository: the served models.
        metrics: of this process.
        limit: the rate limit of keys, None for none.
        stopping: whether the service ends.
    """

    def __init__(
        self, repository: Repository, metrics: Metrics, limit: RateLimit | None, stopping: Callable[[], bool]
    ) -> None:
        self._stopping = stopping
        self._repository = repository
        self._metrics = metrics
        self._limit = limit

    async def check_ready(self, name: str | None = None, deep: bool = False) -> None:
        if self._stopping():
            raise NotReady("the service is stopping")
        model = self._repository.model(name)
        if model.fault is not None:
            raise NotReady(f"{model.bundle.name}: {model.fault}", retry_after=1)
        if deep:
            with model.in_use():
                await model.self_test()

    async def instances(self) -> tuple[int, int]:
        try:
            await self.check_ready()
        except ExplainedError:
            return 1, 0
        return 1, 1

    async def reload(self) -> list[str]:
        return await self._repository.reload()

    async def load(self, name: str) -> None:
        await self._repository.load(name)

    async def unload(self, name: str) -> None:
        await self._repository.unload(name)

    async def take(self, name: str, images: int, paid: int) -> None:
        if self._limit is not None:
            self._limit.take(name, images, paid=paid)

    async def metrics(self) -> MetricFamilies:
        return self._metrics.registry

    async def totals(self) -> Mapping[str, Totals]:
        return self._metrics.totals
