"""The cost of precision, resolution and preprocessing: `python -m benchmarks.accuracy DATA --bundle BUNDLE`.

A row is a run of `crossvit evaluate` on all images of DATA, with its command. PyTorch (with `--weights`, those of the
bundle) and the graph in fp16, which serves on GPUs, run in this process on the same pixels.
`--other` is a bundle of the same weights with the released code's preprocessing. OUT/results.json gets each row
at once, and a stopped run continues from it. With `--write` a Markdown file gets the table; reports only.
"""

import argparse
import csv
import json
import shlex
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from functools import cache, partial
from io import BytesIO
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray
from PIL import Image

from app.commands.evaluate.accuracy import PredictionTable
from app.commands.evaluate.bundle_source import image_prediction
from app.commands.evaluate.evaluation import sample
from app.decoding.image_decoding import decode
from benchmarks.contest.readme import update
from benchmarks.machine import line as machine
from benchmarks.photographs import matched_classes
from bundle.class_labels import ClassLabel
from bundle.reader import Bundle, open_bundle
from bundle.tensors import INPUT, OUTPUTS
from export.graphs.served_graph import Served
from model.checkpoint import load_network
from model.dataset import Dataset
from model.spec import VARIANTS
from tests.support.servers import crossvit_serve

REFERENCE = "PyTorch, float32"
BATCH = 16
MAX_PIXELS = 50_000_000
ENLARGED_SIDE = 1024  # shorter side in pixels: twice 512, from where on a JPEG is decoded smaller
# As a row's command names what there is under another name.
URL, LARGE, PLOT = "http://127.0.0.1:8000", "enlarged.zip", "reliability.png"

Infer = Callable[[NDArray[np.uint8]], NDArray[np.float32]]  # images (B, side, side, 3) to logits (outputs, B, classes)
Report = dict[str, Any]


@dataclass(frozen=True)
class Row:
    """A line of the table: the command that gives it, or what runs here at the bundle's own resolution."""

    name: str
    command: list[str]
    infer: Callable[[], Infer] | None = None


def main() -> None:
    args = _arguments()
    bundle = open_bundle(args.bundle)
    args.out.mkdir(parents=True, exist_ok=True)
    results = Results(args.out / "results.json", f"{bundle.hash}, {args.data}, {args.other}, {args.limit}")
    with ExitStack() as stack:
        large = cache(lambda: stack.enter_context(_enlarged(args)))
        for row in rows(args, bundle):
            if row.name not in results.rows:
                print(f"{row.name} …", file=sys.stderr, flush=True)
                report = _by_hand(row.infer(), args, bundle) if row.infer else _by_command(row, args, large)
                results.add(row.name, report)
    truths = matched_classes(Dataset(args.data).categories, bundle.labels)
    measured = {row.name: results.rows[row.name] for row in rows(args, bundle)}
    text = f"{results.machines}\n\n{table(measured, truths)}"
    print(text)
    if args.write:
        update(args.write, text)


def rows(args: argparse.Namespace, bundle: Bundle) -> Iterator[Row]:
    evaluate = ["crossvit", "evaluate"]
    data = [*evaluate, *map(str, args.data)]
    own = [*data, "--bundle", str(args.bundle)]
    large = [*evaluate, LARGE, "--bundle", str(args.bundle)]
    f32 = ["--engine", "openvino", "--precision", "f32"]
    yield Row(REFERENCE, [], lambda: _pytorch(args.weights, bundle))
    yield Row("ONNX Runtime, float32", [*own, "--engine", "onnxruntime", "--precision", "f32"])
    yield Row("OpenVINO, float32", [*own, *f32, "--plot", PLOT])
    for precision in ("bf16", "int8", "int8-bf16"):
        if precision == "bf16" or "int8" in bundle.graphs:
            yield Row(f"OpenVINO, {precision}", [*own, "--engine", "openvino", "--precision", precision])
    if "fp16" in bundle.graphs:  # no CPU provider runs the one in bf16
        yield Row("the graph in fp16", [], partial(_fp16_graph, args.bundle))
    yield Row("over HTTP, as `crossvit serve` chooses", [*data, "--url", URL])
    if args.other:
        yield Row("resize 274, crop 240", [*data, "--bundle", str(args.other), *f32])
    yield Row(f"enlarged to {ENLARGED_SIDE} pixels", [*large, *f32])
    yield Row("the same with `--scaled-jpeg`", [*large, *f32, "--scaled-jpeg"])
    for resolution in bundle.resolutions:
        if resolution != bundle.manifest.default_resolution:
            yield Row(f"at {resolution}", [*own, *f32, "--resolution", str(resolution)])


