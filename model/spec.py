"""The CrossViT networks as plain data; imports no torch.

Source: "CrossViT: Cross-Attention Multi-Scale Vision Transformer for Image Classification"
(Chen, Fan, Panda, ICCV 2021, arXiv 2103.14899), tables 1 and 4 to 6, and the released weights.
Throughout the project S is the small branch (patch 12) and L the large one (patch 16).
"""

import difflib
import re
from dataclasses import dataclass, replace
from typing import Literal

PATCH_SIZES = (12, 16)  # (S, L)
ENCODERS = 3  # multi-scale encoders, K in the paper
RESOLUTIONS = (224, 384, 480)  # the paper's; a network that was trained at another one is also served there
LEAST_SIDE, LARGEST_SIDE = 64, 2048  # pixels
SIDE_STEP = 32  # resolutions are its multiples
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
IMAGENET_CLASSES = 1000
UNTRAINED = "untrained"  # the id of random weights

RGB = tuple[float, float, float]


@dataclass(frozen=True)
class Normalization:
    """The mean to subtract from pixels between 0 and 1, and the std to divide by then, in the order R, G, B.

    Raises ValueError if they cannot belong to such pixels.
    """

    mean: RGB
    std: RGB

    def __post_init__(self) -> None:
        if any(1 < value <= 255 for value in (*self.mean, *self.std)):
            raise ValueError(
                f"mean {self.mean} and std {self.std} are of pixels from 0 to 255; divide them by 255, for they are "
                "those of pixels from 0 to 1"
            )
        if not all(0 <= value <= 1 for value in self.mean) or not all(1e-3 <= value <= 1 for value in self.std):
            raise ValueError(f"mean {self.mean} must lie between 0 and 1, and std {self.std} between 0.001 and 1")


