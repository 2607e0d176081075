"""Cascades: the cheap step answers first, and the dear one only where the cheap one's score is under a threshold.

Both steps are served models, or one at two resolutions. The image enters the queue of each step that it needs.
"""

import asyncio
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from app.errors import NotCalibrated
from app.serving.served_model import ModelAnswer, ServedModel
from bundle.bundle_errors import ExplainedError
from bundle.calibration import CascadeFit, CascadeStep, scored_graph
from bundle.scores import scores

FindModel = Callable[[str], ServedModel]


@dataclass(frozen=True)
class ServedStep:
    """A model at a resolution, the `number`-th step of `of`. What takes an image has the interface of a Cascade.

    `brown_out` is the rung of the brown-out that put it in the place of what was asked for, 0 for none.
    """

    model: ServedModel
    resolution: int
    number: int = 1
    of: int = 1
    brown_out: int = 0

    @property
    def first(self) -> "ServedStep":
        return self

    async def classify(
        self, body: bytes, deadline: float = math.inf, *, best: int = 0, caller: str = ""
    ) -> "StepAnswer":
        """As Cascade.classify."""
        with self.model.in_use():
            answer = await self.model.classify(body, self.resolution, deadline, best=best, caller=caller)
        return StepAnswer(self, answer)

    async def classify_each(
        self, bodies: Sequence[bytes], deadline: float = math.inf, *, best: int = 0, caller: str = ""
    ) -> "list[StepAnswer | ExplainedError]":
        """As Cascade.classify_each."""
        with self.model.in_use():
            outcomes = await self.model.classify_each(bodies, self.resolution, deadline, best=best, caller=caller)
        return [each if isinstance(each, ExplainedError) else StepAnswer(self, each) for each in outcomes]


@dataclass(frozen=True)
class StepAnswer:
    """An answer, the step that gave it, and the answers of the steps before."""

    step: ServedStep
    answer: ModelAnswer
    before: tuple[ModelAnswer, ...] = ()

    @property
    def all(self) -> tuple[ModelAnswer, ...]:
        """In the order of the steps."""
        return (*self.before, self.answer)


@dataclass(frozen=True)
class Cascade:
    """Two steps, and the calibrated score of the best class from which on the first one answers.

    Its methods take what those of ServedModel take, and raise what these raise; the models are in use meanwhile.
    """

    first: ServedStep
    second: ServedStep
    threshold: float

    async def classify(self, body: bytes, deadline: float = math.inf, *, best: int = 0, caller: str = "") -> StepAnswer:
        """The answer for the encoded image in `body`, which needs room in the queue of each step that it takes."""
        with self.first.model.in_use(), self.second.model.in_use():
            answer = await self.first.model.classify(body, self.first.resolution, deadline, best=best, caller=caller)
            if self._is_sure(answer):
                return StepAnswer(self.first, answer)
            return await self._second(answer, body, deadline, best, caller)

    async def classify_each(
        self, bodies: Sequence[bytes], deadline: float = math.inf, *, best: int = 0, caller: str = ""
    ) -> list[StepAnswer | ExplainedError]:
        """An answer or an error for each encoded image; QueueFull for all if the first step has no room."""

        async def continued(body: bytes, outcome: ModelAnswer | ExplainedError) -> StepAnswer | ExplainedError:
            if isinstance(outcome, ExplainedError):
                return outcome
            if self._is_sure(outcome):
                return StepAnswer(self.first, outcome)
            try:
                return await self._second(outcome, body, deadline, best, caller)
            except ExplainedError as err:
                return err

        with self.first.model.in_use(), self.second.model.in_use():
            outcomes = await self.first.model.classify_each(
                bodies, self.first.resolution, deadline, best=best, caller=caller
            )
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(continued(*each)) for each in zip(bodies, outcomes, strict=True)]
        return [task.result() for task in tasks]

    async def _second(self, before: ModelAnswer, body: bytes, deadline: float, best: int, caller: str) -> StepAnswer:
        answer = await self.second.model.classify(body, self.second.resolution, deadline, best=best, caller=caller)
        return StepAnswer(self.second, answer, (before,))

    def _is_sure(self, answer: ModelAnswer) -> bool:
        if answer.calibration is None:  # it went while the request was under way
            return False
        if answer.result.best:
            return answer.result.best[0][1] >= self.threshold
        activation = self.first.model.bundle.manifest.activation
        found = scores(answer.outputs[0], activation, answer.calibration.temperature)
        return float(found.max()) >= self.threshold


def served_cascade(model: ServedModel, find: FindModel) -> Cascade:
    """The cascade whose first step is `model`, if what is served now is what it was fitted for.

    `find` gives the model of a name. Raises NotCalibrated with what would help, and what `find` raises.
    """
    reasons = []
    for fit in model.calibrations.cascades:
        second = _second_model(model, fit, find)
        reason = _unfit(model, fit.first) or _unfit(second, fit.second)
        if reason is None:
            return _cascade(model, second, fit)
        reasons.append(reason)
    command = model.bundle.calibrate_command("--resolution CHEAP --cascade DEAR")
    why = f"the one that there is was fitted for {reasons[0]}" if reasons else "there is none"
    raise NotCalibrated(
        f"resolution=auto needs a cascade that begins with {model.bundle.name}, and {why}: {command} fits one to "
        "labelled images, and a reload of the models reads it"
    )


def is_served(model: ServedModel, fit: CascadeFit, find: FindModel) -> bool:
    """Whether what is served now is what `fit`, which begins with `model`, was fitted for."""
    try:
        second = _second_model(model, fit, find)
    except ExplainedError:
        return False
    return _unfit(model, fit.first) is None and _unfit(second, fit.second) is None


def _second_model(model: ServedModel, fit: CascadeFit, find: FindModel) -> ServedModel:
    return model if fit.second.model is None else find(fit.second.model)


def _cascade(first: ServedModel, second: ServedModel, fit: CascadeFit) -> Cascade:
    return Cascade(
        ServedStep(first, fit.first.resolution, 1, 2), ServedStep(second, fit.second.resolution, 2, 2), fit.threshold
    )


def _unfit(model: ServedModel, step: CascadeStep) -> str | None:
    """What the step was fitted for, where that is not what `model` serves."""
    if step.resolution not in model.bundle.resolutions:
        return f"{model.bundle.name} at {step.resolution}, which is not offered any more"
    _, precision = model.engine(step.resolution)
    if precision != step.precision:
        return f"{model.bundle.name} in {step.precision}, and it is served in {precision}"
    if scored_graph(model.bundle.manifest, step.precision, step.resolution) != step.scored:
        return f"another graph of {model.bundle.name}"
    return None
