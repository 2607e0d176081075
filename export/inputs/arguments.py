"""Types of arguments that several commands have."""

import argparse

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

VARIANT_HELP = f"{', '.join(VARIANTS)}, or the name of one of them in timm or of IBM's file"


def variant(text: str) -> str:
    """The name of the variant that `text` names."""
    try:
        return variant_named(text).name
    except ValueError as err:
        raise argparse.ArgumentTypeError(str(err)) from err


def resolution(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) < 6 and is_resolution(int(text))):
        usual = ", ".join(map(str, RESOLUTIONS))
        raise argparse.ArgumentTypeError(
            f"invalid choice: {text} is not a resolution, which is {usual} or another multiple of {SIDE_STEP} from "
            f"{LEAST_SIDE} to {LARGEST_SIDE}"
        )
    return int(text)


def offered_resolution(text: str) -> int:
    """A resolution that a bundle may offer: the side of L, and so a multiple of its patch."""
    if not (text.isascii() and text.isdecimal() and len(text) < 6 and int(text) and int(text) % PATCH_SIZES[1] == 0):
        raise argparse.ArgumentTypeError(f"invalid choice: {text} is not a resolution that a bundle may offer")
    return int(text)
