"""What a training run is: its settings, as plain data that is kept beside the weights."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from model.spec import RESOLUTIONS, VARIANTS

Share = Annotated[float, Field(ge=0, le=1)]


class Recipe(BaseModel):
    """How a network is trained; the defaults are DeiT's recipe as the paper has it (section 4.1), at its 224 pixels."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    variant: Annotated[Literal[tuple(VARIANTS)], Field(description="the network")]  # type: ignore[valid-type]
    side: Annotated[int, Field(ge=64, multiple_of=32, description="images are so many pixels high and wide")] = (
        RESOLUTIONS[0]
    )
    epochs: Annotated[float, Field(gt=0, description="times that every image is seen; 0.5 is half of them once")] = 300
    batch: Annotated[int, Field(ge=1, description="images in a step, on all GPUs together")] = 4096
    seed: Annotated[int, Field(ge=0, description="of everything that is drawn by chance")] = 0

    # The optimiser
    optimizer: Annotated[
        Literal["adamw", "muon", "sgd"], Field(description="muon is for matrices, AdamW for the rest")
    ] = "adamw"
    lr: Annotated[float, Field(gt=0, description="highest learning rate, for this batch")] = 0.004
    final_lr: Annotated[float, Field(ge=0, description="learning rate that the cosine ends at")] = 1e-5
    warmup_epochs: Annotated[float, Field(ge=0, description="in which the learning rate rises from nearly 0")] = 30
    weight_decay: Annotated[float, Field(ge=0)] = 0.05
    clip: Annotated[float, Field(ge=0, description="longest gradient, all of it as one vector; 0 for any length")] = 0
    ema: Annotated[float, Field(ge=0, lt=1, description="how much the weights' moving average keeps; 0 for none")] = (
        0.99996
    )

    # Regularisation
    label_smoothing: Share = 0.1
    drop_path: Annotated[Share, Field(description="how often the last block is left out, the others less")] = 0.1
    least_area: Annotated[float, Field(gt=0, le=1, description="share of an image that a random crop has at least")] = (
        0.08
    )


def learning_rate(recipe: Recipe, step: int, steps: int, steps_an_epoch: int) -> float:
    """The learning rate of `step`, the first being 0: a linear rise, then half a cosine down to `final_lr`."""
    from math import cos, pi

    warmup = min(round(recipe.warmup_epochs * steps_an_epoch), steps - 1)
    if step < warmup:
        return recipe.lr * (step + 1) / (warmup + 1)
    progress = (step - warmup) / max(steps - warmup, 1)
    return recipe.final_lr + (recipe.lr - recipe.final_lr) * (1 + cos(pi * progress)) / 2
