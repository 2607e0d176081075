from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from model.crossvit import CrossViT
from model.dataset import Dataset
from model.spec import VARIANTS
from model.training.distributed import Group
from model.training.images import FromFiles
from model.training.recipe import Recipe
from model.training.stop_request import StopRequest
from model.training.trainer import CHECKPOINT, Trainer, TrainerOptions
from tests.model.training import made
from tests.support.training_log import read_rows

TINY = VARIANTS["crossvit_tiny"]


class WithAnother(Group):
    """Two processes, of which the other is a fake: its losses are 2 higher."""

    def shared(self, network: nn.Module) -> nn.Module:
        return network

    def no_sync(self, network: nn.Module, *, last: bool) -> Any:  # noqa: ARG002
        return nullcontext()

    def sum(self, values: Tensor) -> Tensor:
        return values + (values + 2)


class Stopped(Trainer):
    """Stopped between the last step and its checkpoint."""

    def _write(self) -> None:
        if self.step == self.steps:
            raise KeyboardInterrupt
        super()._write()


def test_losses_are_those_of_all_processes_also_after_a_checkpoint(tmp_path: Path) -> None:
    recipe = Recipe(variant=TINY.name, resolution=64, batch=6, epochs=4, warmup_epochs=0, repeats=1, lr=1e-3)
    images = FromFiles(Dataset([made.folder(tmp_path / "data", each=2)]), [0, 0, 1, 1, 2, 2], torch.device("cpu"), 0)

    def losses(out: Path, kind: type[Trainer] = Trainer) -> list[float]:
        torch.manual_seed(0)
        group, options = WithAnother(torch.device("cpu"), 0, 2), TrainerOptions(checkpoint_seconds=0, log_steps=4)
        kind(CrossViT(TINY, 3), recipe, images, out, group, options).run(
            None, lambda *_: None, StopRequest(alone=False)
        )
        return [row["loss"] for row in read_rows(out, "training")]

    for name in ("whole", "stopped"):
        (tmp_path / name).mkdir()
    (whole,) = losses(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        losses(tmp_path / "stopped", Stopped)
    kept = torch.load(tmp_path / "stopped" / CHECKPOINT)["losses"]
    assert len(kept) == 3
    assert min(*kept, whole) > 1.6  # the mean of both; that of this process alone is about log(3) = 1.1
    assert losses(tmp_path / "stopped") == [whole]


@pytest.mark.parametrize("meanwhile", ["_write", "_save"])
def test_a_stop_that_is_requested_while_files_are_written_has_a_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, meanwhile: str
) -> None:
    stop = StopRequest(alone=False)
    write = getattr(Trainer, meanwhile)

    def interrupted(trainer: Trainer) -> None:
        stop.requested = True
        write(trainer)

    monkeypatch.setattr(Trainer, meanwhile, interrupted)
    images = FromFiles(Dataset([made.folder(tmp_path / "data", each=1)]), [0, 1, 2], torch.device("cpu"), 0)
    recipe = Recipe(variant=TINY.name, resolution=64, batch=3, epochs=9, warmup_epochs=0, repeats=1)
    group = Group(torch.device("cpu"), 0, 1)
    options = TrainerOptions(checkpoint_seconds=0 if meanwhile == "_save" else 1000, log_steps=1)
    trainer = Trainer(CrossViT(TINY, 3), recipe, images, tmp_path, group, options)
    with pytest.raises(KeyboardInterrupt):
        trainer.run(None, lambda *_: None, stop)
    assert torch.load(tmp_path / CHECKPOINT)["step"] == trainer.step < trainer.steps
