"""The training loop. A step follows from the recipe, the data and its number alone, so that a kill changes nothing."""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from model.crossvit import CrossViT
from model.spec import IMAGENET_MEAN, IMAGENET_STD
from model.training.augment import Mixture, erase, mix, rand_augment
from model.training.crops import View
from model.training.group import Group
from model.training.images import Batch, Images
from model.training.journal import Journal, Row
from model.training.optimizers import Optimizers
from model.training.order import Order, all_in_order, chance
from model.training.recipe import Recipe, learning_rate

CHECKPOINT = "checkpoint.pt"
_TOP = 5


@dataclass(frozen=True)
class Ways:
    """How a run is carried out, which changes how fast it is, not what is learnt (but for the last digits)."""

    chunk: int = 256  # images that go through the network at once
    bf16: bool = False
    compiled: bool = False
    checkpoint_seconds: float = 120
    log_steps: int = 10


class Trainer:
    """A run in `folder`: the network, its optimisers, the average of its weights, and how far they have come.

    It goes on from the checkpoint in the folder, if there is one.
    """

    def __init__(
        self, network: CrossViT, recipe: Recipe, images: Images, folder: Path, group: Group, ways: Ways
    ) -> None:
        self._recipe, self._images, self._folder, self._group, self._ways = recipe, images, folder, group, ways
        self._network = network.to(group.device)
        shared = group.shared(self._network)
        self._forward = torch.compile(shared) if ways.compiled else shared
        self._shared = shared
        self._optimizers = Optimizers(self._network, recipe)
        average = get_ema_multi_avg_fn(recipe.ema)
        self._average = AveragedModel(self._network, multi_avg_fn=average) if recipe.ema else None
        self._order = Order(len(images), recipe.batch, recipe.repeats, recipe.seed, ways.chunk, group.rank, group.ranks)
        self.steps = max(round(recipe.epochs * self._order.steps_an_epoch), 1)
        self.step = 0
        mean, std = (
            torch.tensor(values, device=group.device).view(3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD)
        )
        self._mean, self._std = mean, std
        self._resume()

    @property
    def result(self) -> CrossViT:
        """The network to keep: with the average of the weights, if there is one."""
        network = self._average.module if self._average is not None else self._network
        assert isinstance(network, CrossViT)
        return network

    def run(self, validation: Images | None, tell: Callable[[str, Row], None]) -> None:
        """Train to the end, with `validation` after every epoch; `tell` is given each row of the journal."""
        journal = Journal(self._folder, self.step) if self._group.first else None
        view = View(self._recipe.side, self._recipe.least_area)
        batches = self._images.batches(self._order.chunks(self.step, self.steps), view)
        saved = noted = time.monotonic()
        losses: list[Tensor] = []
        while self.step < self.steps:
            loss, gradient = self._train(batches)
            losses.append(loss)
            self.step += 1
            last = self.step == self.steps
            if last or self.step % self._ways.log_steps == 0:
                row = self._row(losses, gradient, time.monotonic() - noted)
                if journal is not None:
                    journal.trained(row)
                    tell("training", row)
                losses, noted = [], time.monotonic()
            if validation is not None and (last or self.step % self._order.steps_an_epoch == 0):
                row = {"step": self.step, "epoch": self._epoch} | self.validate(validation)
                if journal is not None:
                    journal.validated(row)
                    tell("validation", row)
                noted = time.monotonic()
            # Between two rows: what a row says is the same whether or not the run was killed.
            if last or (not losses and time.monotonic() - saved > self._ways.checkpoint_seconds):
                self._save()
                saved = time.monotonic()
        if journal is not None:
            journal.draw()
            journal.close()

    def validate(self, images: Images) -> Row:
        """Loss and shares of right classes of the network to keep, over `images`."""
        network = self.result.eval()
        chunks = all_in_order(len(images), self._ways.chunk, self._group.rank, self._group.ranks)
        sums = torch.zeros(4, dtype=torch.float64, device=self._group.device)
        with torch.inference_mode():
            for pixels, targets in images.batches(chunks, View(self._recipe.side)):
                with self._autocast():
                    logits = network(self._normalised(pixels / 255)).float()
                loss = F.cross_entropy(logits, targets, reduction="sum")
                hits = logits.topk(min(_TOP, logits.shape[1])).indices == targets.unsqueeze(1)
                sums += torch.stack((loss, hits[:, 0].sum(), hits.sum(), torch.tensor(len(hits)).to(loss.device)))
        network.train()
        loss_sum, top1, top5, count = self._group.sum(sums).tolist()
        return {"loss": loss_sum / count, "top1": top1 / count, "top5": top5 / count}

    def _train(self, batches: Iterator[Batch]) -> tuple[Tensor, Tensor]:
        """A step; the mean loss of this process' images, and the gradient's length."""
        total = torch.zeros((), device=self._group.device)
        parts = self._order.chunks_a_step
        for part, (pixels, targets) in enumerate(islice(batches, parts)):
            torch.manual_seed(chance(self._recipe.seed, self.step, part, self._group.rank, 1))
            mixture = self._augmented(pixels / 255, targets)
            with self._group.alone(self._shared, last=part == parts - 1):
                with self._autocast():
                    logits = self._forward(mixture.images)
                loss = mixture.loss(logits.float(), self._recipe.label_smoothing)
                loss = loss * self._group.ranks / self._recipe.batch
                loss.backward()
            total += loss.detach()
        gradient = self._optimizers.step(self._learning_rate(self.step), self._recipe.clip)
        if self._average is not None:
            self._average.update_parameters(self._network)
        return total, gradient

    def _augmented(self, images: Tensor, targets: Tensor) -> Mixture:
        if self._recipe.rand_augment:
            images = rand_augment(images, self._recipe.rand_augment)
        images = self._normalised(images)
        if self._recipe.erasing:
            images = erase(images, self._recipe.erasing)
        return mix(images, targets, self._recipe.mixup, self._recipe.cutmix)

    def _normalised(self, images: Tensor) -> Tensor:
        return (images - self._mean) / self._std

    def _row(self, losses: list[Tensor], gradient: Tensor, seconds: float) -> Row:
        loss = self._group.sum(torch.stack(losses).mean()).item() / self._group.ranks
        return {
            "step": self.step,
            "epoch": self._epoch,
            "learning_rate": self._learning_rate(self.step - 1),
            "loss": loss,
            "gradient": gradient.item(),
            "images_per_second": len(losses) * self._recipe.batch / seconds,
        }

    @property
    def _epoch(self) -> float:
        return self.step / self._order.steps_an_epoch

    def _learning_rate(self, step: int) -> float:
        return learning_rate(self._recipe, step, self.steps, self._order.steps_an_epoch)

    def _autocast(self) -> AbstractContextManager[object]:
        return torch.autocast(self._group.device.type, torch.bfloat16) if self._ways.bf16 else nullcontext()

    def _save(self) -> None:
        """Written beside its place and exchanged for the old one in one step: there is always a whole one."""
        if not self._group.first:
            return
        state = {
            "step": self.step,
            "network": self._network.state_dict(),
            "optimizers": self._optimizers.state_dict(),
            "average": self._average.state_dict() if self._average is not None else None,
        }
        path = self._folder / CHECKPOINT
        beside = path.with_suffix(".writing")
        with beside.open("wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)

    def _resume(self) -> None:
        path = self._folder / CHECKPOINT
        if not path.is_file():
            return
        state = torch.load(path, map_location=self._group.device, weights_only=True)
        self.step = state["step"]
        self._network.load_state_dict(state["network"])
        self._optimizers.load_state_dict(state["optimizers"])
        if self._average is not None:
            self._average.load_state_dict(state["average"])
