"""The files of a run that the exporter reads: weights, and beside them labels and recipe."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from model.crossvit import CrossViT
from model.labels import BadLabels, LabelEntry, labels_beside, labels_for

WEIGHTS = "model.safetensors"


def write_weights(path: Path, network: CrossViT, *, half: bool) -> None:
    """Write the weights of `network` to `path` atomically, in float32 or in half precision (float16)."""
    dtype = torch.float16 if half else torch.float32
    tensors = {name: tensor.to("cpu", dtype).contiguous() for name, tensor in network.state_dict().items()}
    with replacing_file(path) as beside:
        beside.write_bytes(safetensors.torch.save(tensors))  # save_file makes files that only their owner can read


def write_json_file(path: Path, content: Any) -> None:
    """Write `content` to `path` atomically."""
    with replacing_file(path) as beside:
        beside.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


@contextmanager
def replacing_file(path: Path) -> Iterator[Path]:
    """A file to write, which then replaces `path` atomically: `path` is always a whole file.

    Raises OSError if it cannot be written, and removes it.
    """
    beside = path.with_suffix(".writing")
    try:
        yield beside
        beside.replace(path)
    except (OSError, RuntimeError) as err:  # torch.save raises RuntimeError for a full disk
        beside.unlink(missing_ok=True)
        cause = "" if isinstance(err, OSError) else "; the disk may be full"
        raise OSError(f"{path} cannot be written: {err}{cause}") from err


def has_classes(weights: Path, count: int, labels: Sequence[LabelEntry]) -> bool:
    """Whether the `count` classes of a checkpoint are `labels`: those beside it, or ImageNet-1k's if the count fits."""
    try:
        own = labels_for(labels_beside(weights), count)
    except BadLabels:  # the classes are unknown
        return False
    return [(entry["wnid"], entry["label"]) for entry in own] == [(entry["wnid"], entry["label"]) for entry in labels]
