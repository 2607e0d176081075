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
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks import machine
from benchmarks.cpu import engines, services
from benchmarks.cpu.load import Load, load_of
from benchmarks.cpu.plots import plot_engines, plot_services
from benchmarks.cpu.readme import update
from benchmarks.cpu.report import CpuReport, markdown, summary
from benchmarks.gpu.player import say
from benchmarks.photographs import photographs
from bundle.bundle_errors import BadBundle
from bundle.reader import open_bundle

ROOT = Path(__file__).parents[2]
NETWORKS = ["crossvit_18_dagger", "crossvit_9_dagger"]


@dataclass(frozen=True)
class Preset:
    """What `make bench` and `make bench-full` take, unless an option says otherwise.

    `more_clients` are those of the second network and what follows.
    """

    contestants: Sequence[str]
    engines: engines.Rules
    services: services.Rules
    more_clients: Sequence[int]
    resolutions: tuple[int, ...]


QUICK = Preset(
    [name for name in engines.KINDS if name != "ours-f32"],
    engines.Rules(3, 0.6, [1, 8], [8]),
    services.Rules(2, 3.0, [1, 4, 16, 64], [0.5], 1, once=(64,)),
    [1, 16],
    (224,),
)
FULL = Preset(
    list(engines.KINDS),
    engines.Rules(9, 3.0, [1, 8, 32], [1, 8, 32]),
    services.Rules(5, 15.0, [1, 4, 16, 64], [0.2, 0.5, 0.8], 3),
    [1, 4, 16, 64],
    (224, 384),
)


def main(argv: Sequence[str] | None = None) -> int:
    args = _arguments(argv)
    # Contestants import this package too, wherever they are started.
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    photos = photographs(args.photos)
    try:
        bundles = [args.bundles / name for name in args.networks]
        report = CpuReport(_facts(args, len(photos)))
        _measure(args, bundles, photos, report)
    except (BadBundle, OSError) as err:
        print(f"error: {err}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    text = _written(report, args.out)
    if args.readme is not None:
        update(args.readme, f"{summary(report)}\n{_pictures(report, args.out, args.readme)}")
    print(text)
    return 0


def _measure(args: argparse.Namespace, bundles: list[Path], photos: list[bytes], report: CpuReport) -> None:
    with ExitStack() as stack:
        # First of all: a run without wrk should not find that out at its end.
        load = stack.enter_context(load_of(photos)) if args.services else None
        names = [open_bundle(bundle).manifest.variant for bundle in bundles]
        args.out.mkdir(parents=True, exist_ok=True)
        for bundle, resolution in [(b, r) for r in args.resolutions for b in bundles] if args.engines else []:
            say(f"{bundle.name} at {resolution}, engines")
            started = time.monotonic()
            section = engines.contest(bundle, resolution, photos, args.engines, args.engine_rules)
            report.sections.append(section)
            _done(report, args.out, f"{bundle.name} at {resolution}, engines", started)
        for index, (bundle, name) in enumerate(zip(bundles, names, strict=True)):
            if load is not None:
                rules = replace(args.service_rules, clients=args.more_clients) if index else args.service_rules
                _serve(args, bundle, name, rules, load, report)


def _serve(
    args: argparse.Namespace, bundle: Path, name: str, rules: services.Rules, load: Load, report: CpuReport
) -> None:
    say(f"{name}, services")
    started = time.monotonic()
    report.services.append(services.contest(bundle, name, args.services, rules, load))
    _done(report, args.out, f"{name}, services", started)


def _done(report: CpuReport, out: Path, what: str, started: float) -> None:
    seconds = round(time.monotonic() - started, 1)
    report.facts["stage_seconds"][what] = seconds
    report.save(out / "results.json")  # whatever becomes of the rest
    say(f"{what}: {seconds} s")


def _written(report: CpuReport, out: Path) -> str:
    report.save(out / "results.json")
    text = markdown(report)
    (out / "table.md").write_text(text)
    if any(entry.rounds for section in report.sections for entry in section.entries):
        plot_engines(report.sections, out / "engines.png")
    if report.services:
        plot_services(report.services, out / "services.png")
    return text


def _pictures(report: CpuReport, out: Path, readme: Path) -> str:
    folder = os.path.relpath(out, readme.parent)
    names = [name for name, there in (("engines", report.sections), ("services", report.services)) if there]
    lines = [f"![{name}]({folder}/{name}.png)" for name in names]
    return "\n".join(
        [
            *lines,
            f"\nEvery batch size and number of clients, latency and memory: [{folder}/table.md]({folder}/table.md).",
        ]
    )


def _facts(args: argparse.Namespace, photos: int) -> dict[str, object]:
    return {
        "command": args.command or shlex.join(["python", "-m", "benchmarks.cpu", *args.argv]),
        **machine.facts(),
        "photographs": photos,
        "rounds": f"{args.engine_rules.rounds} (engines, {args.engine_rules.seconds:g} s each) and "
        f"{args.service_rules.rounds} (services, {args.service_rules.seconds:g} s each)",
        "began": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "load": os.getloadavg()[0],
        "stage_seconds": {},
    }


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.cpu", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--full", action="store_true", help="more rounds, batch 32 and side 384 too; over an hour")
    parser.add_argument("--photos", type=Path, default=ROOT / "export" / "data" / "photos", help="folder of JPEG files")
    parser.add_argument("--bundles", type=Path, default=ROOT / "artifacts", help="folder of bundles (artifacts)")
    parser.add_argument("--networks", nargs="+", default=NETWORKS, metavar="NAME", help="bundles in that folder")
    parser.add_argument("--resolutions", nargs="+", type=int, help="of the engines (224; with --full 384 too)")
    parser.add_argument("--engines", nargs="*", choices=engines.KINDS, metavar="NAME",
                        help=f"of {', '.join(engines.KINDS)} (without --full all but ours-f32)")  # fmt: skip
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
    args.engine_rules = engines.Rules(
        args.rounds or preset.engines.rounds,
        args.seconds or preset.engines.seconds,
        sorted(set(args.batches or preset.engines.batches)),
        args.batches or preset.engines.compile_batches,
    )
    args.service_rules = services.Rules(
        args.rounds or preset.services.rounds,
        args.seconds or preset.services.seconds,
        sorted(set(args.clients or preset.services.clients)),
        preset.services.shares,
        min(args.rounds or preset.services.fixed_rounds, preset.services.fixed_rounds),
        () if args.rounds else preset.services.once,
    )
    args.more_clients = args.service_rules.clients if args.clients else preset.more_clients
    return args


if __name__ == "__main__":
    sys.exit(main())
