"""The command line of the contest."""

import os
import shlex
import sys
import time
from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from typing import Annotated, TypeVar

import typer

from benchmarks import machine
from benchmarks.command_line import run
from benchmarks.contest import engine_contest, reference, service_contest
from benchmarks.contest.plots import plot_engines, plot_services
from benchmarks.contest.readme import update
from benchmarks.contest.results import Results
from benchmarks.contest.tables import markdown, summary
from benchmarks.machine import ROOT
from benchmarks.photographs import photographs
from bundle.reader import open_bundle

T = TypeVar("T", int, float, str)

Networks = Annotated[list[Path], typer.Argument(help="bundles")]
Photos = Annotated[Path, typer.Option(help="folder of JPEG files")]
Weights = Annotated[str, typer.Option(help="as for the export, or a folder of VARIANT.safetensors")]
Rounds = Annotated[int, typer.Option(min=1)]
Seconds = Annotated[float, typer.Option(help="of a round at one batch size, or of one load")]
Out = Annotated[Path, typer.Option(help="folder of results.json, which gets what is measured added")]

PHOTOS, OUT = ROOT / "export" / "data" / "photos", Path("artifacts/bench")


def engines(
    networks: Networks,
    photos: Photos = PHOTOS,
    weights: Weights = "auto",
    device: Annotated[str, typer.Option(help="PyTorch's: cpu, which also rehearses a run on a GPU, or cuda")] = "cpu",
    contestants: Annotated[
        str, typer.Option(help=f"by default the device's, of {', '.join(engine_contest.KINDS)}")
    ] = "",
    resolutions: str = "224",
    batches: str = "1,8",
    compile_batches: Annotated[str, typer.Option(help="those that torch.compile gets")] = "8",
    rounds: Rounds = 3,
    seconds: Seconds = 0.6,
    minutes: Annotated[float, typer.Option(help="begin nothing new after that")] = 600,
    profile: Annotated[str, typer.Option(help="measure nothing, but show where the time of these goes")] = "",
    out: Out = OUT,
) -> None:
    """Measure engines beside PyTorch and the runtimes, in interleaved rounds: from pixels to logits."""
    end = time.monotonic() + 60 * minutes
    names = listed(contestants or ",".join(engine_contest.ON_GPU if device == "cuda" else engine_contest.ON_CPU), str)
    check_known([*names, *listed(profile, str)], engine_contest.KINDS)
    sizes = sorted(listed(batches, int))
    compiled = [size for size in listed(compile_batches, int) if size in sizes]
    measuring = rounds * seconds * len(names) * len(sizes)
    rules = engine_contest.Rules(sizes, compiled, rounds, seconds, end, reserve=measuring)
    gpu = reference.gpu_name(device)
    bodies = photographs(photos)
    results, save = begun(
        out, weights, networks, {"gpu": gpu, "rounds": rounds, "seconds": seconds, "photographs": len(bodies)}
    )
    engine_contest.say(f"measuring takes {measuring:.0f} s for each network and resolution, beside loading")
    for network, resolution in ((network, side) for network in networks for side in listed(resolutions, int)):
        engine_contest.say(f"{network.name} at {resolution}")
        if time.monotonic() > end:
            engine_contest.say("it is left out: the time was up")
            continue
        task, pixels = engine_contest.task_of(network, resolution, weights, device, bodies)
        if not profile:
            engine_contest.run(task, pixels, names, rules, results, save)
        for name in listed(profile, str):
            found = engine_contest.profile(task, pixels, name, rules)
            print(f"{network.name} at {resolution}, batch {sizes[-1]}, {name}\n\n{found}", flush=True)


def services(
    networks: Networks,
    photos: Photos = PHOTOS,
    weights: Weights = "auto",
    contestants: str = ",".join(service_contest.PEERS),
    clients: Annotated[str, typer.Option(help="of the closed loop")] = "1,4,16,64",
    shares: Annotated[str, typer.Option(help="rates, as shares of the most that this service answers")] = "0.5",
    rounds: Rounds = 2,
    seconds: Seconds = 3,
    out: Out = OUT,
) -> None:
    """Measure services over HTTP, in interleaved rounds: JPEG photographs as forms, at 224."""
    names = listed(contestants, str)
    check_known(names, service_contest.PEERS)
    bodies = photographs(photos)
    results, save = begun(out, weights, networks, {"rounds": rounds, "seconds": seconds, "photographs": len(bodies)})
    plan = service_contest.Plan(listed(clients, int), listed(shares, float), rounds, seconds)
    for network in networks:
        engine_contest.say(f"{network.name}, services")
        task, _ = engine_contest.task_of(network, 224, weights, "cpu", bodies[:1])  # PyTorch gets the bundle's weights
        service_contest.run(network, task.variant, task.weights, names, bodies, plan, results)
        save()


def report(
    out: Out = OUT,
    readme: Annotated[Path | None, typer.Option(help="put a summary between this file's markers too")] = None,
) -> None:
    """Write OUT/table.md, engines.png and services.png of OUT/results.json, and print the tables."""
    results = Results.read(out / "results.json")
    if not (results.entries or results.services):
        raise ValueError(f"{out / 'results.json'} has nothing that was measured")
    plots = {"engines": plot_engines if results.calls else None, "services": plot_services if results.loads else None}
    for name, plot in plots.items():
        if plot is not None:
            plot(results, out / f"{name}.png")
    text = markdown(results)
    (out / "table.md").write_text(text)
    print(text)
    if readme is not None:
        folder = os.path.relpath(out, readme.parent)
        pictures = "\n".join(f"![{name}]({folder}/{name}.png)" for name, plot in plots.items() if plot)
        more = f"Every batch size and number of clients, latency and memory: [{folder}/table.md]({folder}/table.md)."
        update(readme, "\n\n".join([summary(results), pictures, more]))


def begun(out: Path, weights: str, networks: list[Path], how: dict[str, object]) -> tuple[Results, Callable[[], None]]:
    """The results so far, with how this run is made; and what saves them."""
    # Contestants import this package too, wherever they are started.
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    out.mkdir(parents=True, exist_ok=True)
    results = Results.read(out / "results.json")
    variants = [open_bundle(network).manifest.variant for network in networks]
    if len(set(variants)) < len(variants):
        raise ValueError(f"the bundles are of {', '.join(variants)}: results have one of each variant")
    command = shlex.join(["python", "-m", "benchmarks.contest", *sys.argv[1:]])
    results.runs = [run for run in results.runs if run["command"] != command]  # this one takes its place
    what = {
        "command": command,
        "began": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "load": os.getloadavg()[0],
        "weights": {variant: reference.weights_of(weights, variant)[1] for variant in variants},
    }
    results.runs.append(what | how | machine.facts())
    return results, lambda: results.save(out / "results.json")


def listed(text: str, kind: type[T]) -> list[T]:
    """The values in `text`, separated by commas, each once. ValueError for what is no such value, or not over 0."""
    values = list(dict.fromkeys(kind(part) for part in text.split(",") if part))
    if any(not isinstance(value, str) and value <= 0 for value in values):
        raise ValueError(f"{text} has a number that is not over 0")
    return values


def check_known(names: Iterable[str], known: Collection[str]) -> None:
    """Raise ValueError for contestants that do not exist."""
    unknown = sorted(set(names) - set(known))
    if unknown:
        raise ValueError(f"no contestant is called {', '.join(unknown)}; they are {', '.join(known)}")


if __name__ == "__main__":
    run(engines, services, report, program="benchmarks.contest")