def _by_command(row: Row, args: argparse.Namespace, large: Callable[[], str]) -> Report:
    """The report of the row's command, and the best class of every image; `large` has the data enlarged."""
    command = [*row.command, *(["--limit", str(args.limit)] if args.limit else [])]
    with ExitStack() as stack:
        real = {"crossvit": str(Path(sys.executable).with_name("crossvit"))}
        if URL in command:
            options = ["--log-level", "warning", "--decoders", "0", "--bundle", str(args.bundle)]
            server = stack.enter_context(crossvit_serve(None, *options))
            server.wait_until_ready()
            real[URL] = server.url
        real[PLOT] = str(args.out / PLOT)
        if LARGE in command:
            real[LARGE] = large()
        answers = stack.enter_context(tempfile.NamedTemporaryFile(suffix=".csv")).name
        done = subprocess.run(
            [*(real.get(word, word) for word in command), "--format", "json", "--answers", answers],
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        with Path(answers).open(newline="", encoding="utf-8") as file:
            best = {_key(line["truth"], line["name"]): int(line["index"]) for line in csv.DictReader(file)}
    report: Report = json.loads(done.stdout)
    return report | {"best": best, "command": shlex.join(command)}


def _by_hand(infer: Infer, args: argparse.Namespace, bundle: Bundle) -> Report:
    data = Dataset(args.data)
    truths = matched_classes(data.categories, bundle.labels)
    steps = bundle.manifest.preprocessing[bundle.manifest.default_resolution]
    indices = sample(len(data), args.limit)
    table, best, started = PredictionTable(), {}, time.monotonic()
    for place in range(0, len(indices), BATCH):
        part = indices[place : place + BATCH]
        logits = infer(np.stack([decode(data.read(index), steps, MAX_PIXELS) for index in part]))
        for number, index in enumerate(part):
            item = data.items[index]
            found = image_prediction(logits[:, number], truths[item.category], bundle.labels)
            table.add(item.category, found)
            best[_key(item.category, item.name)] = found.best.index
    figures = table.summary()
    assert figures is not None
    plain = json.loads(json.dumps(asdict(figures), default=ClassLabel.model_dump))
    return {"figures": plain, "best": best, "images_per_second": len(indices) / (time.monotonic() - started)}


def _pytorch(weights: Path, bundle: Bundle) -> Infer:
    served = Served(load_network(weights, VARIANTS[bundle.manifest.variant]))

    def infer(images: NDArray[np.uint8]) -> NDArray[np.float32]:
        with torch.inference_mode():
            logits: NDArray[np.float32] = torch.stack(served(torch.from_numpy(images))).numpy()
            return logits

    return infer


def _fp16_graph(bundle: Path) -> Infer:
    session = onnxruntime.InferenceSession(bundle / "model.fp16.onnx", providers=["CPUExecutionProvider"])
    return lambda images: np.stack(session.run(list(OUTPUTS), {INPUT: images}))


@contextmanager
def _enlarged(args: argparse.Namespace) -> Iterator[str]:
    """The data as JPEGs that are large enough to be decoded smaller."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / LARGE
        data = Dataset(args.data)
        indices = sample(len(data), args.limit)
        with zipfile.ZipFile(path, "w") as archive, ProcessPoolExecutor(mp_context=get_context("spawn")) as pool:
            bodies = pool.map(_enlarge, map(data.read, indices), chunksize=16)
            for item, body in zip(map(data.items.__getitem__, indices), bodies, strict=True):
                archive.writestr(_key(item.category, item.name), body)
        yield str(path)


def _enlarge(body: bytes) -> bytes:
    buffer = BytesIO()
    with Image.open(BytesIO(body)) as image:
        times = ENLARGED_SIDE / min(image.size)
        size = round(image.width * times), round(image.height * times)
        image.convert("RGB").resize(size, Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def _key(category: str, name: str) -> str:
    return f"{category}/{Path(name).stem}.jpg"


class Results:
    """Rows by their name, kept in a file; those `of` another bundle or other data are let go."""

    def __init__(self, path: Path, of: str) -> None:
        self._path, self._of = path, of
        kept = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        self.rows: dict[str, Report] = kept["rows"] if kept.get("of") == of else {}

    @property
    def machines(self) -> str:
        """What the rows were measured on, with which versions: usually one line."""
        return "\n\n".join(dict.fromkeys(report["machine"] for report in self.rows.values()))

    def add(self, name: str, report: Report) -> None:
        self.rows[name] = report | {"machine": machine()}
        content = {"of": self._of, "rows": self.rows}
        self._path.write_text(json.dumps(content) + "\n", encoding="utf-8")


def table(results: dict[str, Report], truths: Mapping[str, ClassLabel]) -> str:
    """Markdown: each row's accuracy, of the branches too, and how it differs from PyTorch's answers."""
    head = ["", "top-1", "top-5", "ECE", "NLL", "S alone", "L alone", "PyTorch's best class", "where not, right"]
    lines = [_line(head), _line(["---"] * len(head))]
    commands = []
    for name, report in results.items():
        figures = report["figures"]
        branches = [_percent(figures["branches"].get(branch, {}).get("top1")) for branch in OUTPUTS[1:]]
        nll = "" if figures["nll"] is None else f"{figures['nll']:.4f}"
        shares = [_percent(figures["top1"]), _percent(figures["top5"]), f"{figures['ece']:.4f}", nll]
        chosen = f" ({report['model']['engine']} {report['model']['precision']})" if report.get("url") else ""
        lines.append(_line([name + chosen, *shares, *branches, *_compared(report, results.get(REFERENCE), truths)]))
        if report.get("command"):
            commands.append(f"{report['command']}  # {name}")
    return "\n".join([*lines, "", "```", *commands, "```", ""])


def _compared(report: Report, reference: Report | None, truths: Mapping[str, ClassLabel]) -> list[str]:
    """How often the best class is the reference's, and of how many of the other images either one is right."""
    if reference is None or report is reference:
        return ["", ""]
    best, expected = report["best"], reference["best"]
    others = {key: truths[key.rpartition("/")[0]].index for key in best if best[key] != expected[key]}
    rights = [sum(found[key] == truth for key, truth in others.items()) for found in (expected, best)]
    share = _percent(1 - len(others) / len(best))
    return [share, f"PyTorch {rights[0]}, this {rights[1]}, of {len(others)}" if others else ""]


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _percent(share: float | None) -> str:
    return "" if share is None else f"{share:.2%}"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, nargs="+", help="folders, zip files or WebDataset's tar files")
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--weights", type=Path, required=True, help="what the bundle was made from")
    parser.add_argument("--other", type=Path, help="a bundle of the same, exported with --preprocess 224:274/240")
    parser.add_argument("--limit", type=int, help="so many images")
    parser.add_argument("--out", type=Path, default=Path("artifacts/accuracy"))
    parser.add_argument(
        "--write", type=Path, metavar="FILE", help="Markdown with the markers of benchmarks/contest/readme.py"
    )
    return parser.parse_args()


if __name__ == "__main__":
    main()
