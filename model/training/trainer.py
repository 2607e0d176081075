"""The training loop. A step depends only on the recipe, the data and its number, so a kill changes nothing."""

import math
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
from torch.optim.swa_utils import AveragedModel

from model.checkpoint import BadCheckpoint
from model.crossvit import CrossViT
from model.spec import IMAGENET_MEAN, IMAGENET_STD, preprocessing_at
from model.training.artifacts import WEIGHTS, replacing_file, write_weights
from model.training.augment import Mixture, erase, mix, rand_augment
from model.training.crops import RandomView
from model.training.distributed import Group
from model.training.images import Batch, FromFiles, TrainingImages
from model.training.moving_average import moving_average
from model.training.optimizers import Optimizers
from model.training.recipe import Recipe, learning_rate
from model.training.run_log import LogRow, RunLog
from model.training.sampler import Sampler, all_in_order, derive_seed
from model.training.stop_request import StopRequest

CHECKPOINT = "checkpoint.pt"
_TOP_CLASSES = 5


class Diverged(Exception):
    """The loss or a weight became NaN or infinite."""


@dataclass(frozen=True)
class TrainerOptions:
    """How a run is carried out.

    Attributes:
        micro_batch: images that go through the network at once, and are mixed with each other.
        bf16: whether matrix products are in bfloat16.
        compiled: whether torch.compile compiles the network.
        half: whether the weights are written in half precision.
        checkpoint_seconds: the time between checkpoints.
        log_steps: steps between two rows of the log.
    """

    micro_batch: int = 256
    bf16: bool = False
    compiled: bool = False
    half: bool = False
    checkpoint_seconds: float = 120
    log_steps: int = 10


