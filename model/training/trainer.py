"""The training loop: every step is a function of the recipe and its number, so that a run can go on after a kill."""

import csv
import os
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from model.crossvit import CrossViT
from model.spec import IMAGENET_MEAN, IMAGENET_STD
from model.training.images import Resident
from model.training.optimizers import Optimizers
from model.training.recipe import Recipe, learning_rate

CHECKPOINT = "checkpoint.pt"
_COLUMNS = ("step", "epoch", "learning_rate", "loss", "gradient", "images_per_second")
_VALIDATION_COLUMNS = ("step", "epoch", "loss", "top1", "top5")


@dataclass(frozen=True)
class Ways:
    """How a run is carried out, which changes its speed and not what it is."""

    device: torch.device
    bf16: bool = False
    compiled: bool = False
    micro_batch: int = 256
    checkpoint_seconds: float = 120
    log_steps: int = 10


class Trainer:
    """A run in `folder`: the network, its optimisers and its moving average, and how far they have come."""

    def __init__(
        self, network: CrossViT, recipe: Recipe, images: Resident, folder: Path, ways: Ways, validation: Resident | None
    ) -> None:
        self.recipe, self._images, self._folder, self._ways, self._validation = recipe, images, folder, ways, validation
        self.network = network.to(ways.device)
        self._forward = torch.compile(self.network) if ways.compiled else self.network
        self._optimizers = Optimizers(self.network, recipe)
        self._average = (
            AveragedModel(self.network, multi_avg_fn=get_ema_multi_avg_fn(recipe.ema)) if recipe.ema else None
        )
        self.steps_an_epoch = max(len(images) // recipe.batch, 1)
        self.steps = max(round(recipe.epochs * self.steps_an_epoch), 1)
        self.step = 0
        mean, std = (torch.tensor(values).view(3, 1, 1) * 255 for values in (IMAGENET_MEAN, IMAGENET_STD))
        self._mean, self._std = mean.to(ways.device), std.to(ways.device)

    @property
    def averaged(self) -> CrossViT:
        """The network to keep: the moving average of the weights where there is one."""
        return self._average.module if self._average is not None else self.network

    def run(self, tell: Callable[[dict[str, float]], None]) -> None:
        """Train to the end, from the checkpoint in the folder if there is one; `tell` is given each row of the log."""
        self._resume()
        log = _Table(self._folder / "training.csv", _COLUMNS, self.step)
        checks = _Table(self._folder / "validation.csv", _VALIDATION_COLUMNS, self.step)
        saved = noted = time.monotonic()
        losses: list[Tensor] = []
        while self.step < self.steps:
            loss, length = self._train(self.step)
            losses.append(loss)
            self.step += 1
            epoch = self.step / self.steps_an_epoch
            last = self.step == self.steps
            if self.step % self._ways.log_steps == 0 or last:
                now = time.monotonic()
                row = {
                    "step": self.step,
                    "epoch": epoch,
                    "learning_rate": self._learning_rate(self.step - 1),
                    "loss": torch.stack(losses).mean().item(),
                    "gradient": length.item(),
                    "images_per_second": len(losses) * self.recipe.batch / (now - noted),
                }
                log.add(row)
                tell(row)
                losses.clear()
                noted = now
            if self._validation is not None and (last or self.step % self.steps_an_epoch == 0):
                row = {"step": self.step, "epoch": epoch} | self.validate(self._validation)
                checks.add(row)
                tell(row)
                noted = time.monotonic()
            if last or (not losses and time.monotonic() - saved > self._ways.checkpoint_seconds):
                self._save()
                saved = time.monotonic()

    def validate(self, images: Resident) -> dict[str, float]:
        """Loss and accuracy of the averaged weights on `images`."""
        network = self.averaged.eval()
        loss, top1, top5 = 0.0, 0, 0
        with torch.inference_mode():
            for pixels, targets in images.central_crops(self.recipe.side, self._ways.micro_batch):
                with self._autocast():
                    logits = network(self._normalised(pixels)).float()
                loss += F.cross_entropy(logits, targets, reduction="sum").item()
                hits = logits.topk(5).indices == targets.unsqueeze(1)
                top1, top5 = top1 + int(hits[:, 0].sum()), top5 + int(hits.sum())
        network.train()
        count = len(images)
        return {"loss": loss / count, "top1": top1 / count, "top5": top5 / count}

    def _train(self, step: int) -> tuple[Tensor, Tensor]:
        recipe = self.recipe
        epoch, place = divmod(step, self.steps_an_epoch)
        order = torch.randperm(len(self._images), generator=_generator(recipe.seed, epoch))
        chance = _generator(recipe.seed, epoch, place)
        torch.manual_seed(chance.initial_seed())
        chosen = order[place * recipe.batch : (place + 1) * recipe.batch]
        total = torch.zeros((), device=self._ways.device)
        for indices in chosen.split(self._ways.micro_batch):
            pixels, targets = self._images.random_crops(indices, recipe.side, recipe.least_area, chance)
            with self._autocast():
                logits = self._forward(self._normalised(pixels))
            loss = F.cross_entropy(
                logits.float(), targets, label_smoothing=recipe.label_smoothing, reduction="sum"
            ) / len(chosen)
            loss.backward()
            total += loss.detach()
        length = self._optimizers.step(self._learning_rate(step), recipe.clip)
        if self._average is not None:
            self._average.update_parameters(self.network)
        return total, length

    def _normalised(self, pixels: Tensor) -> Tensor:
        return (pixels - self._mean) / self._std

    def _learning_rate(self, step: int) -> float:
        return learning_rate(self.recipe, step, self.steps, self.steps_an_epoch)

    def _autocast(self) -> Any:
        return torch.autocast(self._ways.device.type, torch.bfloat16) if self._ways.bf16 else nullcontext()

    def _save(self) -> None:
        """Written beside its place and exchanged for the old one in one step: there is always a whole one."""
        state = {
            "step": self.step,
            "network": self.network.state_dict(),
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
        state = torch.load(path, map_location=self._ways.device, weights_only=True)
        self.step = state["step"]
        self.network.load_state_dict(state["network"])
        self._optimizers.load_state_dict(state["optimizers"])
        if self._average is not None:
            self._average.load_state_dict(state["average"])


class _Table:
    """A CSV file that rows are added to; those after `step`, of steps that are done again, go."""

    def __init__(self, path: Path, columns: tuple[str, ...], step: int) -> None:
        rows = []
        if path.is_file():
            with path.open(newline="") as file:
                rows = [row for row in csv.DictReader(file) if int(row["step"]) <= step]
        self._file = path.open("w", newline="")
        self._writer = csv.DictWriter(self._file, columns)
        self._writer.writeheader()
        self._writer.writerows(rows)
        self._file.flush()

    def add(self, row: dict[str, float]) -> None:
        self._writer.writerow(row)
        self._file.flush()


def _generator(*numbers: int) -> torch.Generator:
    """Chance that depends on `numbers` alone."""
    seed = np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(seed))
