"""The processes of a run: one, or those that torchrun started, each with its own GPU."""

import os
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel


class NoGPU(Exception):
    """A GPU was requested, but PyTorch finds none."""


@dataclass(frozen=True)
class Group:
    """This process among the `ranks` of a run; sums over all of them."""

    device: torch.device
    rank: int = 0
    ranks: int = 1

    @classmethod
    def join(cls, device: str) -> "Group":
        """Join the group in torchrun's environment variables. `device` is "auto", "cpu" or "cuda". Raises NoGPU."""
        if device == "cuda" and not torch.cuda.is_available():
            raise NoGPU("PyTorch finds no GPU: use --device cpu, or install its build for CUDA")
        kind = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
        if kind == "cuda":
            torch.set_float32_matmul_precision("high")  # TF32
        if "RANK" not in os.environ:
            return cls(torch.device(kind))
        dist.init_process_group("nccl" if kind == "cuda" else "gloo")
        own = torch.device(kind, int(os.environ["LOCAL_RANK"])) if kind == "cuda" else torch.device(kind)
        if kind == "cuda":
            torch.cuda.set_device(own)
        return cls(own, dist.get_rank(), dist.get_world_size())

    def leave(self) -> None:
        if dist.is_initialized():
            dist.destroy_process_group()

    def shared(self, network: nn.Module) -> nn.Module:
        """`network` with gradients averaged over all processes."""
        return DistributedDataParallel(network) if self.ranks > 1 else network

    def no_sync(self, network: nn.Module, *, last: bool) -> AbstractContextManager[None]:
        """A context in which processes do not exchange gradients, unless it is the `last` part of a step."""
        if isinstance(network, DistributedDataParallel) and not last:
            return network.no_sync()
        return nullcontext()

    def sum(self, values: Tensor) -> Tensor:
        """The sum over all processes."""
        if self.ranks > 1:
            dist.all_reduce(values)
        return values

    @property
    def first(self) -> bool:
        """Whether this is the process that writes."""
        return self.rank == 0
