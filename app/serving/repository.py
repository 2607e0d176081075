"""The models that are served: found, loaded, replaced and unloaded while others go on."""

import asyncio
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path

from app.errors import LoadFailed, NotReady, UnknownModel
from app.serving.cascade import Cascade, served_cascade
from app.serving.served_model import ServedModel
from bundle.bundle_errors import BadBundle, ExplainedError
from bundle.calibration import Calibration
from bundle.discovery import FoundBundles, find_bundles
from bundle.reader import Bundle, open_bundle

log = logging.getLogger(__name__)


@dataclass
class RepositoryEntry:
    """A model by its name.

    Attributes:
        name: of the bundle's folder.
        model: that serves, if one does.
        reason: why there is no model, or why the bundle on disk could not replace it.
    """

    name: str
    model: ServedModel | None = None
    reason: str = ""

    @property
    def state(self) -> str:
        """READY, LOADING or UNAVAILABLE, as Triton has it."""
        if self.model is not None and self.model.fault is None:
            return "READY"
        return "LOADING" if self.reason == LOADING else "UNAVAILABLE"

    @property
    def fault(self) -> str:
        """Why it is not ready, or why the bundle on disk could not replace it; empty if neither is so."""
        return (self.model and self.model.fault) or self.reason


LOADING = "loading"
UNLOADED = "unloaded"


