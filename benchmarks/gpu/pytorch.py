"""The contestants in PyTorch: timm's module or this project's."""

import gc
import importlib
import math
import re
import time
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import model.crossvit
from app.processes.channel import Arrays, Values
from benchmarks.gpu.contestant import Contestant, Images, Logits
from benchmarks.gpu.profiles import torch_kernels
from model.bicubic import resize
from model.crossvit import CrossViT
from model.spec import IMAGENET_MEAN, IMAGENET_STD, branch_sides, patch_grids, variant_named
from model.weights import find_weights

DTYPES = {"f32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


class Pixels(nn.Module):
    """`network` in `dtype` behind the host's pixels, as the served graph has it; normalised in float32."""

    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.network = network.to(dtype)
        self.dtype = dtype
        self.register_buffer("mean", 255 * torch.tensor(IMAGENET_MEAN))
        self.register_buffer("std", 255 * torch.tensor(IMAGENET_STD))

    def forward(self, image: Tensor) -> Tensor:
        """uint8 (batch, side, side, 3) to float32 logits (batch, classes)."""
        images = ((image.float() - self.mean) / self.std).permute(0, 3, 1, 2).to(self.dtype)
        logits: Tensor = self.network(images)
        return logits.float()


class Torch(Contestant):
    """timm's module or this project's, eager or compiled."""

    def __init__(self) -> None:
        super().__init__()
        self._timm, self._without = _import_timm()

    def _start(
        self, source: str, compiled: bool, precision: str, device: str, variant: str, weights: str, side: int
    ) -> dict[str, Any]:
        network = trained(variant, weights)
        if source == "timm" and self._timm:
            there: nn.Module = timm_network(self._timm, network, variant, side)
        else:
            there = own_network(network, variant, side)
        self._device = torch.device(device)
        self._pixels: Callable[[Tensor], Tensor] = Pixels(there.eval(), DTYPES[precision]).to(self._device)
        if compiled:
            torch._dynamo.config.recompile_limit = 64  # every batch size has code of its own
            self._pixels = torch.compile(self._pixels, mode="max-autotune", dynamic=False)
        self._on_gpu = self._device.type == "cuda"
        self._classes = network.classes
        self._staged = torch.empty(0, dtype=torch.uint8)
        self._answers = torch.empty(0)
        return {"note": f"this project's module, {self._without}"} if source == "timm" and not self._timm else {}

    def prepare(self, batch: int) -> tuple[Values, Arrays]:
        """As for any contestant; the host's buffers are made here, once for each batch size that is larger."""
        if batch > len(self._staged):
            shape = (batch, *self._photos.shape[1:])
            self._staged = torch.empty(shape, dtype=torch.uint8, pin_memory=self._on_gpu)
            self._answers = torch.empty((batch, self._classes), pin_memory=self._on_gpu)
        return super().prepare(batch)

    def _run(self, images: Images) -> Logits:
        count = len(images)
        staged, answers = self._staged[:count], self._answers[:count]
        np.copyto(staged.numpy(), images)
        answers.copy_(self._forward(staged.to(self._device, non_blocking=True)), non_blocking=True)
        if self._on_gpu:
            torch.cuda.synchronize()
        logits: Logits = answers.numpy().copy()
        return logits

    def _forward(self, pixels: Tensor) -> Tensor:
        torch.compiler.cudagraph_mark_step_begin()  # the last call's logits have been copied
        with torch.inference_mode():
            return self._pixels(pixels)

    def _device_seconds(self, images: Images, seconds: float) -> list[float]:
        if not self._on_gpu:
            return []
        pixels = torch.from_numpy(images).to(self._device)
        times: list[float] = []
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            before, after = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            before.record()
            self._forward(pixels)
            after.record()
            after.synchronize()
            times.append(before.elapsed_time(after) / 1000)
        return times

    def _settle(self) -> None:
        gc.collect()
        if self._on_gpu:
            torch.cuda.empty_cache()

    def _profile(self, call: Callable[[], object]) -> dict[str, Any]:
        return {"kernels": torch_kernels(call, self._device.type)}


def _import_timm() -> tuple[ModuleType | None, str]:
    """timm, or None and why."""
    try:
        return importlib.import_module("timm"), ""
    except Exception as err:  # a torchvision for another torch is a RuntimeError
        return None, f"since timm does not import: {err}"


def timm_network(timm: ModuleType, network: CrossViT, variant: str, side: int) -> nn.Module:
    """timm's module for images of `side` pixels with the weights of `network`."""
    small, large = branch_sides(side)
    name = variant.removesuffix("_384")
    there: nn.Module = timm.create_model(
        f"{name}_240",
        num_classes=network.classes,
        img_size=small,
        img_scale=(1.0, (large + 0.5) / small),  # it rounds down
    )
    tensors = tensors_at(network, side)
    there.load_state_dict({re.sub(r"^(pos_embed|cls_token)\.", r"\1_", key): tensors[key] for key in tensors})
    return there


def own_network(network: CrossViT, variant: str, side: int) -> CrossViT:
    """This project's module for images of `side` pixels, fit for half precision."""
    # The module's own matrices of bicubic weights would be wrong if they were made in half precision.
    model.crossvit.resize = _interpolate  # type: ignore[attr-defined]
    there = CrossViT(variant_named(variant), network.classes, side)
    there.load_state_dict(tensors_at(network, side))
    return there


def tensors_at(network: CrossViT, side: int) -> dict[str, Tensor]:
    """The weights of `network`, its position embeddings interpolated to the grids of `side` as it does itself."""
    tensors = network.state_dict()
    for branch, grid in enumerate(patch_grids(side)):
        name = f"pos_embed.{branch}"
        cls, positions = tensors[name][:, :1], tensors[name][:, 1:]
        native = math.isqrt(positions.shape[1])
        maps = resize(positions.transpose(1, 2).unflatten(-1, (native, native)), grid)
        tensors[name] = torch.cat((cls, maps.flatten(2).transpose(1, 2)), dim=1)
    return tensors


def _interpolate(x: Tensor, side: int) -> Tensor:
    return x if x.shape[-1] == side else F.interpolate(x, size=(side, side), mode="bicubic", align_corners=False)


def trained(variant: str, weights: str) -> CrossViT:
    """The network with `weights`, a file or "untrained"."""
    return find_weights(weights, variant_named(variant), print).network(variant_named(variant))
