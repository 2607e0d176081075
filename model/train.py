"""Images to weights: `python model/train.py DATA --variant crossvit_9_dagger --out runs/mine`.

The folder then has model.safetensors with its labels and recipe, as export/to_onnx.py --weights takes them. The same
command again goes on where a run was stopped. docs/training.md says more.
"""

import fcntl
import hashlib
import json
import os
import shlex
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from importlib.metadata import version
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, model_validator
from pydantic_settings import BaseSettings, CliApp, CliPositionalArg, PydanticBaseSettingsSource, SettingsConfigDict
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from model.checkpoint import BadCheckpoint, silent
from model.dataset import BadDataset, Dataset
from model.labels import can_be_label, labels_beside, labels_of, recipe_beside
from model.spec import VARIANTS
from model.training.artifacts import WEIGHTS, write_json_file
from model.training.distributed import Group, NoGPU
from model.training.images import FromFiles, InMemory, TrainingImages
from model.training.initial_network import starting_network
from model.training.recipe import PRESETS, Recipe
from model.training.run_log import LogRow
from model.training.trainer import CHECKPOINT, Diverged, Trainer, TrainerOptions
from model.weights import Weights, WeightsUnavailable, find_weights

_NONE = "none"


class BadRun(Exception):
    """What cannot be run so; the message says why, and what would do."""


