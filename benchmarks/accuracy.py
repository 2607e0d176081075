"""The cost of precision, resolution and preprocessing: `python -m benchmarks.accuracy DATA --bundle BUNDLE`.

A row is a run of `crossvit evaluate` on all images of DATA, with its command. PyTorch (with `--weights`, those of the
bundle) and the graph in fp16, which serves on GPUs, run in this process on the same pixels.
`--other` is a bundle of the same weights with the released code's preprocessing. With `--views` the rows are ways
to see the images (benchmarks/views.py), all answered by ONNX Runtime in float32. OUT/results.json gets each row
at once, and a stopped run continues from it. A second table compares the precisions with what the export measured of
them. With `--write` a Markdown file gets the table; reports only.
"""

import json
import math
import shlex
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from functools import cache, partial
from io import BytesIO
from multiprocessing import get_context
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import onnxruntime
import pandas as pd
import torch
import typer
from numpy.typing import NDArray
from PIL import Image

from app.commands.evaluate.accuracy import PredictionTable
from app.commands.evaluate.bundle_source import image_prediction
from app.commands.evaluate.class_mapping import match_classes
from app.commands.evaluate.evaluation import sample
from app.engines.engine_process.measured_agreement import measured_agreement
from benchmarks.command_line import BundlePath, run
from benchmarks.contest.readme import update
from benchmarks.machine import line as machine
from benchmarks.markdown import table
from benchmarks.views import Decode, plain, views
from bundle.agreement import Agreement
from bundle.class_labels import ClassLabel
from bundle.reader import Bundle, open_bundle
from bundle.tensors import INPUT, OUTPUTS
from export.graphs.served_network import Served
from model.dataset import Dataset
from model.loaded_network import load_network
from model.spec import VARIANTS
from tests.support.servers import crossvit_serve

BATCH = 16
Z_95 = 1.959964  # of the normal distribution, two-sided
ENLARGED_SIDE = 1024  # shorter side in pixels: twice 512, from where on a JPEG is decoded smaller
# As a row's command names what there is under another name.
ENLARGED = ".enlarged.jpg"
URL, LARGE, PLOT = "http://127.0.0.1:8000", "enlarged.zip", "reliability.png"

Infer = Callable[[NDArray[np.uint8]], NDArray[np.float32]]  # images (B, side, side, 3) to logits (outputs, B, classes)
Report = dict[str, Any]


@dataclass(frozen=True)
class Row:
    """A line of the table: the command that gives it, or what runs here at the bundle's own resolution, and on what."""

    name: str
    command: list[str]
    infer: Callable[[], Infer] | None = None
    decode: Decode = plain
    measured: Agreement | None = None  # at the export


@dataclass(frozen=True)
class Options:
    """What is compared, as the options of `accuracy` say."""

    data: list[Path]
    bundle: Path
    weights: Path | None
    other: Path | None
    limit: int | None
    out: Path


def accuracy(
    data: Annotated[list[Path], typer.Argument(help="folders, zip files or WebDataset's tar files")],
    bundle: BundlePath,
    weights: Annotated[Path | None, typer.Option(help="what the bundle was made from, for PyTorch's row")] = None,
    other: Annotated[Path | None, typer.Option(help="a bundle of them exported with --preprocess 224:274/240")] = None,
    seen: Annotated[bool, typer.Option("--views", help="the rows are ways to see the images")] = False,
    precisions: Annotated[bool, typer.Option("--precisions", help="the rows are OpenVINO's precisions only")] = False,
    profile: Annotated[list[Path] | None, typer.Option(help="views: an ICC profile of one more colour space")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="so many images")] = None,
    out: Path = Path("artifacts/accuracy"),
    write: Annotated[Path | None, typer.Option(help="a Markdown file with the markers that README.md has")] = None,
) -> None:
    """Compare precisions, resolutions and preprocessing on labelled images."""
    args = Options(data, bundle, weights, other, limit, out)
    opened = open_bundle(bundle)
    if seen:
        planned = list(view_rows(args, profile or []))
    else:
        planned = list(openvino_rows(args, opened) if precisions else rows(args, opened))
    out.mkdir(parents=True, exist_ok=True)
    file, of = (
        out / "results.json",
        f"{opened.hash}, {seen}, {precisions}, {content(data)}, {other and open_bundle(other).hash}, {limit}",
    )
    kept = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    reports: dict[str, Report] = kept["rows"] if kept.get("of") == of else {}  # those of other data are let go
    with ExitStack() as stack:
        large = cache(lambda: stack.enter_context(enlarged(args)))
        for row in planned:
            if row.name not in reports:
                print(f"{row.name} …", file=sys.stderr, flush=True)
                report = by_hand(row.infer(), row.decode, args, opened) if row.infer else by_command(row, args, large)
                reports[row.name] = report | {"machine": machine()}
                file.write_text(json.dumps({"of": of, "rows": reports}) + "\n", encoding="utf-8")
    truth = true_classes(args, opened)
    text = written({row.name: reports[row.name] for row in planned}, truth)
    if any(row.measured for row in planned):
        text += "\n" + rule(planned, reports, truth)
    print(text)
    if write:
        update(write, text)


