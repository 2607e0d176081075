"""The settings of a training run, as plain data; they are kept beside the weights."""

import math
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from model.spec import VARIANTS, variant_named

Share = Annotated[float, Field(ge=0, lt=1)]


def _canonical(name: object) -> object:
    """The variant's own name for any name of it; other values stay, and validation refuses them."""
    return variant_named(name).name if isinstance(name, str) else name


class Recipe(BaseModel):
    """How a network is trained. The defaults are the paper's (section 4.1), with DeiT's average of the weights."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    variant: Annotated[
        Literal[tuple(VARIANTS)],  # type: ignore[valid-type]
        BeforeValidator(_canonical),
        Field(description="the network, by its name in this project, in timm or in IBM's files"),
    ]
    resolution: Annotated[
        int, Field(ge=64, multiple_of=32, description="side of training images in pixels; the variant's own by default")
    ] = 224
    epochs: Annotated[
        float, Field(gt=0, description="length of the run; an epoch is as many images as the data has")
    ] = 300
    batch: Annotated[int, Field(ge=1, description="images in a step, on all GPUs together")] = 4096
    seed: Annotated[int, Field(ge=0, lt=1 << 63, description="seed of everything random")] = 0

    # The optimiser
    optimizer: Annotated[
        Literal["adamw", "sgd", "muon"], Field(description="muon is for matrices, with AdamW for the rest")
    ] = "adamw"
    lr: Annotated[float, Field(gt=0, description="highest learning rate, for this batch size")] = 0.004
    min_lr: Annotated[float, Field(ge=0, description="learning rate at the end of the cosine")] = 1e-5
    warmup_epochs: Annotated[
        float, Field(ge=0, description="epochs in which the learning rate rises from nearly 0")
    ] = 30
    weight_decay: Annotated[float, Field(ge=0, description="weight decay of matrices and filters")] = 0.05
    clip_grad: Annotated[float, Field(ge=0, description="largest norm of the whole gradient; 0 for no limit")] = 0
    ema_decay: Annotated[
        float, Field(ge=0, lt=1, description="decay of the weights' moving average, less at first; 0 for none")
    ] = 0.99996

    # Regularisation
    label_smoothing: Annotated[Share, Field(description="share of the target that is spread over all classes")] = 0.1
    drop_path: Annotated[Share, Field(description="how often the last block is skipped; earlier ones less often")] = 0.1
    min_scale: Annotated[float, Field(gt=0, le=1, description="smallest share of the image in a crop")] = 0.08
    repeats: Annotated[int, Field(ge=1, description="how often an image is in a step, each time augmented anew")] = 3
    rand_augment: Annotated[float, Field(ge=0, le=10, description="magnitude, from 0 for none to 10")] = 9
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
            raise ValueError(f"min_lr {self.min_lr:g} is higher than lr {self.lr:g}, the highest learning rate")
        if self.warmup_epochs >= self.epochs:
            raise ValueError(f"warmup_epochs {self.warmup_epochs:g} must be fewer than the {self.epochs:g} epochs")
        return self


_NO_AUGMENTATION = {
    "rand_augment": 0,
    "random_erasing": 0,
    "mixup": 0,
    "cutmix": 0,
    "repeats": 1,
    "drop_path": 0,
}

# The settings of each preset that differ from the defaults. "finetune", at a higher resolution, is DeiT's, for the
# paper's 30 epochs; "transfer" to other classes is the paper's.
PRESETS: dict[str, dict[str, Any]] = {
    "paper": {},
    "finetune": {
        "epochs": 30,
        "batch": 512,
        "lr": 5e-6,
        "min_lr": 5e-6,
        "warmup_epochs": 5,
        "weight_decay": 1e-8,
        "drop_path": 0,
        "ema_decay": 0,
    },
    "transfer": {
        "epochs": 1000,
        "batch": 768,
        "optimizer": "sgd",
        "lr": 0.01,
        "warmup_epochs": 5,
        "weight_decay": 1e-4,
        "ema_decay": 0,
    },
    "short": _NO_AUGMENTATION
    | {
        "epochs": 10,
        "batch": 256,
        "optimizer": "muon",
        "lr": 0.002,
        "warmup_epochs": 0.25,
        "clip_grad": 1.0,
        "ema_decay": 0.998,
        "min_scale": 0.25,
    },
}


def learning_rate(recipe: Recipe, step: int, steps: int, steps_an_epoch: int) -> float:
    """The learning rate of `step`, counted from 0: a linear rise, then half a cosine down to `min_lr`."""
    warmup = min(round(recipe.warmup_epochs * steps_an_epoch), steps - 1)
    if step < warmup:
        return recipe.lr * (step + 1) / (warmup + 1)
    progress = (step - warmup) / (steps - warmup)
    return recipe.min_lr + (recipe.lr - recipe.min_lr) * (1 + math.cos(math.pi * progress)) / 2
