"""The reference: answers in float32, and the peak of the device."""

import gc
import os
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from app.processes.channel import Arrays, Values
from benchmarks.contest.contestant import Images
from benchmarks.contest.pytorch import Pixels, trained
from model.spec import UNTRAINED, variant_named
from model.weights import find_weights

IMAGES_PER_CALL = 16
PEAK_SIDE = {"cuda": 8192, "cpu": 1024}  # of the square matrices


class Referee:
    """Answers in float32, without TF32, and measures what the device can do at all."""

    def __init__(self, device: str) -> None:
        os.dup2(2, 1)  # as contestants do
        self._device = torch.device(device)
        torch.backends.cudnn.allow_tf32 = False
        torch.backends.cuda.matmul.allow_tf32 = False

    def machine(self) -> tuple[Values, Arrays]:
        """What PyTorch knows of the device."""
        if self._device.type != "cuda":
            return [{"threads": torch.get_num_threads()}], []
        if not torch.cuda.is_available():
            return [{"missing": f"PyTorch {torch.__version__} finds no GPU; --device cpu rehearses without one"}], []
        properties = torch.cuda.get_device_properties(self._device)
        return [
            {
                "gpu": properties.name,
                "compute_capability": f"{properties.major}.{properties.minor}",
                "memory_mb": properties.total_memory / 1e6,
                "multiprocessors": properties.multi_processor_count,
                "cuda_of_torch": torch.version.cuda,
            }
        ], []

    def weights(self, choice: str, variant: str) -> tuple[Values, Arrays]:
        """Where the weights are that `choice` names, see model.weights; it may be a folder of VARIANT.safetensors."""
        folder = Path(choice).expanduser()
        named = str(folder / f"{variant}.safetensors") if folder.is_dir() else choice
        weights = find_weights(named, variant_named(variant), print)
        return [str(weights.path or UNTRAINED), weights.id], []

    def used_mb(self) -> tuple[Values, Arrays]:
        """Memory of the GPU that is taken, whoever took it; 0 without one."""
        if self._device.type != "cuda":
            return [0.0], []
        free, total = torch.cuda.mem_get_info(self._device)
        return [(total - free) / 1e6], []

    def peak(self, seconds: float) -> tuple[Values, Arrays]:
        """The rate of large square bfloat16 matrix products of random numbers, in 1e12 FLOP/s: the median."""
        side = PEAK_SIDE[self._device.type]
        product = partial(torch.matmul, *torch.randn(2, side, side, device=self._device, dtype=torch.bfloat16))
        for _ in range(3):
            product()
        rates: list[float] = []
        end = time.perf_counter() + seconds
        while not rates or time.perf_counter() < end:
            rates.append(2e-12 * side**3 / self._seconds(product))
        del product
        self._give_back()
        return [statistics.median(rates)], []

    def answers(self, variant: str, weights: str, images: Images, golden: Images) -> tuple[Values, Arrays]:
        """The logits of `images`, and those of the bundle's golden images, by this project's module in float32."""
        network = trained(variant, weights)
        pixels = Pixels(network, torch.float32).to(self._device)
        found = [self._in_pieces(pixels, batch) for batch in (images, golden)]
        del network, pixels
        self._give_back()
        return [], list(found)

    def _in_pieces(self, pixels: Pixels, images: Images) -> NDArray[np.float32]:
        with torch.inference_mode():
            pieces = [pixels(torch.from_numpy(piece).to(self._device)) for piece in _pieces(images)]
            logits: NDArray[np.float32] = torch.cat(pieces).cpu().numpy()
        return logits

    def _seconds(self, call: Callable[[], object]) -> float:
        if self._device.type != "cuda":
            started = time.perf_counter()
            call()
            return time.perf_counter() - started
        before, after = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        before.record()
        call()
        after.record()
        after.synchronize()
        return float(before.elapsed_time(after)) / 1000

    def _give_back(self) -> None:
        gc.collect()
        if self._device.type == "cuda":
            torch.cuda.empty_cache()


def _pieces(images: Images) -> list[Images]:
    return [images[start : start + IMAGES_PER_CALL] for start in range(0, len(images), IMAGES_PER_CALL)]
