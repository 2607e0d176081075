"""This service and its engine beside the usual alternatives on a CPU: `make bench`, `make bench-full`.

Contestants run at once and are called in interleaved rounds, so that the machine's drift affects all alike. Results go
to --out: results.json (after each round), table.md, engines.png and services.png; with --readme a summary also goes
between the markers of that file. It reports, and asserts nothing.
"""

import argparse
import os
import shlex
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from app.processes.worker import Worker, WorkerDied, WorkerFailed, WorkerHung
from benchmarks import machine
from benchmarks.contest import services
from benchmarks.contest.contest import Rules, WrongWeights, judging, run, setting
from benchmarks.contest.player import Kind, say
from benchmarks.contest.plots import plot_engines, plot_services
from benchmarks.contest.readme import update
from benchmarks.contest.report import markdown, summary, weights_caption
from benchmarks.contest.results import Report
from benchmarks.machine import ROOT
from benchmarks.photographs import files_in
from bundle.bundle_errors import BadBundle
from bundle.reader import open_bundle

NETWORKS = ["crossvit_18_dagger", "crossvit_9_dagger"]
TORCH, OURS = "pytorch:PyTorch", "engines:Ours"
KINDS = {
    "eager": Kind("PyTorch eager f32", TORCH, ("timm", "eager", "f32")),
    "autocast": Kind("PyTorch bf16 autocast", TORCH, ("timm", "autocast", "f32")),
    "compile": Kind("torch.compile f32", TORCH, ("timm", "compile", "f32")),
    "compile-bf16": Kind("torch.compile bf16, weights frozen", TORCH, ("timm", "freeze", "bf16")),
    "onnxruntime": Kind("ONNX Runtime as it comes", "engines:OnnxRuntime"),
    "openvino": Kind("OpenVINO as it comes", "engines:OpenVino"),
    "ours": Kind("this project's engine, precision auto", OURS, ("auto", "auto")),
    "ours-f32": Kind("this project's engine, f32", OURS, ("auto", "f32")),
    "ours-int8": Kind("this project's engine, int8", OURS, ("auto", "int8")),
}


@dataclass(frozen=True)
class Preset:
    """What `make bench` and `make bench-full` take, unless an option says otherwise.

    `more_clients` are those of each closed round of the second network and what follows.
    """

    contestants: Sequence[str]
    engines: Rules
    services: services.Schedule
    more_clients: Sequence[Sequence[int]]
    resolutions: tuple[int, ...]


QUICK = Preset(
    [name for name in KINDS if name != "ours-f32"],
    Rules([1, 8], [8], rounds=3, seconds=0.6),
    services.Schedule(3.0, [(1, 4, 16, 64), (1, 4, 16)], [[0.5]]),
    [(1, 16)] * 2,
    (224,),
)
FULL = Preset(
    list(KINDS),
    Rules([1, 8, 32], [1, 8, 32], rounds=9, seconds=3.0),
    services.Schedule(15.0, [(1, 4, 16, 64)] * 5, [(0.2, 0.5, 0.8)] * 3),
    [(1, 4, 16, 64)] * 5,
    (224, 384),
)