class Repository:
    """The bundles at `paths`, and every bundle in folders there; a model has the name of its bundle's folder.

    Raises BadBundle if there is no bundle, if two have the same name, or if there are several and none is the default.

    Attributes:
        default: the name of the default model.
        beside: another repository, which is loaded, reloaded and closed with this one; its errors are only logged.

    Args:
        paths: bundles, or folders of bundles.
        default: the name of the default model; None is the only bundle.
        make: a model of a bundle.
        preload: resolutions that are loaded with each model that has them; the default model must have them.
        name: of the model, if there is one bundle, instead of its folder's.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        default: str | None,
        make: Callable[[Bundle], ServedModel],
        preload: Sequence[int] = (),
        name: str | None = None,
    ) -> None:
        self._find = partial(find_bundles, *paths, name=name)
        self._make = make
        self._preload = preload
        self._changing = asyncio.Lock()
        self._retiring: set[asyncio.Task[None]] = set()
        self._closed = False
        self.beside: Repository | None = None
        found = self._look()
        self.default = found.default(default)
        self._entries = {name: RepositoryEntry(name, reason=LOADING) for name in found.bundles}

    @property
    def entries(self) -> list[RepositoryEntry]:
        """All known models: those that are served, those that were, and those on disk that could be."""
        known = dict.fromkeys([*self._entries, *self._find().bundles])
        return [self._entries.get(name) or RepositoryEntry(name, reason=UNLOADED) for name in known]

    @property
    def served(self) -> Iterator[ServedModel]:
        """The models that serve, those beside these too."""
        own = (entry.model for entry in self._entries.values() if entry.model is not None)
        return own if self.beside is None else chain(own, self.beside.served)

    @property
    def bundles(self) -> Iterator[Bundle]:
        """The bundles that are served by their own names."""
        return (entry.model.bundle for entry in self._entries.values() if entry.model is not None)

    def model(self, name: str | None = None) -> ServedModel:
        """The model called `name`, or the default one. Raises UnknownModel, or NotReady while it cannot serve."""
        entry = self._entries.get(name or self.default)
        if entry is None:
            raise UnknownModel(f"there is no model {(name or '')[:60]!r}; GET /models lists those that are served")
        if entry.model is None:
            if entry.reason == LOADING:
                raise NotReady(f"{entry.name} is loading", retry_after=5)
            why = "it is unloaded" if entry.reason == UNLOADED else "it could not be loaded; GET /models says why"
            raise NotReady(f"{entry.name} is not served: {why}")
        return entry.model

    def cascade(self, model: ServedModel) -> Cascade:
        """The cascade that begins with `model`. Raises NotCalibrated, UnknownModel or NotReady."""
        return served_cascade(model, self.model)

    def cascade_to(self, model: ServedModel, resolution: int) -> Cascade | None:
        """A cascade whose second step is `model` at `resolution`, if one is served."""
        for entry in self._entries.values():
            for fit in entry.model.calibrations.cascades if entry.model is not None else ():
                assert entry.model is not None
                name = fit.second.model or entry.name
                if (name, fit.second.resolution) == (model.bundle.name, resolution):
                    with suppress(ExplainedError):  # what is served may differ from what it was fitted for
                        return self.cascade(entry.model)
        return None

    def leave_out(self, names: Iterable[str]) -> None:
        """Do not load these models at the start: other instances have unloaded them."""
        for name in names:
            if name in self._entries:
                self._entries[name].reason = UNLOADED

    async def load_all(self) -> None:
        """Load every model that was found, the default one first; LoadFailed if that one cannot be loaded."""
        await self._load_unless_unloaded(self.default)
        for name in [name for name in self._entries if name != self.default]:
            try:
                await self._load_unless_unloaded(name)
            except ExplainedError as err:
                log.error("%s", err)
        if self.beside is not None:
            try:
                await self.beside.load_all()
            except ExplainedError as err:
                log.error("%s", err)

    async def load(self, name: str) -> None:
        """Serve the bundle called `name` as it is on disk now; no-op if it is served already.

        It is checked, loaded and self-tested before it replaces the model of its name, which then finishes what it was
        given. Raises UnknownModel, or LoadFailed: the old one goes on.
        """
        async with self._changing:
            await self._load(name)

    async def unload(self, name: str) -> None:
        """Serve `name` no more; it finishes what it was given. UnknownModel if it is not known."""
        async with self._changing:
            entry = self._entries.get(name)
            if entry is None:
                raise UnknownModel(f"there is no model {name[:60]!r}")
            old, entry.model, entry.reason = entry.model, None, UNLOADED
            self._retire(old)
            if name not in self._find().bundles:
                del self._entries[name]
            log.info("%s is unloaded", name)

    async def reload(self) -> list[str]:
        """Serve the bundles on disk: load new and changed ones, unload those that are gone, except the default one.

        Returns the errors; a model that was served before goes on in spite of them.
        """
        errors = []
        found = await asyncio.to_thread(self._look)
        for name in [*found.bundles, *(name for name in list(self._entries) if name not in found.bundles)]:
            try:
                if name in found.bundles:
                    await self.load(name)
                elif why := "; ".join(found.faults) or found.passed_over.get(name):
                    raise LoadFailed(f"the bundle of {name} is served as it was: {why}")
                elif name == self.default:
                    raise LoadFailed(f"the bundle of {name}, the default model, is gone; it is served as it was")
                else:
                    await self.unload(name)
            except ExplainedError as err:
                log.error("%s", err)
                errors.append(str(err))
        return errors if self.beside is None else errors + await self.beside.reload()

    async def close(self) -> None:
        """Let every model finish what it was given, and end it; no model is loaded any more."""
        self._closed = True
        for entry in self._entries.values():
            old, entry.model, entry.reason = entry.model, None, "the service is stopping"
            self._retire(old)
        await asyncio.gather(*self._retiring)
        if self.beside is not None:
            await self.beside.close()

    async def _load_unless_unloaded(self, name: str) -> None:
        """Load `name`, unless somebody unloads it while another model loads."""
        async with self._changing:
            if name in self._entries and self._entries[name].reason != UNLOADED:
                await self._load(name)

    async def _load(self, name: str) -> None:
        found = await asyncio.to_thread(self._find)
        if name not in found.bundles:
            why = "; ".join(found.faults) or found.passed_over.get(name, "")
            raise UnknownModel(f"there is no bundle called {name[:60]!r} to load{why and f' ({why})'}")
        entry = self._entries.setdefault(name, RepositoryEntry(name))
        if entry.model is None:
            entry.reason = LOADING
        try:
            bundle = await asyncio.to_thread(open_bundle, found.bundles[name], name)
            if entry.model is not None and entry.model.bundle.same_as(bundle):
                bundle.close()
                entry.reason = ""  # of an attempt in between
                _calibrate(entry.model, bundle.calibration)
                return
            model = await self._start(bundle)
        except Exception as err:
            reason = str(err) if isinstance(err, ExplainedError) else repr(err)
            entry.reason = reason
            if not isinstance(err, ExplainedError):
                log.exception("%s cannot be loaded", name)
            raise LoadFailed(f"{name} cannot be loaded: {reason}") from err
        except BaseException:
            entry.reason = "loading was interrupted"
            raise
        if self._closed:
            self._retire(model)
            raise LoadFailed("the service is stopping")
        old, entry.model, entry.reason = entry.model, model, ""
        self._retire(old)
        log.info("%s is ready: %s, %s", name, *model.engine())

    async def _start(self, bundle: Bundle) -> ServedModel:
        if bundle.warning:
            log.warning("%s", bundle.warning)
        log.info("%s is loading", bundle.name)
        for remark in bundle.calibration.remarks:
            log.warning("%s: %s", bundle.name, remark)
        missing = [resolution for resolution in self._preload if resolution not in bundle.resolutions]
        if missing and bundle.name == self.default:
            bundle.close()
            offered = ", ".join(map(str, bundle.resolutions))
            raise BadBundle(f"cannot preload {missing[0]}: the bundle at {bundle.path} has {offered}")
        model = self._make(bundle)
        try:
            await model.start([resolution for resolution in self._preload if resolution not in missing])
        except BaseException:
            await model.close()
            raise
        return model

    def _retire(self, model: ServedModel | None) -> None:
        if model is not None:
            task = asyncio.create_task(model.close())
            self._retiring.add(task)
            task.add_done_callback(self._retiring.discard)

    def _look(self) -> FoundBundles:
        """The bundles on disk; the log has the folders that are passed over."""
        found = self._find()
        for why in (*found.passed_over.values(), *found.clashes):
            log.warning("passed over: %s", why)
        return found


def _calibrate(model: ServedModel, calibrations: Calibration) -> None:
    """Let `model` go on with what is in its bundle's calibration.json now."""
    if calibrations == model.calibrations:
        return
    for remark in calibrations.remarks:
        log.warning("%s: %s", model.bundle.name, remark)
    model.calibrate(calibrations)
    fitted = ", ".join(f"{precision} at {resolution}" for precision, resolution in calibrations.scores)
    log.info("%s: its scores are calibrated in %s", model.bundle.name, fitted or "no precision any more")
