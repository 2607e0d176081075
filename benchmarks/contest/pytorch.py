"""The contestants in PyTorch: timm's module with the bundle's weights."""

import gc
import importlib
import math
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from app.processes.channel import Arrays, Values
from benchmarks.contest.contestant import PROFILED_CALLS, Contestant, Images, Logits, Task
from bundle.reader import open_bundle
from model.bicubic import resize
from model.crossvit import CrossViT
from model.loaded_network import network_with
from model.spec import IMAGENET_MEAN, IMAGENET_STD, branch_sides, patch_grids, variant_named
from model.weights import find_weights

COMPILED = ("compile", "freeze", "max-autotune")  # modes of torch.compile
DTYPES = {"f32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
PROFILED_ROWS = 12


class Pixels(nn.Module):
    """`network` in `dtype` behind the host's pixels, as the served graph has it; normalised in float32."""

    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module, dtype: torch.dtype = torch.float32) -> None:
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


class PyTorch(Contestant):
    """timm's module, eager, under autocast or compiled."""

    def __init__(self) -> None:
        super().__init__()
        import_timm()  # together with the others' imports

    def _start(self, task: Task, mode: str, precision: str) -> str:
        self._device = torch.device(task.device)
        self._on_gpu = self._device.type == "cuda"
        if mode in COMPILED and not self._on_gpu and not any(map(shutil.which, ("g++", "c++", "clang++"))):
            raise RuntimeError("torch.compile needs a C++ compiler, and there is none (apt install g++)")
        network = trained(task.variant, task.weights)
        pixels = Pixels(timm_network(network, task.variant, task.side), DTYPES[precision]).to(self._device)
        self._pixels: Callable[[Tensor], Tensor] = compiled(pixels, mode) if mode in COMPILED else pixels
        self._autocast = mode == "autocast"
        self._classes = network.classes
        self._staged = self._answers = torch.empty(0)
        return ""

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
        torch.compiler.cudagraph_mark_step_begin()  # the last call's logits have been copied
        with torch.inference_mode(), torch.autocast(self._device.type, torch.bfloat16, enabled=self._autocast):
            answers.copy_(self._pixels(staged.to(self._device, non_blocking=True)), non_blocking=True)
        if self._on_gpu:
            torch.cuda.synchronize()
        logits: Logits = answers.numpy().copy()
        return logits

    def _settle(self) -> None:
        give_back()

    def _profile(self, call: Callable[[], object]) -> str:
        return kernels(call, self._device.type)


def kernels(call: Callable[[], object], device: str) -> str:
    """The slowest kernels of PROFILED_CALLS calls, whatever library of this process launches them on a GPU."""
    on_gpu = device == "cuda"
    with profile(activities=[ProfilerActivity.CUDA if on_gpu else ProfilerActivity.CPU]) as profiler:
        for _ in range(PROFILED_CALLS):
            call()
    sort_by = "self_device_time_total" if on_gpu else "self_cpu_time_total"
    table: str = profiler.key_averages().table(sort_by=sort_by, row_limit=PROFILED_ROWS)
    return table


def compiled(module: Pixels, mode: str) -> Callable[[Tensor], Tensor]:
    """`module` through torch.compile.

    "freeze" makes the weights constants, which inductor then packs for the CPU's matrix kernels.
    """
    import torch._inductor.config  # large: only those that compile have it in their memory

    torch._dynamo.config.recompile_limit = 64  # every batch size has code of its own
    torch._inductor.config.freezing = mode == "freeze"
    return torch.compile(module, mode="max-autotune" if mode == "max-autotune" else None, dynamic=False)


def give_back() -> None:
    """Return memory that nothing needs any more to the device."""
    gc.collect()
    torch.cuda.empty_cache()  # does nothing where CUDA was not used


def import_timm() -> ModuleType:
    """timm.

    A torchvision that was built for another torch, as PyPI's for CUDA beside PyTorch for the CPU, fails on operators
    for object detection, which no classifier uses: they are declared before a second try.
    """
    try:
        return importlib.import_module("timm")
    except RuntimeError:
        for operator in ("nms", "qnms"):
            schema = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
            torch.library.define(f"torchvision::{operator}", schema)
        return importlib.import_module("timm")


def timm_network(network: CrossViT, variant: str, side: int) -> nn.Module:
    """timm's module for images of `side` pixels with the weights of `network`."""
    small, large = branch_sides(side)
    there: nn.Module = import_timm().create_model(
        f"{variant.removesuffix('_384')}_240",
        num_classes=network.classes,
        img_size=small,
        img_scale=(1.0, (large + 0.5) / small),  # it rounds down
    )
    tensors = tensors_at(network, side)
    there.load_state_dict({re.sub(r"^(pos_embed|cls_token)\.", r"\1_", key): tensors[key] for key in tensors})
    return there.eval()


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


def trained(variant: str, weights: str) -> CrossViT:
    """The network with `weights`, a file or "untrained"."""
    named = variant_named(variant)
    return network_with(find_weights(weights, named, print), named)


def served_network(bundle: Path, weights: str) -> Callable[[Images], Logits]:
    """timm's module of the bundle's variant with `weights` in float32, from pixels at 224 to logits."""
    variant = open_bundle(bundle).manifest.variant
    network = Pixels(timm_network(trained(variant, weights), variant, 224), torch.float32)

    def logits(images: Images) -> Logits:
        with torch.inference_mode():
            found: Logits = network(torch.from_numpy(images)).numpy()
        return found

    return logits
