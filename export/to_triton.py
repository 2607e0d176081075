"""A bundle to a Triton model repository: `python export/to_triton.py --variant crossvit_18_dagger`.

One model for each resolution, called VARIANT_RESOLUTION; see docs/triton.md.
"""

import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import typer

from bundle.atomic_files import file_sha256
from bundle.bundle_errors import ExplainedError
from export.inputs import arguments
from export.plans.build_spec import PRECISION_OPTIONS
from export.triton_repository.model_repository import CONFIG, Changes, changing, version_for
from export.triton_repository.pbtxt import TRITON_LABELS, Config, config_text
from export.triton_repository.triton_models import (
    ModelFile,
    NotServable,
    TritonOptions,
    model_files,
    read_triton_bundle,
)
from model.command_line import Misuse, failures, new_app, run_command, spread

_app = new_app()


@_app.command(help=__doc__)
def _from_options(
    variant: arguments.VariantOption,
    bundle: Annotated[
        Path | None, typer.Option(metavar="FOLDER", readable=False, help="the bundle (artifacts/VARIANT)")
    ] = None,
    out: Annotated[Path, typer.Option(metavar="FOLDER", readable=False, help="the repository")] = Path(
        "artifacts/triton"
    ),
    backend: Annotated[Literal["onnxruntime", "tensorrt"], typer.Option(help="what runs the models")] = "onnxruntime",
    precision: Annotated[
        str | None,
        typer.Option(
            parser=arguments.choice(PRECISION_OPTIONS),
            metavar="|".join(PRECISION_OPTIONS),
            help="of the graph (fp32), or of the plans with tensorrt (fp16)",
        ),
    ] = None,
    resolutions: Annotated[
        list[int] | None,
        typer.Option(
            parser=arguments.offered_resolution, metavar="N ...", help="resolutions of the bundle (all that it offers)"
        ),
    ] = None,
    max_batch: Annotated[
        int | None,
        typer.Option(
            min=1, metavar="N", help="most images in a batch (the plan's largest; without a plan 64, on the CPU 8)"
        ),
    ] = None,
    instances: Annotated[int, typer.Option(min=1, metavar="N", help="of each model, on each GPU")] = 1,
    device: Annotated[Literal["gpu", "cpu"], typer.Option(help="where they run")] = "gpu",
    queue_delay_us: Annotated[
        int,
        typer.Option(
            min=0, metavar="N", help="how long a request may wait for others while an instance is free, microseconds"
        ),
    ] = 0,
    model_version: Annotated[
        str,
        typer.Option(metavar="N|next|auto", help="auto is the newest if it has the very same model, else the next"),
    ] = "auto",
    only: Annotated[
        list[str] | None,
        typer.Option(metavar="TEXT ...", help="take only plans with all of these texts in their names"),
    ] = None,
) -> None:
    if backend == "tensorrt" and device == "cpu":
        raise Misuse("--backend tensorrt needs --device gpu")
    options = TritonOptions(
        variant=variant,
        backend=backend,
        precision=precision or {"onnxruntime": "fp32", "tensorrt": "fp16"}[backend],
        device=device,
        max_batch=max_batch,
        instances=instances,
        queue_delay_us=queue_delay_us,
        only=tuple(only or ()),
    )
    folder = bundle or Path("artifacts") / variant
    with failures((ExplainedError, OSError), lambda: "every model is whole, the old one or the new one"):
        export_repository(folder, options, resolutions, out=out, version=_version(model_version))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    given = sys.argv[1:] if argv is None else argv
    return run_command(_app, spread(given, "--resolutions", "--only"))


def export_repository(
    folder: Path, options: TritonOptions, resolutions: list[int] | None, *, out: Path, version: int | str
) -> None:
    """Write the bundle at `folder` to the repository `out`; an error leaves that as it was.

    `version` is as in export.triton_repository.model_repository.version_for.
    """
    bundle = read_triton_bundle(folder, options.variant)
    models = model_files(bundle, options, resolutions)
    labels = bundle.labels()
    with changing(out) as changes:
        versions = [_stage(changes, config, sources, labels, version) for config, sources in models]
    for (config, _), number in zip(models, versions, strict=True):
        _say(f"{out / config.name}: version {number}, {config.backend}, batches of up to {config.max_batch}")
        if not config.dynamic:
            _say(_exact_sizes(config))
    if not bundle.trained:
        _say("WARNING: UNTRAINED weights: the answers of these models will mean nothing")


def _stage(changes: Changes, config: Config, sources: list[ModelFile], labels: str, requested: int | str) -> int:
    """Put the model together, and return its version. An existing version is not changed."""
    folder = changes.model(config.name)
    version = version_for(folder, requested, {source.name: source.sha256 for source in sources})
    place = folder / str(version)
    if not place.exists():
        place.mkdir()
        for source in sources:
            _copy(source, place / source.name)
    (folder / TRITON_LABELS).write_text(labels, encoding="utf-8")
    (folder / CONFIG).write_text(config_text(config), encoding="utf-8")
    return version


def _copy(source: ModelFile, place: Path) -> None:
    """The copy is checked and not the original, which may change meanwhile."""
    shutil.copyfile(source.path, place)
    if file_sha256(place) != source.sha256:
        raise NotServable(
            f"{source.path} is not the file that was recorded when it was made: make it again, or try again if it was "
            "being replaced just now"
        )


def _exact_sizes(config: Config) -> str:
    sizes = " or ".join(map(str, config.batch_sizes))
    return (
        f"note: {config.name} takes requests of exactly {sizes} images; others fail, since Triton does not pad a batch "
        "to a profile, and for the same reason it forms no batches. For dynamic batching build plans whose profiles "
        "join (python export/to_trt.py --joined-profiles), or use --backend onnxruntime"
    )


def _say(line: str) -> None:
    print(line, flush=True)


def _version(text: str) -> int | str:
    if text in ("next", "auto"):
        return text
    if not (text.isascii() and text.isdigit() and int(text)):
        raise Misuse(f"--model-version: {text!r} is not a number of 1 or more")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
