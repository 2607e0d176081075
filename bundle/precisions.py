"""Precisions of graphs, plans and engines, as every file of a bundle spells them."""

from typing import Final, Literal

F32: Final = "f32"
FP16: Final = "fp16"
BF16: Final = "bf16"
INT8: Final = "int8"
INT8_BF16: Final = "int8-bf16"  # the 8-bit graph with bfloat16 for the rest

PlanPrecision = Literal["f32", "fp16", "bf16"]
