"""How faithful explanations are: `python -m benchmarks.explanations DATA --bundle BUNDLE --weights FILE`.

For images of DATA, and the class that the network holds for the best, the areas under deletion and insertion curves
(benchmarks/pixel_flipping.py) of contributions and attention, as the bundle's inspection graph gives them, of attention
rollout in PyTorch, and of random maps. OUT/explanations.json gets each image at once; a stopped run, or one of more
images, continues from it. With `--write` a Markdown file gets the table, and OUT/explanations.png is the plot; reports
only.
"""

import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd
import torch
import typer
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from app.commands.evaluate.evaluation import sample
from benchmarks.accuracy import content
from benchmarks.command_line import BundlePath, run
from benchmarks.contest.readme import update
from benchmarks.machine import line as machine
from benchmarks.markdown import table
from benchmarks.pixel_flipping import STEPS, Curves, Maps, area, curves, spread_over_pixels
from benchmarks.rollout import rollout
from benchmarks.views import plain
from bundle.file_names import INSPECTION, MODEL
from bundle.inspection import INSPECTION_OUTPUTS
from bundle.reader import Bundle, open_bundle
from export.graphs.served_network import OnPixels
from export.measurement.onnx_sessions import inspection_session, onnxruntime_session
from model.dataset import Dataset
from model.loaded_network import load_network
from model.spec import VARIANTS

Z_95 = 1.959964  # of the normal distribution, two-sided
BRANCHES = ("small", "large")
CURVES = {"deletion": "lower is better", "insertion": "higher is better"}
RANDOM = "random"

Inspect = Callable[[NDArray[np.uint8]], tuple[int, Maps]]
Results = dict[str, dict[str, Curves]]  # by image and by map


def explanations(
    data: Annotated[list[Path], typer.Argument(help="folders, zip files or WebDataset's tar files")],
    bundle: BundlePath,
    weights: Annotated[Path, typer.Option(help="what the bundle was made from, for rollout in PyTorch")],
    limit: Annotated[int, typer.Option(min=2, help="so many images")] = 100,
    out: Path = Path("artifacts/explanations"),
    write: Annotated[Path | None, typer.Option(help="a Markdown file with the markers that README.md has")] = None,
) -> None:
    """Compare the maps of explanations by deletion and insertion."""
    opened = open_bundle(bundle)
    out.mkdir(parents=True, exist_ok=True)
    file, of = out / "explanations.json", f"{opened.hash}, {content(data)}"
    kept = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    results: Results = kept["images"] if kept.get("of") == of else {}  # those of other data are let go
    dataset = Dataset(data)
    inspect, answer = inspector(opened, weights), onnxruntime_session(bundle / MODEL)
    steps = opened.manifest.preprocessing[opened.manifest.default_resolution]
    for index in sample(len(dataset), None)[:limit]:
        name = f"{dataset.items[index].category}/{dataset.items[index].name}"
        if name in results:
            continue
        print(f"{name} …", file=sys.stderr, flush=True)
        pixels = plain(dataset.read(index), steps)
        best, maps = inspect(pixels)
        results[name] = curves(pixels, maps, best, answer)
        file.write_text(json.dumps({"of": of, "machine": machine(), "images": results}) + "\n", encoding="utf-8")
    text = f"{machine()}; {len(results)} images\n\n{table(summary(results))}\n"
    print(text)
    plot(results, out / "explanations.png")
    if write:
        update(write, text)


def inspector(bundle: Bundle, weights: Path) -> Inspect:
    """Gives an image's best class, and all maps of it."""
    run_graph = inspection_session(bundle.path / INSPECTION)
    network = load_network(weights, VARIANTS[bundle.manifest.variant])
    on_pixels, rng = OnPixels(network), np.random.default_rng(0)

    def inspect(pixels: NDArray[np.uint8]) -> tuple[int, Maps]:
        images, side = np.array(pixels[None]), len(pixels)
        (logits, *_) = run_graph(images, np.zeros((1, 1), np.int64))
        best = logits.argmax(axis=1)
        outputs = dict(zip(INSPECTION_OUTPUTS, run_graph(images, best[:, None]), strict=True))
        with torch.inference_mode():
            rolled = rollout(network, on_pixels.normalized(torch.from_numpy(images)))
        contributions = [outputs[f"contributions_{branch}"][0, 0] for branch in BRANCHES]
        attention = [outputs[f"attention_{branch}"][0] for branch in BRANCHES]
        grids = {
            "contributions, S": contributions[:1],
            "contributions, L": contributions[1:],
            "contributions, both": contributions,
            "attention of the last fusion, both": attention,
            "attention rollout, both": [grid[0].numpy() for grid in rolled],
            RANDOM: [rng.random(attention[1].shape, np.float32)],
        }
        return int(best[0]), {name: spread_over_pixels(of_branches, side) for name, of_branches in grids.items()}

    return inspect


def areas(results: Results, curve: str) -> pd.DataFrame:
    """The area under `curve`, a row for each image, a column for each map."""
    return pd.DataFrame({
        image: {shown: area(found[curve]) for shown, found in maps.items()} for image, maps in results.items()
    }).T  # fmt: skip


def summary(results: Results) -> pd.DataFrame:
    """A row for each map: the mean areas, and their differences from random maps' on the same images."""
    columns: dict[str, Mapping[str, str]] = {}
    for curve, better in CURVES.items():
        of_images = areas(results, curve)
        differences = of_images.sub(of_images[RANDOM], axis=0).drop(columns=RANDOM)
        columns[f"{curve}, {better}"] = of_images.mean().map("{:.3f}".format)
        columns[f"{curve}, from random"] = differences.apply(with_interval)
    both = areas(results, "insertion") - areas(results, "deletion")
    columns["insertion less deletion"] = both.mean().map("{:.3f}".format)
    rows = pd.DataFrame(columns).reindex(next(iter(results.values())))
    return rows.rename_axis("map").reset_index()


def with_interval(values: "pd.Series[float]") -> str:
    """The mean with its 95 % interval."""
    return f"{values.mean():+.3f} ± {Z_95 * values.std() / len(values) ** 0.5:.3f}"


def plot(results: Results, path: Path) -> None:
    """The mean curves of all maps."""
    figure = Figure(figsize=(12, 4.8))
    FigureCanvasAgg(figure)
    shares = np.linspace(0, 100, STEPS + 1)
    for number, (curve, better) in enumerate(CURVES.items()):
        panel = figure.add_subplot(1, 2, number + 1)
        for shown in next(iter(results.values())):
            values = np.mean([maps[shown][curve] for maps in results.values()], axis=0)
            panel.plot(shares, values, "--" if shown == RANDOM else "-", label=shown)
        panel.set(xlabel=f"% of pixels, {curve}", ylabel="score of the best class, mean", title=f"{curve}: {better}")
        panel.grid(visible=True, alpha=0.3)
        panel.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=110, metadata={"Software": None})


if __name__ == "__main__":
    run(explanations, program="benchmarks.explanations")
