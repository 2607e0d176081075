"""A bundle to a Triton model repository: `python export/to_triton.py --variant crossvit_18_dagger`.

One model for each resolution, called VARIANT_RESOLUTION; see docs/triton.md.
"""

import argparse
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

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


def main(argv: list[str] | None = None) -> int:
    args = _arguments(argv)
    options = TritonOptions(
        variant=args.variant,
        backend=args.backend,
        precision=args.precision or {"onnxruntime": "fp32", "tensorrt": "fp16"}[args.backend],
        device=args.device,
        max_batch=args.max_batch,
        instances=args.instances,
        queue_delay_us=args.queue_delay_us,
        only=tuple(args.only),
    )
    try:
        export_repository(
            args.bundle or Path("artifacts") / args.variant,
            options,
            args.resolutions,
            out=args.out,
            version=args.model_version,
        )
    except (ExplainedError, OSError) as err:
        print(f"error: {err}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; every model is whole, the old one or the new one", file=sys.stderr)
        return 130
    return 0


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


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--variant", required=True, type=arguments.variant, metavar="NAME", help=arguments.VARIANT_HELP)
    add("--bundle", type=Path, metavar="FOLDER", help="the bundle (artifacts/VARIANT)")
    add("--out", type=Path, metavar="FOLDER", default=Path("artifacts/triton"), help="the repository (%(default)s)")
    add("--backend", choices=("onnxruntime", "tensorrt"), default="onnxruntime", help="(%(default)s)")
    add("--precision", choices=PRECISION_OPTIONS, help="of the graph (fp32), or of the plans with tensorrt (fp16)")
    add("--resolutions", type=arguments.offered_resolution, nargs="+", metavar="N", help="(all that the bundle offers)")
    add("--max-batch", type=_number(1), metavar="N", help="(the plan's largest; without a plan 64, on the CPU 8)")
    add("--instances", type=_number(1), default=1, metavar="N", help="of each model, on each GPU (%(default)s)")
    add("--device", choices=("gpu", "cpu"), default="gpu", help="(%(default)s)")
    add(
        "--queue-delay-us",
        type=_number(0),
        default=0,
        metavar="N",
        help="how long a request may wait for others while an instance is free (%(default)s)",
    )
    add(
        "--model-version",
        type=_version,
        default="auto",
        metavar="N|next|auto",
        help="auto is the newest if it has the very same model, else the next (%(default)s)",
    )
    add("--only", nargs="+", default=[], metavar="TEXT", help="take only plans with all of these texts in their names")
    args = parser.parse_args(argv)
    if args.backend == "tensorrt" and args.device == "cpu":
        parser.error("--backend tensorrt needs --device gpu")
    return args


def _number(least: int) -> Callable[[str], int]:
    def number(value: str) -> int:
        if not (value.isascii() and value.isdigit() and int(value) >= least):
            raise argparse.ArgumentTypeError(f"{value!r} is not a number of {least} or more")
        return int(value)

    return number


def _version(value: str) -> int | str:
    return value if value in ("next", "auto") else _number(1)(value)


if __name__ == "__main__":
    sys.exit(main())