def rows(args: Options, bundle: Bundle) -> Iterator[Row]:
    data = ["crossvit", "evaluate", *map(str, args.data)]
    own = [*data, "--bundle", str(args.bundle)]
    large = ["crossvit", "evaluate", LARGE, "--bundle", str(args.bundle)]
    f32 = ["--engine", "openvino", "--precision", "f32"]
    if args.weights is None:
        raise ValueError("PyTorch's row needs --weights, what the bundle was made from")
    weights = args.weights
    yield Row("PyTorch, float32", [], lambda: pytorch(weights, bundle))
    yield Row("ONNX Runtime, float32", [*own, "--engine", "onnxruntime", "--precision", "f32"])
    yield from openvino_rows(args, bundle)
    if "fp16" in bundle.graphs:  # no CPU provider runs the one in bf16
        measured = measured_agreement(bundle, bundle.manifest.default_resolution, "onnxruntime-cuda", "fp16")
        yield Row("the graph in fp16", [], partial(graph, args.bundle / "model.fp16.onnx"), measured=measured)
    yield Row("over HTTP, as `crossvit serve` chooses", [*data, "--url", URL])
    if args.other:
        yield Row("resize 274, crop 240", [*data, "--bundle", str(args.other), *f32])
    yield Row(f"enlarged to {ENLARGED_SIDE} pixels", [*large, *f32])
    yield Row("the same with `--scaled-jpeg`", [*large, *f32, "--scaled-jpeg"])
    for resolution in bundle.resolutions:
        if resolution != bundle.manifest.default_resolution:
            yield Row(f"at {resolution}", [*own, *f32, "--resolution", str(resolution)])


def openvino_rows(args: Options, bundle: Bundle) -> Iterator[Row]:
    own = ["crossvit", "evaluate", *map(str, args.data), "--bundle", str(args.bundle), "--engine", "openvino"]
    yield Row("OpenVINO, float32", [*own, "--precision", "f32", "--plot", PLOT])
    for precision in ("bf16", "int8", "int8-bf16"):
        if precision == "bf16" or "int8" in bundle.graphs:
            measured = measured_agreement(bundle, bundle.manifest.default_resolution, "openvino", precision)
            yield Row(f"OpenVINO, {precision}", [*own, "--precision", precision], measured=measured)


def view_rows(args: Options, profiles: list[Path]) -> Iterator[Row]:
    infer = partial(graph, args.bundle / "model.onnx")
    yield Row("as they are", [], infer)
    for name, way in views(profiles):
        yield Row(name, [], infer, way)


def by_command(row: Row, args: Options, large: Callable[[], str]) -> Report:
    """The report of the row's command, and each image's best class and truth; `large` has the data enlarged."""
    command = [*row.command, *(["--limit", str(args.limit)] if args.limit else [])]
    with ExitStack() as stack:
        real = {"crossvit": str(Path(sys.executable).with_name("crossvit")), PLOT: str(args.out / PLOT)}
        if URL in command:
            options = ["--log-level", "error", "--decoders", "0", "--bundle", str(args.bundle)]
            server = stack.enter_context(crossvit_serve(None, *options))
            server.wait_until_ready()
            real[URL] = server.url
        if LARGE in command:
            real[LARGE] = large()
        answers = stack.enter_context(tempfile.NamedTemporaryFile(suffix=".csv")).name
        words = [*(real.get(word, word) for word in command), "--format", "json", "--answers", answers]
        done = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=True)
        found = pd.read_csv(answers, dtype={"truth": str, "name": str})
    keys = map(key, found["truth"], found["name"])
    report: Report = json.loads(done.stdout)
    return report | {"best": dict(zip(keys, found["index"].tolist(), strict=True)), "command": shlex.join(command)}


def by_hand(infer: Infer, decode: Decode, args: Options, bundle: Bundle) -> Report:
    """The same of `infer`."""
    data = Dataset(args.data)
    truths = match_classes(data.categories, bundle.labels)
    steps = bundle.manifest.preprocessing[bundle.manifest.default_resolution]
    indices = sample(len(data), args.limit)
    predictions, best = PredictionTable(), {}
    for place in range(0, len(indices), BATCH):
        part = [data.items[index] for index in indices[place : place + BATCH]]
        bodies = map(data.read, indices[place : place + BATCH])
        logits = infer(np.stack([decode(body, steps) for body in bodies]))
        for number, item in enumerate(part):
            found = image_prediction(logits[:, number], truths[item.category], bundle.labels)
            predictions.add(item.category, found)
            best[key(item.category, item.name)] = found.best.index
    figures = predictions.summary()
    assert figures is not None
    plain = json.loads(json.dumps(asdict(figures), default=ClassLabel.model_dump))
    return {"figures": plain, "best": best}


