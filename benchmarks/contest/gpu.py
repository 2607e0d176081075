"""PyTorch beside this project's engines on a GPU, from pixels in the host's memory to logits there.

`python -m benchmarks.contest.gpu PHOTOS --bundles artifacts --variants crossvit_18_dagger`. Contestants run in
processes of their own, in interleaved rounds. Prints one Markdown table and writes everything as JSON; reports only.
docs/gpu.md says how to cut a run into parts. `--device cpu` rehearses it without a GPU.
"""

import argparse
import itertools
import os
import re
import shlex
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from app.processes.worker import Worker, WorkerDied, WorkerFailed, WorkerHung
from benchmarks import machine
from benchmarks.contest.contest import Rules, WrongWeights, judging, profile, run, setting
from benchmarks.contest.player import Kind, say
from benchmarks.contest.profiles import profile_table
from benchmarks.contest.report import gpu_columns, header, row, table, table_line
from benchmarks.contest.results import Report
from benchmarks.photographs import photographs
from model.spec import RESOLUTIONS, VARIANTS

PYTORCH = {  # source, mode
    "timm-eager": ("timm", "eager"),
    "timm-compile": ("timm", "max-autotune"),
    "module-eager": ("module", "eager"),
    "module-compile": ("module", "max-autotune"),
}
ENGINES = ("tensorrt", "onnxruntime-cuda", "onnxruntime-tensorrt", "openvino", "onnxruntime")
PRECISIONS = ("f32", "fp16", "bf16")
CONTESTANTS = {
    f"{name}-{precision}": Kind(f"{name}-{precision}", factory, (*values, precision))
    for name, factory, values in (
        *((name, "pytorch:PyTorch", values) for name, values in PYTORCH.items()),
        *((name, "engines:Ours", (name,)) for name in ENGINES),
    )
    for precision in PRECISIONS
}
DEFAULT = {
    "cuda": [
        f"{kind}-{precision}"
        for kind in ("timm-eager", "timm-compile", "onnxruntime-cuda", "tensorrt")
        for precision in ("fp16", "bf16")
    ],
    "cpu": ["timm-eager-f32", "timm-eager-bf16", "timm-compile-f32", "onnxruntime-f32", "openvino-f32"],
}


