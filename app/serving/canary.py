"""A canary: a second bundle of a model's name, which answers a share of the requests for that name.

It is loaded, reloaded and closed beside the other models, in a repository of its own. While it is not ready, all
requests go to the stable bundle.
"""

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from prometheus_client import Counter

from app.errors import BadParameter
from app.serving.answer_taps import RequestSample
from app.serving.repository import Repository, RepositoryEntry
from app.serving.served_model import ServedModel
from app.telemetry.metrics import Metrics
from bundle.bundle_errors import ExplainedError
from bundle.reader import Bundle

CANARY_HEADER = "X-Canary"  # always or never, as ingress-nginx has it; anything else is left to chance
REVISION_HEADER = "X-Model-Revision"
STABLE, CANARY = "stable", "canary"


class Canary:
    """Chooses the bundle for a request.

    Attributes:
        name: of the model.
        repository: of the canary's bundle.

    Args:
        name: of the model.
        path: of the canary's bundle; BadBundle if there is none.
        make: a model of a bundle. The canary's is called NAME@canary, so that metrics, logs and errors tell it apart.
        sample: the requests that the canary answers.
        on_choice: is told the revision of each request for the model.
    """

    def __init__(
        self,
        name: str,
        path: Path,
        make: Callable[[Bundle], ServedModel],
        sample: RequestSample,
        on_choice: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.name = name
        self.repository = Repository([path], None, make, name=f"{name}@{CANARY}")
        self._sample = sample
        self._on_choice = on_choice

    @property
    def entry(self) -> RepositoryEntry:
        """The canary's, by the name that metrics and logs have."""
        return next(entry for entry in self.repository.entries if entry.name == self.repository.default)

    @property
    def model(self) -> ServedModel | None:
        """The canary, if it is ready."""
        with suppress(ExplainedError):
            model = self.repository.model()
            return model if model.fault is None else None
        return None

    def revision(self, header: str) -> str:
        """Which bundle answers a request whose CANARY_HEADER is `header`."""
        forced = {"always": True, "never": False}.get(header.strip().lower())
        wanted = self._sample.drawn() if forced is None else forced
        revision = CANARY if wanted and self.model is not None else STABLE
        self._on_choice(revision)
        return revision


def make_canary(
    setting: str, percent: float, repository: Repository, make: Callable[[Bundle], ServedModel], metrics: Metrics
) -> Canary:
    """The canary of NAME=PATH, beside `repository`.

    Raises BadParameter unless NAME is a model there, and BadBundle if there is no bundle at PATH.
    """
    name, equals, path = setting.partition("=")
    if not (name and equals and path):
        raise BadParameter(f"--canary {setting}: it must be NAME=PATH, the name of a served model and a bundle")
    names = [entry.name for entry in repository.entries]
    if name not in names:
        raise BadParameter(f"--canary {setting}: there is no model {name!r}; the models are {', '.join(names)}")
    if not Path(path).is_dir():
        source = "SOURCE" if Path(path).is_absolute() else path
        raise BadParameter(
            f"--canary {setting}: there is no bundle at {path}, and PATH must be one: make it with: "
            f"crossvit pull {source} --out FOLDER, and set --canary {name}=FOLDER"
        )
    requests = Counter(
        "crossvit_canary_requests",
        "Requests for a model that has a canary, by the bundle that they went to",
        ["model", "revision"],
        registry=metrics.counters,
    )
    for revision in (STABLE, CANARY):
        requests.labels(name, revision)
    canary = Canary(
        name, Path(path), make, RequestSample(percent), lambda revision: requests.labels(name, revision).inc()
    )
    repository.beside = canary.repository
    return canary
