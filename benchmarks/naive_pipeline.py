"""What one writes without this project: Ray Data, PIL and the same engine in `map_batches`. `benchmarks.bulk` runs it.

It takes one process for the decoding of each CPU but those of the engine, and an OpenVINO engine with its own defaults
apart from the precision. A bad image is a row without a class.
"""

import io
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import openvino
import ray
import ray.data
from PIL import Image


class Engine:
    def __init__(self, bundle: str, precision: str) -> None:
        graph = Path(bundle) / ("model.int8.onnx" if precision.startswith("int8") else "model.onnx")
        hint = "bf16" if precision.endswith("bf16") else "f32"
        self._model = openvino.Core().compile_model(graph, "CPU", {"INFERENCE_PRECISION_HINT": hint})

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        index = np.full(len(batch["path"]), -1)
        score = np.zeros(len(index))
        good = batch["good"]
        if good.any():
            logits = self._model(np.stack(batch["pixels"][good]))[0]
            wide = np.exp(logits - logits.max(axis=1, keepdims=True))
            scores = wide / wide.sum(axis=1, keepdims=True)
            index[good], score[good] = scores.argmax(axis=1), scores.max(axis=1)
        return {"path": batch["path"], "index": index, "score": score}


class Decode:
    def __init__(self, resize: int, crop: int) -> None:
        self._resize, self._crop = resize, crop

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        pixels, good = np.zeros((self._crop, self._crop, 3), np.uint8), True
        try:
            image = Image.open(io.BytesIO(row["bytes"])).convert("RGB")
            scale = self._resize / min(image.size)
            image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC)
            left, top = (image.width - self._crop) // 2, (image.height - self._crop) // 2
            pixels = np.asarray(image.crop((left, top, left + self._crop, top + self._crop)))
        except Exception:  # Pillow raises many kinds for broken files
            good = False
        return {"path": row["path"], "pixels": pixels, "good": good}


def main(folder: str, out: str, bundle: str, resolution: str, precision: str, cpus: str) -> None:
    manifest = json.loads((Path(bundle) / "manifest.json").read_text())
    steps = manifest["preprocessing"][resolution]
    ray.init(num_cpus=int(cpus), include_dashboard=False, log_to_driver=False)
    images = ray.data.read_binary_files(folder, include_paths=True)
    decode = Decode(steps["resize"], steps["crop"])
    pixels = images.map(decode.__call__)
    answers = pixels.map_batches(
        Engine,
        fn_constructor_kwargs={"bundle": bundle, "precision": precision},
        batch_size=32,
        num_cpus=1,
        compute=ray.data.ActorPoolStrategy(size=1),
    )
    answers.write_parquet(out)


if __name__ == "__main__":
    main(*sys.argv[1:])