def true_classes(args: Options, bundle: Bundle) -> "pd.Series[int]":
    """The index of each image's class, by its key."""
    data = Dataset(args.data)
    truths = match_classes(data.categories, bundle.labels)
    items = [data.items[index] for index in sample(len(data), args.limit)]
    return pd.Series({key(item.category, item.name): truths[item.category].index for item in items})


def pytorch(weights: Path, bundle: Bundle) -> Infer:
    served = Served(load_network(weights, VARIANTS[bundle.manifest.variant]))

    def infer(images: NDArray[np.uint8]) -> NDArray[np.float32]:
        with torch.inference_mode():
            logits: NDArray[np.float32] = torch.stack(served(torch.from_numpy(images))).numpy()
            return logits

    return infer


def graph(path: Path) -> Infer:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda images: np.stack(session.run(list(OUTPUTS), {INPUT: images}))


@contextmanager
def enlarged(args: Options) -> Iterator[str]:
    """The data as JPEGs that are large enough to be decoded smaller."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / LARGE
        data = Dataset(args.data)
        indices = sample(len(data), args.limit)
        with zipfile.ZipFile(path, "w") as archive, ProcessPoolExecutor(mp_context=get_context("spawn")) as pool:
            bodies = pool.map(enlarge, map(data.read, indices), chunksize=16)
            for item, body in zip(map(data.items.__getitem__, indices), bodies, strict=True):
                archive.writestr(key(item.category, item.name) + ENLARGED, body)
        yield str(path)


def enlarge(body: bytes) -> bytes:
    buffer = BytesIO()
    with Image.open(BytesIO(body)) as image:
        times = ENLARGED_SIDE / min(image.size)
        size = round(image.width * times), round(image.height * times)
        image.convert("RGB").resize(size, Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def key(category: str, name: str) -> str:
    """The same for an image and its enlarged copy, whose name ends with ENLARGED."""
    return f"{category}/{Path(name).name.removesuffix(ENLARGED)}"


def content(paths: list[Path]) -> list[tuple[str, int, int]]:
    """What tells data from what is there under the same name at another time."""
    return [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in paths]


def written(reports: dict[str, Report], truth: "pd.Series[int]") -> str:
    """Markdown: each row's accuracy, of the branches too, how its answers differ from the first one's, its command."""
    best = pd.DataFrame({name: report["best"] for name, report in reports.items()})
    first = next(iter(reports))
    expected, truth = best[first], truth[best.index]
    lines = []
    for name, report in reports.items():
        figures, other = report["figures"], best[name] != expected
        branches = zip(("S", "L"), figures["branches"], strict=False)  # over HTTP there are none
        chosen = f" ({report['model']['engine']} {report['model']['precision']})" if report.get("url") else ""
        rights = [(found[other] == truth[other]).sum() for found in (expected, best[name])]
        lines.append({
            "": name + chosen,
            "top-1": f"{figures['top1']:.2%}",
            "top-5": f"{figures['top5']:.2%}",
            "ECE": f"{figures['ece']:.4f}",
            "NLL": "" if figures["nll"] is None else f"{figures['nll']:.4f}",
            **{f"{letter} alone": f"{figures['branches'][branch]['top1']:.2%}" for letter, branch in branches},
            "best class as in the first row": "" if name == first else f"{1 - other.mean():.2%}",
            "where not, right": f"first {rights[0]}, this {rights[1]}, of {other.sum()}" if other.any() else "",
        })  # fmt: skip
    machines = dict.fromkeys(report["machine"] for report in reports.values())
    commands = [f"{report['command']}  # {name}" for name, report in reports.items() if "command" in report]
    code = ["\n".join(["```", *commands, "```"])] if commands else []
    return "\n\n".join([*machines, table(pd.DataFrame(lines)), *code]) + "\n"


def rule(planned: Sequence[Row], reports: Mapping[str, Report], truth: "pd.Series[int]") -> str:
    """Markdown: what the export measured of each precision, whether `auto` takes it, and what these images say."""
    expected, lines = pd.Series(reports[planned[0].name]["best"])[truth.index], []
    for row in planned:
        name, found = row.name, row.measured
        if found is None:
            continue
        best = pd.Series(reports[name]["best"])[truth.index]
        right, other = expected == truth, best == truth
        lost, won = (right & ~other).sum(), (other & ~right).sum()
        interval = Z_95 * math.sqrt(lost + won) / len(truth)
        lines.append({
            "": name,
            "views (photographs)": f"{found.images} ({found.photographs})",
            "logits' distance": f"{found.distance:.2%}",
            "scores' distance": f"{found.score_distance:.4f}",
            "expected loss, points (limit)": f"{100 * found.loss:.3f} ({100 * found.loss_limit:.3f})",
            "same best class": f"{found.top1:.1%}",
            "`auto`": found.fault() or "may take it",
            f"loss on {len(truth):,}, points": f"{100 * (lost - won) / len(truth):+.2f} ± {100 * interval:.2f}",
            "same best class there": f"{(best == expected).mean():.2%}",
        })  # fmt: skip
    return table(pd.DataFrame(lines)) + "\n"


if __name__ == "__main__":
    run(accuracy, program="benchmarks.accuracy")