def main(argv: list[str] | None = None) -> int:
    args = _arguments(argv)
    started = time.monotonic()
    # Workers import this package too, wherever they are started.
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(machine.ROOT), os.environ.get("PYTHONPATH")]))
    photos = photographs(args.photos)[: args.images]
    rules = Rules(
        args.batches,
        args.compile_batches,
        args.rounds,
        args.seconds,
        args.calls,
        args.prepare_seconds,
        end=started + 60 * args.minutes,
        reserve=_planned(args, sections=1),
    )
    try:
        with judging(args.device) as referee:
            (device,), _ = referee.call("machine", [], [], seconds=120)
            if "missing" in device:
                print(f"error: {device['missing']}", file=sys.stderr)
                return 1
            report = Report(_facts(device, args, len(photos)))
            if args.profile:
                _profiles(args, rules, photos, referee, report)
            else:
                _contests(args, rules, photos, referee, report)
    except (WrongWeights, OSError) as err:
        print(f"error: {err}", file=sys.stderr)
        return 1
    except (WorkerDied, WorkerFailed, WorkerHung) as err:
        print(f"error: the process that judges the answers failed: {err}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    return 0


def _contests(args: argparse.Namespace, rules: Rules, photos: Sequence[bytes], referee: Worker, report: Report) -> None:
    parts = list(itertools.product(args.variants, args.resolutions))[args.part[0] - 1 :: args.part[1]]
    say(f"measuring alone takes about {_planned(args, len(parts)):.0f} s; loading and compiling come on top")
    columns = gpu_columns(args.batches)
    titles = header(columns)
    print(f"{_title(report)}\n{table(titles, [])}", flush=True)
    for index, (variant, resolution) in enumerate(parts):
        if index and time.monotonic() > rules.end:
            say(f"{variant} at {resolution} and what follows is left out: the run's time was up")
            break
        say(f"{variant} at {resolution}")
        here = setting(args.bundles / variant, resolution, photos, args.weights, args.device, referee)
        try:
            kinds = {name: CONTESTANTS[name] for name in args.contestants}
            run(here, kinds, rules, referee, report, args.json)
        finally:
            for entry in report.sections[-1].entries:
                print(table_line(row(columns, report.sections[-1], entry), len(titles)), flush=True)
    print("\n" + _peaks(report))


def _profiles(args: argparse.Namespace, rules: Rules, photos: Sequence[bytes], referee: Worker, report: Report) -> None:
    print(_title(report))
    found = report.facts["profiles"] = []
    for variant, resolution in itertools.product(args.variants, args.resolutions):
        here = setting(args.bundles / variant, resolution, photos, args.weights, args.device, referee)
        for contestant in args.profile:
            what = f"{variant} at {resolution}, batch {max(args.batches)}, {contestant}"
            profiled = profile(here, contestant, CONTESTANTS[contestant], max(args.batches), rules)
            found.append({"what": what, **profiled})
            print(profile_table(what, profiled), flush=True)
            report.save(args.json)


def _planned(args: argparse.Namespace, sections: int) -> float:
    """Seconds of measuring, without loading; calls that take longer than a round come on top."""
    calls = sum(
        len([batch for batch in args.batches if "compile" not in contestant or batch in args.compile_batches])
        * (1.5 if "timm" in contestant or "module" in contestant else 1)  # those on the device alone
        for contestant in args.contestants
    )
    return float(sections * args.rounds * args.seconds * calls)


def _facts(device: dict[str, Any], args: argparse.Namespace, photos: int) -> dict[str, Any]:
    return {
        "command": shlex.join(["python", "-m", "benchmarks.contest.gpu", *(args.argv)]),
        "device": args.device,
        **device,
        **machine.facts(),
        "photographs": photos,
        "rounds": args.rounds,
        "seconds": args.seconds,
        "began": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def _title(report: Report) -> str:
    facts = report.facts
    where = facts.get("gpu") or f"CPU, a rehearsal: {facts['cores']} cores of {facts['cpu']}"
    driver = f", driver {facts['driver']} (CUDA {facts['cuda_of_driver']})" if "driver" in facts else ""
    versions = ", ".join(f"{package} {found}" for package, found in facts["versions"].items())
    return (
        f"{where}{driver}; Python {facts['python']}, {versions}; commit {facts['commit']}; {facts['began']}\n\n"
        f"`{facts['command']}`\n"
    )


def _peaks(report: Report) -> str:
    peaks = [peak for section in report.sections for peak in section.peaks]
    facts = report.facts
    return (
        f"Medians of {facts['rounds']} interleaved rounds of {facts['seconds']:g} s, the least and the largest in "
        f"brackets; {facts['photographs']} photographs. The bf16 matrix peak, measured before and after each network "
        f"and resolution: {min(peaks):.3g} to {max(peaks):.3g} TFLOP/s."
    )


def _part(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d+)/(\d+)", text)
    if match is None or not 1 <= int(match[1]) <= int(match[2]):
        raise argparse.ArgumentTypeError(f"{text!r} is not a part such as 2/3")
    return int(match[1]), int(match[2])


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.contest.gpu",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("photos", type=Path, help="folder of JPEG files")
    parser.add_argument("--bundles", type=Path, default=Path("artifacts"), help="folder of bundles (artifacts)")
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=["crossvit_18_dagger"], metavar="NAME")
    parser.add_argument("--resolutions", nargs="+", type=int, choices=RESOLUTIONS, default=[224])
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 8, 32, 64, 128, 256])
    parser.add_argument(
        "--contestants", nargs="+", choices=CONTESTANTS, metavar="NAME", help=f"of {', '.join(CONTESTANTS)}"
    )
    parser.add_argument(
        "--compile-batches",
        nargs="+",
        type=int,
        default=[1, 64],
        help="of --batches those that torch.compile gets: each is compiled for minutes (1 64)",
    )
    parser.add_argument("--weights", default="auto", help="as for the export, or a folder of VARIANT.safetensors")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=0.5, help="of one contestant at one batch size in one round")
    parser.add_argument("--calls", type=int, default=300, help="at batch 1, at least, in all rounds together")
    parser.add_argument("--images", type=int, help="take only so many of the photographs")
    parser.add_argument("--prepare-seconds", type=float, default=300, help="longest load, and longest first call")
    parser.add_argument("--minutes", type=float, default=60, help="begin nothing new after that")
    parser.add_argument("--part", type=_part, default=(1, 1), metavar="I/N", help="every N-th network and resolution")
    parser.add_argument(
        "--profile", nargs="+", choices=CONTESTANTS, metavar="NAME", help="slowest kernels, nothing else"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="all that was measured")
    args = parser.parse_args(argv)
    args.argv = sys.argv[1:] if argv is None else argv
    args.contestants = args.contestants or DEFAULT[args.device]
    args.batches = sorted(set(args.batches))
    return args


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a limit from outside: what there is, is printed
    sys.exit(main())
