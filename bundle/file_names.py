"""Names of what is in a bundle."""

import re

from bundle.precisions import BF16, F32, FP16, INT8

MANIFEST = "manifest.json"
MODEL = "model.onnx"
LABELS = "labels.json"
GOLDEN = "golden.npz"
CALIBRATION = "calibration.json"  # not in the manifest: it may come later, and change
INSPECTION = "inspection.onnx"  # refers to weights in MODEL; only older bundles lack it

# Graphs by their precision. Only the first is in every bundle.
GRAPHS = {F32: MODEL, FP16: "model.fp16.onnx", BF16: "model.bf16.onnx", INT8: "model.int8.onnx"}

ENGINES = "engines"  # a folder, with a folder for each plan, which has these two files:
PLAN = "plan"
PASSPORT = "passport.json"  # the plan manifest

# A bundle's folder is called like the model that is served from it.
MODEL_NAME = re.compile(r"(?!-|\.\.?$)[A-Za-z0-9._-]{1,100}")
MODEL_NAME_RULE = "1 to 100 letters, digits, '.', '_' and '-', without '-' first, and neither '.' nor '..'"