class Trainer:
    """A run: the network, its optimisers, the average of its weights, and the number of the step.

    It resumes from the checkpoint in the folder, if there is one. Raises BadCheckpoint if that cannot be read.

    Args:
        network: the network to train, in training mode.
        recipe: the settings of the run.
        images: the training images.
        folder: where weights, checkpoint and log are written.
        group: the processes of the run.
        options: how the run is carried out.
    """

    def __init__(
        self,
        network: CrossViT,
        recipe: Recipe,
        images: TrainingImages,
        folder: Path,
        group: Group,
        options: TrainerOptions,
    ) -> None:
        self._recipe, self._images, self._folder, self._group, self._options = recipe, images, folder, group, options
        self._network = network.to(group.device)
        self._shared = group.shared(self._network)
        self._forward = torch.compile(self._shared) if options.compiled else self._shared
        self._optimizers = Optimizers(self._network, recipe)
        decay = recipe.ema_decay
        self._average = AveragedModel(self._network, multi_avg_fn=moving_average(decay)) if decay else None
        self._sampler = Sampler(
            images=len(images),
            batch=recipe.batch,
            repeats=recipe.repeats,
            seed=recipe.seed,
            micro_batch=options.micro_batch,
            rank=group.rank,
            ranks=group.ranks,
        )
        self.steps = max(round(recipe.epochs * self._sampler.steps_an_epoch), 1)
        self.step = 0
        self._losses: list[Tensor] = []  # of the steps since the last row of the log, in all processes
        self._mean, self._std = (
            torch.tensor(values, device=group.device).view(3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD)
        )
        self._resume()

    @property
    def result(self) -> CrossViT:
        """The network to keep: with the average of the weights, if there is one."""
        network = self._average.module if self._average is not None else self._network
        assert isinstance(network, CrossViT)
        return network

    def run(
        self,
        validation: FromFiles | None,
        report: Callable[[str, LogRow], None],
        stop: StopRequest,
        on_step: Callable[[], None] = lambda: None,
    ) -> None:
        """Train to the end. Write the weights after every epoch, and log the accuracy on `validation`, if given.

        `report` is called with each row of the log, `on_step` after each step. Raises Diverged; KeyboardInterrupt after
        a step, with a checkpoint, once `stop` is requested.
        """
        run_log = RunLog(self._folder, self.step) if self._group.first else None

        def log(kind: str, row: LogRow) -> None:
            if run_log is not None:
                run_log.add(kind, row)
                report(kind, row)

        view = RandomView(self._recipe.resolution, self._recipe.min_scale)
        batches = self._images.batches(self._sampler.chunks(self.step, self.steps), view)
        saved = logged = time.monotonic()
        logged_step = self.step
        while self.step < self.steps:
            loss, grad_norm = self._train(batches)
            self._losses.append(loss)
            self.step += 1
            on_step()
            last = self.step == self.steps
            if last or self.step % self._options.log_steps == 0:
                images = (self.step - logged_step) * self._recipe.batch
                log("training", self._row(grad_norm, images / (time.monotonic() - logged)))
                logged, logged_step = time.monotonic(), self.step
            epoch_ends = last or self.step % self._sampler.steps_an_epoch == 0
            if epoch_ends:
                self._check_weights()
                if validation is not None:
                    log("validation", {"step": self.step, "epoch": self._epoch} | self.validate(validation))
                self._write()
                logged, logged_step = time.monotonic(), self.step
            stopping = stop.requested  # read once: a request that comes while this step is saved ends the next one
            if last or stopping or time.monotonic() - saved > self._options.checkpoint_seconds:
                if not epoch_ends:
                    self._check_weights()
                self._save()
                saved = time.monotonic()
            if stopping and not last:
                raise KeyboardInterrupt
        self._write()
        if run_log is not None:
            run_log.close()

    def validate(self, images: FromFiles) -> LogRow:
        """Loss and accuracy of the network to keep on `images`, with the pixels that the service makes of them."""
        network = self.result.eval()
        chunks = all_in_order(len(images), self._options.micro_batch, self._group.rank, self._group.ranks)
        sums = torch.zeros(4, dtype=torch.float64, device=self._group.device)
        with torch.inference_mode():
            for pixels, targets in images.batches(chunks, preprocessing_at(self._recipe.resolution)):
                with self._autocast():
                    logits = network(self._normalised(pixels / 255)).float()
                loss = F.cross_entropy(logits, targets, reduction="sum")
                hits = logits.topk(min(_TOP_CLASSES, logits.shape[1])).indices == targets.unsqueeze(1)
                sums += torch.stack((loss, hits[:, 0].sum(), hits.sum(), torch.tensor(len(hits)).to(loss.device)))
        network.train()
        loss_sum, top1, top5, count = self._group.sum(sums).tolist()
        return {"loss": loss_sum / count, "top1": top1 / count, "top5": top5 / count}

    def _train(self, batches: Iterator[Batch]) -> tuple[Tensor, Tensor]:
        """Do one step; returns the mean loss of its images, and the gradient's norm."""
        total = torch.zeros((), device=self._group.device)
        parts = self._sampler.chunks_a_step
        for part, (pixels, targets) in enumerate(islice(batches, parts)):
            torch.manual_seed(derive_seed(self._recipe.seed, self.step, part, self._group.rank, 1))
            mixture = self._augmented(pixels / 255, targets)
            with self._group.no_sync(self._shared, last=part == parts - 1):
                with self._autocast():
                    logits = self._forward(mixture.images)
                loss = mixture.loss(logits.float(), self._recipe.label_smoothing)
                loss = loss * self._group.ranks / self._recipe.batch
                loss.backward()
            total += loss.detach()
        grad_norm = self._optimizers.step(self._learning_rate(self.step), self._recipe.clip_grad)
        if self._average is not None:
            self._average.update_parameters(self._network)
        return self._group.sum(total) / self._group.ranks, grad_norm

    def _augmented(self, images: Tensor, targets: Tensor) -> Mixture:
        if self._recipe.rand_augment:
            images = rand_augment(images, self._recipe.rand_augment)
        images = self._normalised(images)
        if self._recipe.random_erasing:
            images = erase(images, self._recipe.random_erasing)
        return mix(images, targets, self._recipe.mixup, self._recipe.cutmix)

    def _normalised(self, images: Tensor) -> Tensor:
        return (images - self._mean) / self._std

    def _row(self, grad_norm: Tensor, images_per_second: float) -> LogRow:
        loss = torch.stack(self._losses).mean().item()
        self._losses.clear()
        if not math.isfinite(loss):
            raise self._diverged(f"the loss is {loss}")
        return {
            "step": self.step,
            "epoch": self._epoch,
            "learning_rate": self._learning_rate(self.step - 1),
            "loss": loss,
            "grad_norm": grad_norm.item(),
            "images_per_second": images_per_second,
        }

    @property
    def _epoch(self) -> float:
        return self.step / self._sampler.steps_an_epoch

    def _learning_rate(self, step: int) -> float:
        return learning_rate(self._recipe, step, self.steps, self._sampler.steps_an_epoch)

    def _autocast(self) -> AbstractContextManager[object]:
        return torch.autocast(self._group.device.type, torch.bfloat16) if self._options.bf16 else nullcontext()

    def _check_weights(self) -> None:
        """Raise Diverged instead of writing weights that are NaN or infinite: the earlier ones stay."""
        if not all(torch.isfinite(parameter).all() for parameter in self._network.parameters()):
            raise self._diverged("weights became NaN or infinite")

    def _diverged(self, symptom: str) -> Diverged:
        return Diverged(
            f"{symptom} at step {self.step}: train in another folder, with a lower --lr or a higher --warmup-epochs"
        )

    def _write(self) -> None:
        if self._group.first:
            write_weights(self._folder / WEIGHTS, self.result, half=self._options.half)

    def _save(self) -> None:
        if not self._group.first:
            return
        state = {
            "step": self.step,
            "losses": self._losses,
            "network": self._network.state_dict(),
            "optimizers": self._optimizers.state_dict(),
            "average": self._average.state_dict() if self._average is not None else None,
        }
        with replacing_file(self._folder / CHECKPOINT) as beside, beside.open("wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())

    def _resume(self) -> None:
        path = self._folder / CHECKPOINT
        if not path.is_file():
            return
        try:
            state = torch.load(path, map_location=self._group.device, weights_only=True)
        except Exception as err:  # torch raises errors of many kinds for a damaged file
            raise BadCheckpoint(f"{path} is damaged: remove it to start again from the beginning") from err
        self.step, self._losses = state["step"], state["losses"]
        self._network.load_state_dict(state["network"])
        self._optimizers.load_state_dict(state["optimizers"])
        if self._average is not None:
            self._average.load_state_dict(state["average"])
