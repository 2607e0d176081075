"""Which variants the shapes of tensors are of, and where they differ from one; imports no torch."""

import math
from collections.abc import Mapping

from model.parameter_shapes import Shape, parameter_shapes
from model.spec import IMAGENET_CLASSES, PATCH_SIZES, VARIANTS, Variant, patch_grids

Shapes = Mapping[str, Shape]
_MAX_SHOWN_DIFFERENCES = 2  # of each kind


def fits(shapes: Shapes, variant: Variant) -> bool:
    """Whether tensors of these names and shapes are `variant`, with any number of classes and any position grids."""
    return dict(shapes) == expected_shapes(shapes, variant)


def fitting_variants(shapes: Shapes) -> list[Variant]:
    """The variants that the tensors are, that of their position grids first.

    Variants that differ in the resolution alone are the same network: a grid that is none of theirs counts as the
    paper's usual one.
    """
    fitting = [variant for variant in VARIANTS.values() if fits(shapes, variant)]
    return sorted(fitting, key=lambda variant: (not _has_its_grids(shapes, variant), variant.resolution))


def differences_from(shapes: Shapes, variant: Variant) -> str:
    """How tensors that are not `variant` differ from it, and which variant they are instead."""
    expected = expected_shapes(shapes, variant)
    kinds = (
        [f"{name} is missing" for name in expected if name not in shapes],
        [f"{name} is unexpected" for name in shapes if name not in expected],
        [
            f"{name} is {shapes[name]}, expected {shape}"
            for name, shape in expected.items()
            if name in shapes and shapes[name] != shape
        ],
    )
    shown = "; ".join(line for lines in kinds for line in lines[:_MAX_SHOWN_DIFFERENCES])
    names = [other.name for other in VARIANTS.values() if fits(shapes, other)]
    advice = f"it fits --variant {' or '.join(names)}" if names else "it fits no variant of CrossViT"
    return f"is not {variant.name} ({sum(map(len, kinds))} differences, the first: {shown}); {advice}"


def expected_shapes(shapes: Shapes, variant: Variant) -> dict[str, Shape]:
    """Those of `variant` with as many classes as the head of `shapes`, and with its position grids."""
    head = shapes.get("head.0.weight", ())
    classes = head[0] if len(head) == 2 and head[0] else IMAGENET_CLASSES
    return parameter_shapes(variant, classes, position_grids(shapes, variant))


def position_grids(shapes: Shapes, variant: Variant) -> tuple[int, int]:
    """Patches along one side (S, L) that the positions are for; what they do not tell follows from L's."""
    small, large = (_grid(shapes.get(f"pos_embed.{branch}", ())) for branch in range(len(PATCH_SIZES)))
    return (small, large) if small and large else patch_grids(PATCH_SIZES[1] * large or variant.resolution)


def _has_its_grids(shapes: Shapes, variant: Variant) -> bool:
    return position_grids(shapes, variant) == patch_grids(variant.resolution)


def _grid(positions: Shape) -> int:
    """0 if `positions` are not a square and CLS."""
    patches = positions[1] - 1 if len(positions) == 3 else 0
    side = math.isqrt(max(patches, 0))
    return side if side * side == patches else 0