IMAGENET = Normalization(IMAGENET_MEAN, IMAGENET_STD)
NORMALIZATIONS = {  # by the names that they have in timm and elsewhere
    "imagenet": IMAGENET,
    "inception": Normalization((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    "clip": Normalization((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
    "none": Normalization((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
}

# From logits to scores: softmax, where all classes share 1, or sigmoid, where each class is independent.
Activation = Literal["softmax", "sigmoid"]
SOFTMAX: Activation = "softmax"
SIGMOID: Activation = "sigmoid"
ACTIVATIONS = (SOFTMAX, SIGMOID)


@dataclass(frozen=True)
class Preprocessing:
    """Resize the shorter side to `resize` pixels (bicubic, antialiased), then cut `crop` x `crop` from the centre."""

    resize: int
    crop: int


# The paper's protocol at 224; at the larger sizes the whole image counts, as timm has it.
PREPROCESSING = {224: Preprocessing(256, 224), 384: Preprocessing(384, 384), 480: Preprocessing(480, 480)}


def preprocessing_at(side: int) -> Preprocessing:
    """The default at the resolution `side`: the same share of the image as at the paper's next smaller resolution."""
    side = max(side, LEAST_SIDE)
    steps = PREPROCESSING[max((resolution for resolution in PREPROCESSING if resolution <= side), default=224)]
    return Preprocessing(round(side * steps.resize / steps.crop), side)


@dataclass(frozen=True)
class Variant:
    """One network of the paper, and the resolution that its published weights were trained at.

    Pairs are (S, L). `depth` counts L's transformer blocks in each encoder; S always has one.
    `gmacs` are the published multiply-accumulates of one image, in 1e9, at each of `RESOLUTIONS`.
    """

    name: str
    dims: tuple[int, int]
    heads: int
    depth: int
    mlp_ratio: int
    million_params: float
    gmacs: tuple[float, float, float]
    resolution: int = 224

    @property
    def dagger(self) -> bool:
        """Whether three convolutions replace each linear patch embedding."""
        return "_dagger" in self.name

    @property
    def hub_repo(self) -> str:
        """timm's repository of the weights on the Hugging Face hub; timm names them by S's side."""
        return f"timm/{self.name.removesuffix('_384')}_{branch_sides(self.resolution)[0]}.in1k"


def branch_sides(side: int) -> tuple[int, int]:
    """Sides (S, L) in pixels to which the branches resize a square image of `side` pixels.

    224 and 240 give (240, 224), 384 and 408 give (408, 384), 480 and 504 give (504, 480).
    """
    large = 32 * (side // 32)
    return 12 * ((5 * large) // 56), large


def patch_grids(side: int) -> tuple[int, int]:
    """Patches along one side (S, L) for a square image of `side` pixels: (20, 14) at 224."""
    small, large = branch_sides(side)
    return small // PATCH_SIZES[0], large // PATCH_SIZES[1]


def is_resolution(side: int) -> bool:
    """Whether a network can be served at `side`."""
    return LEAST_SIDE <= side <= LARGEST_SIDE and side % SIDE_STEP == 0


def follow_from_one_side(small: int, large: int) -> bool:
    """Whether `branch_sides` gives these sides (S, L) for some image: it does for 480 and 448."""
    return is_resolution(large) and branch_sides(large) == (small, large)


_NETWORKS = (
    Variant("crossvit_tiny", (96, 192), 3, 4, 4, 7.01, (1.56, 6.08, 11.41)),
    Variant("crossvit_small", (192, 384), 6, 4, 4, 26.86, (5.62, 19.44, 34.15)),
    Variant("crossvit_base", (384, 768), 12, 4, 4, 105.03, (21.19, 67.98, 113.63)),
    Variant("crossvit_9", (128, 256), 4, 3, 3, 8.55, (1.84, 7.06, 13.12)),
    Variant("crossvit_15", (192, 384), 6, 5, 3, 27.53, (5.79, 20.46, 36.43)),
    Variant("crossvit_18", (224, 448), 7, 6, 3, 43.27, (9.03, 31.12, 54.59)),
    Variant("crossvit_9_dagger", (128, 256), 4, 3, 3, 8.78, (1.98, 7.46, 13.75)),
    Variant("crossvit_15_dagger", (192, 384), 6, 5, 3, 28.21, (6.11, 21.40, 37.89)),
    Variant("crossvit_18_dagger", (224, 448), 7, 6, 3, 44.27, (9.47, 32.41, 56.60)),
)
_AT_384 = (  # the same networks fine-tuned at 384, with the position embeddings of that size
    replace(_NETWORKS[7], name="crossvit_15_dagger_384", million_params=28.50, resolution=384),
    replace(_NETWORKS[8], name="crossvit_18_dagger_384", million_params=44.61, resolution=384),
)
VARIANTS = {variant.name: variant for variant in _NETWORKS + _AT_384}


def variant_named(name: str) -> Variant:
    """The variant called `name`, here, by timm (`hf_hub:timm/crossvit_9_240.in1k`) or by IBM (`crossvit_9_224.pth`).

    The number at the end of a name is the side that either branch was trained at. ValueError names all that there are,
    and the nearest.
    """
    plain = name.strip().casefold().rpartition("/")[2].rpartition(":")[2].partition(".")[0]
    plain = re.sub(r"[\s-]+", "_", plain.replace("†", "_dagger"))
    if plain in VARIANTS:
        return VARIANTS[plain]
    network, _, side = plain.rpartition("_")
    if network in VARIANTS and VARIANTS[network].resolution == RESOLUTIONS[0] and side.isascii() and side.isdecimal():
        for variant in (VARIANTS[network], VARIANTS.get(f"{network}_384")):
            if variant and int(side) in (variant.resolution, branch_sides(variant.resolution)[0]):
                return variant
        raise ValueError(
            f"unknown variant {name!r}: there are no weights of {network} at {side}; for a checkpoint that was "
            f"fine-tuned at that size give {network}: the size is read off the checkpoint"
        )
    nearest = difflib.get_close_matches(plain, VARIANTS, n=2)
    hint = f"; the nearest: {' and '.join(nearest)}" if nearest else ""
    raise ValueError(f"unknown variant {name!r}; one of {', '.join(VARIANTS)}{hint}")
