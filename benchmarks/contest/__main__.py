"""The command line of the contest."""

import os
import shlex
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from benchmarks import machine
from benchmarks.contest import engine_contest, reference, services
from benchmarks.contest.plots import plot_engines, plot_services
from benchmarks.contest.readme import update
from benchmarks.contest.results import Results
from benchmarks.contest.tables import markdown, summary
from benchmarks.machine import ROOT
from benchmarks.photographs import photographs
from bundle.bundle_errors import BadBundle
from bundle.reader import open_bundle
from model.command_line import failures, new_app, run_command

T = TypeVar("T", int, float, str)

main = new_app()

Networks = Annotated[list[Path], typer.Argument(help="bundles")]
Photos = Annotated[Path, typer.Option(help="folder of JPEG files")]
Weights = Annotated[str, typer.Option(help="as for the export, or a folder of VARIANT.safetensors")]
Device = Annotated[str, typer.Option(help="PyTorch's: cpu, which also rehearses a run for a GPU, or cuda")]
Rounds = Annotated[int, typer.Option(min=1)]
Seconds = Annotated[float, typer.Option(help="of a round at one batch size, or of one load")]
Out = Annotated[Path, typer.Option(help="folder of results.json, which gets what is measured added")]

PHOTOS = ROOT / "export" / "data" / "photos"
PREPARE_SECONDS = 600.0


@main.command()
def engines(
    networks: Networks,
    photos: Photos = PHOTOS,
    weights: Weights = "auto",
    device: Device = "cpu",
    contestants: Annotated[
        str, typer.Option(help=f"of {', '.join(engine_contest.KINDS)}; by default those of the device")
    ] = "",
    resolutions: str = "224",
    batches: str = "1,8",
    compile_batches: Annotated[str, typer.Option(help="of --batches those that torch.compile gets")] = "8",
    rounds: Rounds = 3,
    seconds: Seconds = 0.6,
    calls: Annotated[int, typer.Option(help="at batch 1, at least, in all rounds together")] = 0,
    prepare_seconds: Annotated[float, typer.Option(help="longest load, and longest first call")] = PREPARE_SECONDS,
    minutes: Annotated[float, typer.Option(help="begin nothing new after that")] = 600,
    profile: Annotated[
        str, typer.Option(help="contestants whose time at the largest batch is looked into; nothing is measured")
    ] = "",
    out: Out = ROOT / "docs" / "bench",
) -> None:
    """Measure engines beside PyTorch and the runtimes, in interleaved rounds: from pixels to logits."""
    names = numbers(contestants or ",".join(engine_contest.ON_GPU if device == "cuda" else engine_contest.ON_CPU), str)
    sizes, sides = sorted(numbers(batches, int)), numbers(resolutions, int)
    measuring = rounds * seconds * len(names) * len(sizes)
    end = time.monotonic() + 60 * minutes
    rules = engine_contest.Rules(
        sizes, numbers(compile_batches, int), rounds, seconds, calls, prepare_seconds, end, reserve=measuring
    )
    with stopped_clearly():
        bodies = photographs(photos)
        results, save = begun(out, weights, networks, rounds, seconds, len(bodies), reference.device_facts(device))
        engine_contest.say(f"measuring takes {measuring:.0f} s for each network and resolution, beside loading")
        for network in networks:
            for resolution in sides:
                if time.monotonic() > end:
                    engine_contest.say(f"{network} at {resolution} is left out: the time was up")
                    continue
                engine_contest.say(f"{network.name} at {resolution}")
                task, pixels = engine_contest.task_of(network, resolution, weights, device, bodies)
                if not profile:
                    engine_contest.run(task, pixels, names, rules, results, save)
                for name in numbers(profile, str):
                    print(f"{network.name} at {resolution}, batch {sizes[-1]}, {name}\n")
                    print(engine_contest.profile(task, pixels, name, sizes[-1], rules))


@main.command(name="services")
def services_command(
    networks: Networks,
    photos: Photos = PHOTOS,
    weights: Weights = "auto",
    contestants: Annotated[str, typer.Option(help="services")] = ",".join(services.PEERS),
    clients: Annotated[str, typer.Option(help="of the closed loop")] = "1,4,16,64",
    shares: Annotated[str, typer.Option(help="rates, as shares of the most that this service answers")] = "0.5",
    rounds: Rounds = 2,
    seconds: Seconds = 3,
    out: Out = ROOT / "docs" / "bench",
) -> None:
    """Measure services over HTTP, in interleaved rounds: JPEG photographs as forms, at 224."""
    with stopped_clearly():
        bodies = photographs(photos)
        results, save = begun(out, weights, networks, rounds, seconds, len(bodies), {})
        for network in networks:
            engine_contest.say(f"{network.name}, services")
            variant = open_bundle(network).manifest.variant
            path, _ = reference.weights_of(weights, variant)
            names, counts, rates = numbers(contestants, str), numbers(clients, int), numbers(shares, float)
            services.run(network, variant, path, names, bodies, counts, rates, rounds, seconds, results)
            save()


@main.command()
def report(
    out: Out = ROOT / "docs" / "bench",
    readme: Annotated[Path | None, typer.Option(help="put a summary between this file's markers too")] = None,
) -> None:
    """Write OUT/table.md, engines.png and services.png of OUT/results.json, and print the tables."""
    results = Results.read(out / "results.json")
    (out / "table.md").write_text(markdown(results))
    plots = {"engines": plot_engines if results.calls else None, "services": plot_services if results.loads else None}
    for name, plot in plots.items():
        if plot is not None:
            plot(results, out / f"{name}.png")
    if readme is not None:
        folder = os.path.relpath(out, readme.parent)
        pictures = "\n".join(f"![{name}]({folder}/{name}.png)" for name, plot in plots.items() if plot)
        table = f"[{folder}/table.md]({folder}/table.md)"
        more = f"Every batch size and number of clients, latency and memory: {table}."
        update(readme, "\n\n".join([summary(results), pictures, more]))
    print(markdown(results))


def begun(
    out: Path, weights: str, networks: list[Path], rounds: int, seconds: float, photos: int, more: dict[str, str]
) -> tuple[Results, Callable[[], None]]:
    """The results so far, with how this run was measured; and what saves them."""
    # Contestants import this package too, wherever they are started.
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    out.mkdir(parents=True, exist_ok=True)
    file = out / "results.json"
    results = Results.read(file)
    variants = [open_bundle(network).manifest.variant for network in networks]
    run: dict[str, Any] = {
        "command": shlex.join(["python", "-m", "benchmarks.contest", *sys.argv[1:]]),
        "began": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "load": os.getloadavg()[0],
        "weights": {variant: reference.weights_of(weights, variant)[1] for variant in variants},
        "photographs": photos,
        "rounds": rounds,
        "seconds": seconds,
    }
    results.runs.append(run | more | machine.facts())
    return results, lambda: results.save(file)


def stopped_clearly() -> Any:
    kinds = (BadBundle, engine_contest.WrongWeights, OSError, RuntimeError)
    return failures(kinds, lambda: "what was measured is in results.json")


def numbers(text: str, kind: type[T]) -> list[T]:
    """The values that `text` lists, separated by commas."""
    try:
        return [kind(part) for part in text.split(",") if part]
    except ValueError as err:
        raise typer.BadParameter(str(err)) from err


if __name__ == "__main__":
    sys.exit(run_command(main, program="python -m benchmarks.contest"))
