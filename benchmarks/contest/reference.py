"""What contestants are compared with: answers in float32, and what the device can do at all."""

from pathlib import Path

import numpy as np
import torch
from torch.utils.benchmark import Timer

from benchmarks.contest.contestant import Images, Logits, Task
from benchmarks.contest.pytorch import Pixels, give_back, trained
from model.spec import UNTRAINED, variant_named
from model.weights import find_weights

IMAGES_PER_CALL = 16
PEAK_SIDE = {"cuda": 8192, "cpu": 1024}  # of the square matrices
PEAK_SECONDS = 0.3


def weights_of(choice: str, variant: str) -> tuple[str, str]:
    """Where the weights are that `choice` names (see model.weights), and their identifier.

    `choice` may also be a folder of VARIANT.safetensors.
    """
    folder = Path(choice).expanduser()
    named = str(folder / f"{variant}.safetensors") if folder.is_dir() else choice
    weights = find_weights(named, variant_named(variant), print)
    return str(weights.path or UNTRAINED), weights.id


def float32_logits(task: Task, images: Images) -> Logits:
    """The logits of this project's module, without TF32."""
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    pixels = Pixels(trained(task.variant, task.weights)).to(task.device)
    pieces = torch.from_numpy(images).split(IMAGES_PER_CALL)
    with torch.inference_mode():
        logits: Logits = np.concatenate([pixels(piece.to(task.device)).cpu().numpy() for piece in pieces])
    del pixels
    give_back()
    return logits


def matrix_peak(device: str) -> float:
    """The median rate of large square bfloat16 matrix products of random numbers, in 1e12 FLOP/s."""
    side = PEAK_SIDE[device]
    a, b = torch.randn(2, side, side, device=device, dtype=torch.bfloat16)
    timer = Timer("a @ b", globals={"a": a, "b": b}, num_threads=torch.get_num_threads())
    seconds = timer.blocked_autorange(min_run_time=PEAK_SECONDS).median
    del a, b, timer
    give_back()
    return float(2e-12 * side**3 / seconds)


def gpu_name(device: str) -> str:
    """The GPU; nothing for the CPU. A RuntimeError if there is none."""
    if device == "cpu":
        return ""
    if not torch.cuda.is_available():
        raise RuntimeError(f"PyTorch {torch.__version__} finds no GPU; --device cpu rehearses without one")
    return torch.cuda.get_device_name(device)


def gpu_used_mb(device: str) -> float:
    """Memory of the GPU that is taken, whoever took it."""
    if device == "cpu":
        return 0.0
    free, total = torch.cuda.mem_get_info()
    return float(total - free) / 1e6
