"""The network to compare with: timm's module if timm imports, else this project's, made to compute as timm's does."""

import importlib
import math
from types import ModuleType
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import model.crossvit
from benchmarks.gpu.pytorch import timm_network
from model.crossvit import CrossAttention, CrossViT
from model.spec import variant_named

Network = TypeVar("Network", bound=nn.Module)

TIMM = "timm's module"
OWN = "this project's module, written as timm's is"


def peer_network(variant: str, side: int) -> tuple[nn.Module, str]:
    """The network for normalised images (batch, 3, side, side) with random weights, and whose module it is.

    Random weights do not change the time.
    """
    timm = _import_timm()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = CrossViT(variant_named(variant)).eval()
    if timm is not None:
        return timm_network(timm, network, variant, side).eval(), TIMM
    return as_timm(network), OWN


def as_timm(network: Network) -> Network:
    """`network` without what this project saves: keys and values are computed, images resized by `interpolate`."""
    model.crossvit.resize = _interpolate  # type: ignore[attr-defined]
    for module in network.modules():
        if type(module) is CrossAttention:
            module.__class__ = WithKeysAndValues
    return network


class WithKeysAndValues(CrossAttention):
    """Cross-attention with keys and values of all tokens. Paper, equation 4."""

    def forward(self, x: Tensor) -> Tensor:
        batch, _, dim = x.shape
        q, k, v = (
            linear(tokens).unflatten(-1, (self.heads, -1)).transpose(1, 2)  # (B, H, tokens, D)
            for linear, tokens in ((self.wq, x[:, :1]), (self.wk, x), (self.wv, x))
        )
        weights = (q @ k.transpose(-2, -1) * math.sqrt(self.heads / dim)).softmax(dim=-1)  # (B, H, 1, N)
        out: Tensor = self.proj((weights @ v).transpose(1, 2).reshape(batch, 1, dim))
        return out


def _interpolate(x: Tensor, side: int) -> Tensor:
    return x if x.shape[-1] == side else F.interpolate(x, size=(side, side), mode="bicubic", align_corners=False)


def _import_timm() -> ModuleType | None:
    try:
        return importlib.import_module("timm")
    except Exception:  # not there, or a torchvision that was built for another torch
        return _import_timm_without_kernels()


def _import_timm_without_kernels() -> ModuleType | None:
    """timm beside a torchvision whose kernels do not load, as PyPI's for CUDA beside PyTorch for the CPU.

    Importing torchvision then fails on operators for object detection, which no classifier uses: they are declared.
    """
    try:
        for operator in ("nms", "qnms"):
            schema = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
            torch.library.define(f"torchvision::{operator}", schema)
        return importlib.import_module("timm")
    except Exception:
        return None
