"""What a run leaves for the exporter: weights, and beside them their labels and how they came to be."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from model.crossvit import CrossViT
from model.labels import Label, labels_beside

WEIGHTS = "model.safetensors"


def write_weights(path: Path, network: CrossViT, *, half: bool) -> None:
    """Write the weights of `network` to `path` in one step, in float32 or in half precision (float16)."""
    dtype = torch.float16 if half else torch.float32
    tensors = {name: tensor.to("cpu", dtype).contiguous() for name, tensor in network.state_dict().items()}
    beside = path.with_suffix(".writing")
    safetensors.torch.save_file(tensors, beside)
    beside.replace(path)


def write_json(path: Path, content: Any) -> None:
    """Write `content` to `path` in one step."""
    beside = path.with_suffix(".writing")
    beside.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    beside.replace(path)


def same_classes(weights: Path, labels: Sequence[Label]) -> bool:
    """Whether the labels beside `weights` are `labels`; also if there are none, as nothing speaks against it."""
    others = labels_beside(weights)
    if others is None:
        return True
    entries = json.loads(others.read_text(encoding="utf-8"))
    return [(entry["wnid"], entry["label"]) for entry in entries] == [(each["wnid"], each["label"]) for each in labels]
