"""What a training run is: its settings, as plain data that is kept beside the weights."""

import math
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from model.spec import VARIANTS, variant_named

Share = Annotated[float, Field(ge=0, lt=1)]


def _canonical(name: object) -> object:
    """The variant's name here; what is none is left to be refused."""
    return variant_named(name).name if isinstance(name, str) else name


class Recipe(BaseModel):
    """How a network is trained. The defaults are the paper's (section 4.1), with DeiT's average of the weights."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    variant: Annotated[
        Literal[tuple(VARIANTS)],  # type: ignore[valid-type]
        BeforeValidator(_canonical),
        Field(description="the network, by its name here, in timm or in IBM's files"),
    ]
    resolution: Annotated[
        int, Field(ge=64, multiple_of=32, description="of training images, pixels; that of the variant if left out")
    ] = 224
    epochs: Annotated[float, Field(gt=0, description="as many images as there are count as one")] = 300
    batch: Annotated[int, Field(ge=1, description="images in a step, on all GPUs together")] = 4096
    seed: Annotated[int, Field(ge=0, lt=1 << 63, description="of everything that is left to chance")] = 0

    # The optimiser
    optimizer: Annotated[
        Literal["adamw", "sgd", "muon"], Field(description="muon is for matrices, with AdamW for the rest")
    ] = "adamw"
    lr: Annotated[float, Field(gt=0, description="highest learning rate, of this batch")] = 0.004
    min_lr: Annotated[float, Field(ge=0, description="learning rate that the cosine ends at")] = 1e-5
    warmup_epochs: Annotated[float, Field(ge=0, description="in which the learning rate rises from nearly 0")] = 30
    weight_decay: Annotated[float, Field(ge=0, description="of matrices and filters")] = 0.05
    clip_grad: Annotated[float, Field(ge=0, description="longest gradient, all of it as one vector; 0 for any")] = 0
    ema_decay: Annotated[
        float, Field(ge=0, lt=1, description="of the weights' moving average, less at first; 0 for none")
    ] = 0.99996

    # Regularisation
    label_smoothing: Annotated[Share, Field(description="share of the target that all classes get")] = 0.1
    drop_path: Annotated[Share, Field(description="how often the last block is left out, the others less")] = 0.1
    min_scale: Annotated[float, Field(gt=0, le=1, description="share of the image that a crop has at least")] = 0.08
    repeats: Annotated[int, Field(ge=1, description="how often an image is in a step, each time other")] = 3
    rand_augment: Annotated[float, Field(ge=0, le=10, description="magnitude of 10; 0 for none")] = 9
    random_erasing: Annotated[Share, Field(description="how often noise covers a part of an image")] = 0.25
    mixup: Annotated[float, Field(ge=0, description="alpha; 0 for none")] = 0.8
    cutmix: Annotated[float, Field(ge=0, description="alpha; 0 for none")] = 1.0

    @model_validator(mode="before")
    @classmethod
    def _at_its_resolution(cls, values: dict[str, Any]) -> dict[str, Any]:
        try:
            return {"resolution": variant_named(str(values.get("variant", ""))).resolution} | values
        except ValueError:
            return values

    @model_validator(mode="after")
    def _fits(self) -> "Recipe":
        if self.min_lr > self.lr:
            raise ValueError(f"min_lr {self.min_lr:g} is over lr {self.lr:g}, which is the highest")
        if self.warmup_epochs >= self.epochs:
            raise ValueError(f"warmup_epochs {self.warmup_epochs:g} leave nothing of {self.epochs:g} epochs")
        return self


_PLAIN = {"rand_augment": 0, "random_erasing": 0, "mixup": 0, "cutmix": 0, "repeats": 1, "drop_path": 0}

# What each has other than the defaults. Fine-tuning, at a higher resolution, is DeiT's, for the paper's 30 epochs;
# transfer to other classes is the paper's.
PRESETS: dict[str, dict[str, Any]] = {
    "paper": {},
    "finetune": {
        **{"epochs": 30, "batch": 512, "lr": 5e-6, "min_lr": 5e-6, "warmup_epochs": 5, "weight_decay": 1e-8},
        **{"drop_path": 0, "ema_decay": 0},
    },
    "transfer": {
        **{"epochs": 1000, "batch": 768, "optimizer": "sgd", "lr": 0.01, "warmup_epochs": 5},
        **{"weight_decay": 1e-4, "ema_decay": 0},
    },
    "short": {
        **_PLAIN,
        **{"epochs": 10, "batch": 256, "optimizer": "muon", "lr": 0.002, "warmup_epochs": 0.25, "clip_grad": 1.0},
        **{"ema_decay": 0.998, "min_scale": 0.25},
    },
}


def learning_rate(recipe: Recipe, step: int, steps: int, steps_an_epoch: int) -> float:
    """The learning rate of `step`, the first being 0: a linear rise, then half a cosine down to `min_lr`."""
    warmup = min(round(recipe.warmup_epochs * steps_an_epoch), steps - 1)
    if step < warmup:
        return recipe.lr * (step + 1) / (warmup + 1)
    progress = (step - warmup) / (steps - warmup)
    return recipe.min_lr + (recipe.lr - recipe.min_lr) * (1 + math.cos(math.pi * progress)) / 2
