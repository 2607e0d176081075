"""One run of `crossvit train`: the checks before it, the network that it trains, and what it prints."""

import shlex
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from model.checkpoint import BadCheckpoint, silent
from model.command_line import notes
from model.dataset import BadDataset, Dataset
from model.labels import can_be_label, labels_of
from model.spec import VARIANTS
from model.training.artifacts import WEIGHTS, write_json_file
from model.training.command import NO_WEIGHTS, Arguments
from model.training.distributed import Group, NoGPU
from model.training.images import FromFiles, InMemory, TrainingImages
from model.training.initial_network import starting_network
from model.training.recipe import Recipe
from model.training.run_folder import BadRun, begin_or_resume, describe_run, exclusive_folder
from model.training.run_log import LogRow
from model.training.stop_request import StopRequest
from model.training.trainer import CHECKPOINT, Diverged, Trainer, TrainerOptions
from model.weights import Weights, WeightsUnavailable, find_weights

RUN_ERRORS = (BadDataset, BadCheckpoint, WeightsUnavailable, BadRun, NoGPU, Diverged, OSError)

# The options that change the weights that a run ends with: model.recipe.json records them.
_RECORDED_OPTIONS = ("in_memory", "micro_batch", "bf16", "compiled", "half")


def what_follows(folder: Path) -> str:
    """What the same command does after a run in `folder` was interrupted."""
    resumes = (folder / CHECKPOINT).is_file()
    return f"the same command {'resumes from the last checkpoint' if resumes else 'starts again from the beginning'}"


def train(args: Arguments) -> None:
    """Train as `args` say, and write the weights. Raises what its parts raise, and BadRun."""
    group = Group.join(args.device)
    try:
        with exclusive_folder(args.out) if group.first else nullcontext():
            _train(args, group)
    finally:
        group.leave()


def _train(args: Arguments, group: Group) -> None:
    recipe, data = args.recipe, Dataset(args.data)
    validation_data = Dataset(args.validation) if args.validation else None
    _check(args, data, validation_data, group)
    labels = labels_of(data.categories)
    weights = None if args.weights == NO_WEIGHTS else find_weights(args.weights, VARIANTS[recipe.variant], _say)
    say = _say if group.first else silent
    network, kept_head = starting_network(recipe, labels, weights.path if weights else None, args.head, say)
    if group.first:
        options = {name: getattr(args, name) for name in _RECORDED_OPTIONS} | {"processes": group.ranks}
        begin_or_resume(args.out, describe_run(recipe, data, weights, kept_head=kept_head, options=options))
        write_json_file((args.out / WEIGHTS).with_suffix(".labels.json"), labels)
        _say(_summary(recipe, data, weights, kept_head=kept_head))
    images = _training_images(args, data, group)
    validation = None
    if validation_data:
        targets = validation_data.indices(data.categories)
        validation = FromFiles(validation_data, targets, group.device, args.workers)
    trainer = Trainer(
        network=network,
        recipe=recipe,
        images=images,
        folder=args.out,
        group=group,
        options=TrainerOptions(
            micro_batch=args.micro_batch,
            bf16=args.bf16,
            compiled=args.compiled,
            half=args.half,
            checkpoint_seconds=args.checkpoint_seconds,
            log_steps=args.log_steps,
        ),
    )
    if trainer.step == trainer.steps:
        say(f"{args.out}: this run is finished: all of its {trainer.steps} steps are done")
    else:
        with _bar("training", trainer.steps, shown=group.first) as advance, StopRequest(alone=group.ranks == 1) as stop:
            advance(trainer.step)
            trainer.run(validation, _report, stop, on_step=partial(advance, 1))
    if group.first:
        _say(f"{args.out / WEIGHTS}: export it with: {_export_command(args)}")


def _check(args: Arguments, data: Dataset, validation: Dataset | None, group: Group) -> None:
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
        raise BadRun(
            f"a batch of {args.batch} cannot be divided among {group.ranks} processes: choose a multiple of "
            f"{group.ranks}"
        )
    if unknown := sorted(set(validation.categories if validation else []) - set(data.categories)):
        raise BadRun(
            f"--validation has {len(unknown)} classes that the training images do not have, such as {unknown[0]!r}"
        )


def _summary(recipe: Recipe, data: Dataset, weights: Weights | None, *, kept_head: bool) -> str:
    names = ", ".join(data.categories[:3]) + (", …" if len(data.categories) > 3 else "")
    head = "its" if kept_head else "a new"
    start = f"{weights.id}, {weights.source}; {head} head" if weights else "random weights"
    return (
        f"{recipe.variant} at {recipe.resolution}: {len(data)} images, {len(data.categories)} classes ({names}), "
        f"from {start}"
    )


def _training_images(args: Arguments, data: Dataset, group: Group) -> TrainingImages:
    targets = data.indices(data.categories)
    if not args.in_memory:
        return FromFiles(data, targets, group.device, args.workers)
    try:
        with _bar("decoding", len(data), shown=group.first) as advance:
            return InMemory(data, targets, args.in_memory, group.device, advance)
    except RuntimeError as err:  # torch raises it for any memory
        raise BadRun(f"--in-memory {args.in_memory}: {len(data)} images do not fit into memory ({err})") from err


def _report(kind: str, row: LogRow) -> None:
    _say(f"{kind}: " + ", ".join(f"{name} {value:.6g}" for name, value in row.items()))


@contextmanager
def _bar(activity: str, total: int, *, shown: bool) -> Iterator[Callable[[int], None]]:
    columns = (TextColumn(activity), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=notes, transient=True, disable=not (shown and notes.is_terminal)) as progress:
        task = progress.add_task(activity, total=total)
        yield lambda count: progress.advance(task, count)


def _export_command(args: Arguments) -> str:
    weights, bundle = str(args.out / WEIGHTS), str(Path("artifacts") / args.out.resolve().name)
    return shlex.join(["crossvit", "export", "--variant", args.variant, "--weights", weights, "--out", bundle])


def _say(line: str) -> None:
    notes.print(line, markup=False, highlight=False)
