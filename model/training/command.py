"""The command `crossvit train`: its options. An invalid one is refused before PyTorch is imported."""

import os
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, ValidationError, model_validator

from model.command_line import Misuse, command_of, failures, option_name, run_command
from model.pydantic_errors import describe_error
from model.training.recipe import PRESETS, Recipe

NO_WEIGHTS = "none"
_MOST_WORKERS = 16


def training_cpus(most: int) -> int:
    """CPUs for each of the processes that torchrun started on this machine, up to `most`."""
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(most, cpus // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))))


def _split(value: object) -> object:
    """The items of a list that is separated by commas."""
    return [item for item in value.split(",") if item] if isinstance(value, str) else value


Paths = Annotated[list[Path], BeforeValidator(_split)]


class Arguments(Recipe):
    """Train a CrossViT, or fine-tune one, on images in folders (or zip or tar files) named for their class."""

    data: Annotated[Paths, Field(description="folders, zip files or WebDataset's tar files")]
    out: Annotated[Path, Field(description="folder of the run; a run that was stopped there is resumed")]
    validation: Annotated[
        Paths, Field(default_factory=list, description="images to measure accuracy on after every epoch")
    ]
    preset: Annotated[
        Literal[tuple(PRESETS)],  # type: ignore[valid-type]
        Field(description="defaults for the options of the recipe"),
    ] = "paper"
    weights: Annotated[
        str,
        Field(
            description="weights to start from: a checkpoint, hf:owner/name, hub or shipped; other classes are possible"
        ),
    ] = NO_WEIGHTS
    head: Annotated[
        Literal["auto", "keep", "new"],
        Field(description="head of those weights; auto keeps it if its classes are those of the images"),
    ] = "auto"
    half: Annotated[bool, Field(description="store the weights in half precision")] = False

    # How the run is carried out
    in_memory: Annotated[
        int, Field(ge=0, description="keep the training images on the device as squares of this side; 0 reads files")
    ] = 0
    workers: Annotated[int, Field(ge=0, description="processes that read files, for each GPU")] = training_cpus(
        most=_MOST_WORKERS
    )
    device: Annotated[Literal["auto", "cpu", "cuda"], Field(description="auto is a GPU if there is one")] = "auto"
    bf16: Annotated[bool, Field(description="matrix products in bfloat16: for GPUs, and CPUs with AMX")] = False
    compiled: Annotated[bool, Field(description="torch.compile the network")] = False
    micro_batch: Annotated[
        int, Field(ge=1, description="images that go through the network at once, and are mixed with each other")
    ] = 256
    checkpoint_seconds: Annotated[
        float, Field(ge=0, description="time between checkpoints; a kill loses this much and a few steps")
    ] = 120
    log_steps: Annotated[int, Field(ge=1, description="steps between rows of the log")] = 10

    @model_validator(mode="before")
    @classmethod
    def _from_preset(cls, values: dict[str, Any]) -> dict[str, Any]:
        return PRESETS.get(values.get("preset", "paper"), {}) | values

    @property
    def recipe(self) -> Recipe:
        return Recipe(**{name: getattr(self, name) for name in Recipe.model_fields})


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    return run_command(command_of(Arguments, _run, positional="data"), arguments, "crossvit train")


def _run(**given: object) -> None:
    try:
        args = Arguments.model_validate(given)
    except ValidationError as err:
        first = err.errors()[0]
        if not first["loc"]:  # a rule for several options
            raise Misuse(str(first["ctx"]["error"])) from err
        name = str(first["loc"][0])
        raise Misuse(f"{'DATA' if name == 'data' else option_name(name)} {describe_error(first)}") from err
    from model.training.training_run import RUN_ERRORS, train, what_follows  # PyTorch's import takes seconds

    with failures(RUN_ERRORS, interrupted=lambda: what_follows(args.out)):
        train(args)
