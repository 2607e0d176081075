"""Types of options that several commands have."""

from collections.abc import Callable, Collection
from typing import Annotated

import typer

from model.spec import (
    LARGEST_SIDE,
    LEAST_SIDE,
    PATCH_SIZES,
    RESOLUTIONS,
    SIDE_STEP,
    VARIANTS,
    is_resolution,
    variant_named,
)


def variant(text: str) -> str:
    """The name of the variant that `text` names."""
    try:
        return variant_named(text).name
    except ValueError as err:
        raise typer.BadParameter(str(err)) from err


def resolution(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) < 6 and is_resolution(int(text))):
        usual = ", ".join(map(str, RESOLUTIONS))
        raise typer.BadParameter(
            f"invalid choice: {text} is not a resolution, which is {usual} or another multiple of {SIDE_STEP} from "
            f"{LEAST_SIDE} to {LARGEST_SIDE}"
        )
    return int(text)


def offered_resolution(text: str) -> int:
    """A resolution that a bundle may offer: the side of L, and so a multiple of its patch."""
    if not (text.isascii() and text.isdecimal() and len(text) < 6 and int(text) and int(text) % PATCH_SIZES[1] == 0):
        raise typer.BadParameter(f"invalid choice: {text} is not a resolution that a bundle may offer")
    return int(text)


def choice(names: Collection[str]) -> Callable[[str], str]:
    """The parser of an option whose value is one of `names`."""

    def chosen(text: str) -> str:
        if text not in names:
            raise typer.BadParameter(f"invalid choice: {text!r} is not one of {', '.join(filter(None, names))}")
        return text

    return chosen


LEAST_AGREEMENT = typer.Option(
    min=0,
    max=1,
    metavar="SHARE",
    help="share of photographs with float32's best class that is enough, such as 0.99 (instead of the usual rule)",
)

VariantOption = Annotated[
    str,
    typer.Option(
        parser=variant,
        metavar="NAME",
        help=f"{', '.join(VARIANTS)}, or the name of one of them in timm or of IBM's file",
    ),
]