def training_cpus(most: int) -> int:
    """CPUs for each of the processes that torchrun has started here, up to `most`."""
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(most, cpus // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))))


class Arguments(Recipe, BaseSettings):
    """Train a CrossViT, or fine-tune one, on images in folders (or zip or tar files) named for their class."""

    model_config = SettingsConfigDict(
        cli_prog_name="crossvit train", cli_kebab_case=True, cli_implicit_flags=True, cli_avoid_json=True
    )

    data: Annotated[
        CliPositionalArg[list[Path]],
        Field(description="folders, zip files or WebDataset's tar files, without commas in their names"),
    ]
    out: Annotated[Path, Field(description="folder of the run; what was begun there goes on")]
    validation: Annotated[list[Path], Field(description="images to measure accuracy on after every epoch")] = []
    preset: Annotated[
        Literal[tuple(PRESETS)],  # type: ignore[valid-type]
        Field(description="where the options of the recipe start from"),
    ] = "paper"
    weights: Annotated[
        str, Field(description="to start from: a checkpoint, hub or shipped; the classes may be others")
    ] = _NONE
    head: Annotated[
        Literal["auto", "keep", "new"], Field(description="of those weights; auto keeps it if its classes are these")
    ] = "auto"
    half: Annotated[bool, Field(description="store the weights in half precision")] = False

    # How it is carried out
    in_memory: Annotated[
        int, Field(ge=0, description="keep all images on the device as squares of so many pixels; 0 reads files")
    ] = 0
    workers: Annotated[int, Field(ge=0, description="processes that read files, for each GPU")] = training_cpus(most=16)
    device: Annotated[Literal["auto", "cpu", "cuda"], Field(description="auto is a GPU where there is one")] = "auto"
    bf16: Annotated[bool, Field(description="matrix products in bfloat16: for GPUs, and CPUs with AMX")] = False
    compiled: Annotated[bool, Field(description="torch.compile the network")] = False
    micro_batch: Annotated[
        int, Field(ge=1, description="images that go through a network at once, and are mixed with each other")
    ] = 256
    checkpoint_seconds: Annotated[float, Field(ge=0, description="what a kill costs at most, and some steps")] = 120
    log_steps: Annotated[int, Field(ge=1, description="steps in a row of the log")] = 10

    @classmethod
    def settings_customise_sources(  # BATCH or SEED in the environment mean something else
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003
        init_settings: PydanticBaseSettingsSource,
        *_: object,
        **__: object,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return (init_settings,)

    @model_validator(mode="before")
    @classmethod
    def _from_preset(cls, values: dict[str, Any]) -> dict[str, Any]:
        return PRESETS.get(values.get("preset", "paper"), {}) | values

    @property
    def recipe(self) -> Recipe:
        return Recipe(**{name: getattr(self, name) for name in Recipe.model_fields})


def main(arguments: list[str] | None = None) -> int:
    try:
        args = CliApp.run(Arguments, cli_args=sys.argv[1:] if arguments is None else arguments)
    except ValidationError as err:
        first = err.errors()[0]
        option = "--" + str(first["loc"][0]).replace("_", "-") + ": " if first["loc"] else ""
        return _failed(f"{option}{first['msg']}", 2)
    try:
        train(args)
    except (BadDataset, BadCheckpoint, WeightsUnavailable, BadRun, NoGPU, Diverged, OSError) as err:
        return _failed(str(err), 1)
    except KeyboardInterrupt:
        kept = (args.out / CHECKPOINT).is_file()
        return _failed(
            f"interrupted; the same command {'goes on from the last checkpoint' if kept else 'begins anew'}", 130
        )
    return 0


def train(args: Arguments) -> None:
    """Train as `args` say, and write the weights. Raises what its parts do, and BadRun."""
    recipe, group = args.recipe, Group.join(args.device)
    try:
        with _alone_in(args.out) if group.first else nullcontext():
            _run(args, recipe, group)
    finally:
        group.leave()


@contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """The folder, made if need be; BadRun if another process trains there."""
    if folder.exists() and not folder.is_dir():
        raise BadRun(f"{folder} is no folder: choose another --out")
    made = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    opened = os.open(folder, os.O_RDONLY)
    _locks.add(opened)
    try:
        try:
            fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)  # which ends with this process, however it ends
        except BlockingIOError as err:
            raise BadRun(f"another process trains in {folder}: choose another --out, or wait for it") from err
        yield
    finally:
        if made:
            with suppress(OSError):
                folder.rmdir()  # unless anything came of it
        _locks.remove(opened)
        os.close(opened)


def _let_go() -> None:
    """In a process that reads files for the one that trains: where that is killed, its lock must go with it."""
    while _locks:
        os.close(_locks.pop())


_locks: set[int] = set()
os.register_at_fork(after_in_child=_let_go)


def _run(args: Arguments, recipe: Recipe, group: Group) -> None:
    data = Dataset(args.data)
    checks = Dataset(args.validation) if args.validation else None
    _check(args, data, checks, group)
    labels = labels_of(data.categories)
    weights = None if args.weights == _NONE else find_weights(args.weights, VARIANTS[recipe.variant], _say)
    say = _say if group.first else silent
    network, kept = starting_network(recipe, labels, weights.path if weights else None, args.head, say)
    if group.first:
        _begin(recipe_beside(args.out / WEIGHTS), args, data, weights, group, kept=kept)
        write_json_file((args.out / WEIGHTS).with_suffix(".labels.json"), labels)
        _say(_described(recipe, data, weights, kept=kept))
    with _bar("decoding", len(data) + len(checks or []), shown=group.first and args.in_memory > 0) as advance:
        images = _images(args, data, data.categories, group, advance)
        validation = _images(args, checks, data.categories, group, advance) if checks else None
    options = TrainerOptions(
        *(args.micro_batch, args.bf16, args.compiled, args.half, args.checkpoint_seconds, args.log_steps)
    )
    trainer = Trainer(network, recipe, images, args.out, group, options)
    with _bar("training", trainer.steps, shown=group.first) as advance:
        advance(trainer.step)
        trainer.run(validation, _teller(trainer, advance))
    if group.first:
        _say(f"{args.out / WEIGHTS}: export it with: {_export_command(args)}")


def _check(args: Arguments, data: Dataset, checks: Dataset | None, group: Group) -> None:
    for category in data.categories:
        if category != category.strip() or not can_be_label(category):
            raise BadRun(
                f"{category!r} cannot be a label: no blanks at its ends, no control characters, and UTF-8; "
                "rename the folder"
            )
    if len(data.categories) < 2:
        raise BadRun(
            f"all images are of one class, {data.categories[0]!r}: classes are the folders below {args.data[0]}"
        )
    if args.batch > len(data):
        raise BadRun(f"a batch of {args.batch} is more than the {len(data)} images: choose a smaller --batch and --lr")
    if args.batch % group.ranks:
        raise BadRun(f"a batch of {args.batch} cannot be shared by {group.ranks} processes: choose a multiple")
    if unknown := sorted(set(checks.categories if checks else []) - set(data.categories)):
        raise BadRun(f"--validation has {len(unknown)} classes that the other images have not, such as {unknown[0]!r}")


def _described(recipe: Recipe, data: Dataset, weights: Weights | None, *, kept: bool) -> str:
    names = ", ".join(data.categories[:3]) + (", …" if len(data.categories) > 3 else "")
    start = f"{weights.id}, {weights.source}; {'its' if kept else 'a new'} head" if weights else "random weights"
    return (
        f"{recipe.variant} at {recipe.resolution}: {len(data)} images, {len(data.categories)} classes ({names}), "
        f"from {start}"
    )


def _images(
    args: Arguments, data: Dataset, categories: list[str], group: Group, advance: Callable[[int], None]
) -> TrainingImages:
    targets = data.indices(categories)
    if args.in_memory:
        try:
            return InMemory(data, targets, args.in_memory, group.device, advance)
        except RuntimeError as err:  # torch's, of any memory
            raise BadRun(f"--in-memory {args.in_memory}: {len(data)} images have no place there ({err})") from err
    return FromFiles(data, targets, group.device, args.workers)


def _begin(path: Path, args: Arguments, data: Dataset, weights: Weights | None, group: Group, *, kept: bool) -> None:
    """Write down what the run is, or check that the one in the folder, if anything came of it, is the same."""
    run = {
        "recipe": args.recipe.model_dump(),
        "data": {"images": len(data), "classes": len(data.categories), "names_sha256": _names_sha256(data)},
        "started_from": {"id": weights.id, "source": weights.source, "head": kept} if weights else None,
        "options": {name: getattr(args, name) for name in ("in_memory", "micro_batch", "bf16", "compiled", "half")}
        | {"processes": group.ranks},
        "versions": {package: version(package) for package in ("crossvit", "torch", "kornia", "pillow")},
    }
    results = [file for file in (path.parent / CHECKPOINT, path.parent / WEIGHTS) if file.is_file()]
    if not path.is_file() and (labels := labels_beside(path.parent / WEIGHTS)):
        results.append(labels)
    if not results:
        write_json_file(path, run)
        return
    try:
        standing = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as err:
        raise BadRun(f"{results[0]} is of no run that is described in {path.name}: choose another --out") from err
    differences = list(_differences(standing, run | {"versions": standing.get("versions")}))
    if differences:
        raise BadRun(f"{path.parent} has another run: {'; '.join(differences)}. Choose another --out")


def _names_sha256(data: Dataset) -> str:
    names = "\n".join(f"{item.category}/{PurePosixPath(item.name).name}" for item in data.items)
    return hashlib.sha256(names.encode(errors="surrogateescape")).hexdigest()


def _differences(old: Any, new: Any, name: str = "") -> Iterator[str]:
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for key in [*old, *(key for key in new if key not in old)]:
            yield from _differences(old.get(key), new.get(key), str(key))
    elif old != new:
        yield f"{name} was {old}, now {new}"


def _teller(trainer: Trainer, advance: Callable[[int], None]) -> Callable[[str, LogRow], None]:
    done = trainer.step

    def tell(kind: str, row: LogRow) -> None:
        nonlocal done
        if kind == "training":
            advance(trainer.step - done)
            done = trainer.step
        _say(f"{kind}: " + ", ".join(f"{name} {value:.6g}" for name, value in row.items()))

    return tell


@contextmanager
def _bar(what: str, total: int, *, shown: bool) -> Iterator[Callable[[int], None]]:
    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=notes, transient=True, disable=not (shown and notes.is_terminal)) as progress:
        task = progress.add_task(what, total=total)
        yield lambda count: progress.advance(task, count)


def _export_command(args: Arguments) -> str:
    weights, bundle = str(args.out / WEIGHTS), str(Path("artifacts") / args.out.resolve().name)
    return shlex.join(["crossvit", "export", "--variant", args.variant, "--weights", weights, "--out", bundle])


def _say(line: str) -> None:
    notes.print(line, markup=False, highlight=False, soft_wrap=True)


def _failed(message: str, code: int) -> int:
    notes.print(f"error: {message}", style="red", markup=False, highlight=False, soft_wrap=True)
    return code


notes = Console(stderr=True)

if __name__ == "__main__":
    sys.exit(main())
