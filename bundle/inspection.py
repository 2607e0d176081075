"""Tensors of the inspection graph: their names, types and axes. It says what the network looked at.

The graph is in a bundle's `inspection.onnx`. What it has in common with the served graph is called as in
bundle.tensors; docs/explanations.md says what the maps show.
"""

from typing import Final

from bundle.tensors import OUTPUTS

CLASSES: Final = "classes"  # int64 (batch, k): the classes whose logits are explained, by index

# float32 (batch, width of the branch): a branch's CLS behind its last LayerNorm
EMBEDDING_SMALL: Final = "embedding_small"
EMBEDDING_LARGE: Final = "embedding_large"
# float32 (batch, grid, grid): how much the other branch's CLS takes of each patch in the last fusion, the heads' mean
ATTENTION_SMALL: Final = "attention_small"
ATTENTION_LARGE: Final = "attention_large"
# float32 (batch, k, grid, grid): what each patch gives to the logit of each of `classes` through the last fusion
CONTRIBUTIONS_SMALL: Final = "contributions_small"
CONTRIBUTIONS_LARGE: Final = "contributions_large"

INSPECTION_OUTPUTS: Final = (
    *OUTPUTS,
    EMBEDDING_SMALL,
    EMBEDDING_LARGE,
    ATTENTION_SMALL,
    ATTENTION_LARGE,
    CONTRIBUTIONS_SMALL,
    CONTRIBUTIONS_LARGE,
)
