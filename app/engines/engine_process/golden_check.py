"""Whether an engine gives the golden logits of its bundle. Every engine must, but the one that computes nothing."""

from app.engines.registry import NULL_ENGINE
from bundle.golden import Golden, mismatch
from bundle.tensors import Outputs


def golden_mismatch(golden: Golden, outputs: Outputs, engine: str, precision: str) -> str | None:
    """How `outputs` of the engine called `engine` differ from the golden logits; None if they agree."""
    return None if engine == NULL_ENGINE else mismatch(golden, outputs, precision)