def main(argv: Sequence[str] | None = None) -> int:
    args = _arguments(argv)
    # Contestants import this package too, wherever they are started.
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    photos = files_in(args.photos)
    report = Report(_facts(args, len(photos)))
    try:
        args.out.mkdir(parents=True, exist_ok=True)
        with judging("cpu") as referee:
            weights = _weights(args, referee, report)
            if args.engines:
                _engines(args, photos, referee, report)
        for index, bundle in enumerate(args.networks if args.services else []):
            rounds = args.more_clients if index else args.schedule.closed
            with _stage(report, args.out, f"{bundle}, services"):
                schedule = replace(args.schedule, closed=rounds)
                here = args.bundles / bundle, *weights[bundle]
                report.services.append(services.contest(*here, args.services, photos, schedule))
    except (BadBundle, WrongWeights, OSError) as err:
        print(f"error: {err}", file=sys.stderr)
        return 1
    except (WorkerDied, WorkerFailed, WorkerHung) as err:
        print(f"error: the process that judges the answers failed: {err}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    text = _written(report, args.out)
    if args.readme is not None:
        update(args.readme, f"{summary(report)}\n{_pictures(report, args.out, args.readme)}")
    print(text)
    return 0


def _weights(args: argparse.Namespace, referee: Worker, report: Report) -> dict[str, tuple[str, str]]:
    """The variant of each bundle and where its weights are; the report gets their identifiers."""
    found = {}
    for name in args.networks:
        with closing(open_bundle(args.bundles / name)) as bundle:
            variant = bundle.manifest.variant
        (path, report.facts["weights"][variant]), _ = referee.call("weights", [args.weights, variant], [], seconds=600)
        found[name] = variant, path
    say(weights_caption(report))
    return found


def _engines(args: argparse.Namespace, photos: Sequence[Path], referee: Worker, report: Report) -> None:
    contents = [file.read_bytes() for file in photos]
    kinds = {name: KINDS[name] for name in args.engines}
    for resolution in args.resolutions:
        for bundle in args.networks:
            with _stage(report, args.out, f"{bundle} at {resolution}, engines"):
                here = setting(args.bundles / bundle, resolution, contents, args.weights, "cpu", referee)
                run(here, kinds, args.rules, referee, report, args.out / "results.json")


@contextmanager
def _stage(report: Report, out: Path, what: str) -> Iterator[None]:
    say(what)
    started = time.monotonic()
    yield
    report.facts["stage_seconds"][what] = round(time.monotonic() - started, 1)
    report.save(out / "results.json")  # whatever becomes of the rest
    say(f"{what}: {report.facts['stage_seconds'][what]} s")


def _written(report: Report, out: Path) -> str:
    report.save(out / "results.json")
    text = markdown(report)
    (out / "table.md").write_text(text)
    if any(entry.rounds for section in report.sections for entry in section.entries):
        plot_engines(report.sections, out / "engines.png")
    if report.services:
        plot_services(report.services, out / "services.png")
    return text


def _pictures(report: Report, out: Path, readme: Path) -> str:
    folder = os.path.relpath(out, readme.parent)
    names = [name for name, there in (("engines", report.sections), ("services", report.services)) if there]
    pictures = "\n".join(f"![{name}]({folder}/{name}.png)" for name in names)
    table = f"[{folder}/table.md]({folder}/table.md)"
    return f"{pictures}\n\nEvery batch size and number of clients, latency and memory: {table}."


def _facts(args: argparse.Namespace, photos: int) -> dict[str, object]:
    return {
        "command": args.command or shlex.join(["python", "-m", "benchmarks.contest.cpu", *args.argv]),
        **machine.facts(),
        "photographs": photos,
        "rounds": f"{args.rules.rounds} (engines, {args.rules.seconds:g} s each) and "
        f"{len(args.schedule.closed)} (services, {args.schedule.seconds:g} s each)",
        "began": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "load": os.getloadavg()[0],
        "weights": {},
        "stage_seconds": {},
    }


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.contest.cpu",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--full", action="store_true", help="more rounds, batch 32 and side 384 too; over an hour")
    parser.add_argument("--photos", type=Path, default=ROOT / "export" / "data" / "photos", help="folder of JPEG files")
    parser.add_argument("--bundles", type=Path, default=ROOT / "artifacts", help="folder of bundles (artifacts)")
    parser.add_argument("--networks", nargs="+", default=NETWORKS, metavar="NAME", help="bundles in that folder")
    parser.add_argument("--weights", default="auto", help="as for the export, or a folder of VARIANT.safetensors")
    parser.add_argument("--resolutions", nargs="+", type=int, help="of the engines (224; with --full 384 too)")
    parser.add_argument("--engines", nargs="*", choices=KINDS, metavar="NAME",
                        help=f"of {', '.join(KINDS)} (without --full all but ours-f32)")  # fmt: skip
    parser.add_argument("--services", nargs="*", choices=services.PEERS, default=list(services.PEERS), metavar="NAME",
                        help=f"of {', '.join(services.PEERS)}")  # fmt: skip
    parser.add_argument("--batches", nargs="+", type=int, help="of the engines")
    parser.add_argument("--clients", nargs="+", type=int, help="of the closed loop")
    parser.add_argument("--rounds", type=int, help="of engines and services alike")
    parser.add_argument("--seconds", type=float, help="of a round, of engines and services alike")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "bench", help="folder of what is written")
    parser.add_argument("--readme", type=Path, help="put a summary between this file's markers too")
    parser.add_argument("--command", help="what the report gives as its command (make bench)")
    args = parser.parse_args(argv)
    args.argv = sys.argv[1:] if argv is None else list(argv)
    preset = FULL if args.full else QUICK
    args.engines = list(preset.contestants) if args.engines is None else args.engines
    args.resolutions = args.resolutions or list(preset.resolutions)
    args.rules = Rules(
        sorted(set(args.batches or preset.engines.batches)),
        args.batches or preset.engines.compile_batches,
        args.rounds or preset.engines.rounds,
        args.seconds or preset.engines.seconds,
    )

    def closed(rounds: Sequence[Sequence[int]]) -> list[Sequence[int]]:
        clients = sorted(set(args.clients or rounds[0]))
        return [clients] * (args.rounds or len(rounds)) if args.clients or args.rounds else list(rounds)

    preset_services = preset.services
    args.schedule = services.Schedule(
        args.seconds or preset_services.seconds, closed(preset_services.closed), preset_services.fixed[: args.rounds]
    )
    args.more_clients = closed(preset.more_clients)
    return args


if __name__ == "__main__":
    sys.exit(main())
