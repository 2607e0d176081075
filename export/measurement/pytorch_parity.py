"""The check that ends an export: ONNX Runtime must give the logits that PyTorch gives."""

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch

from bundle.golden import Golden
from bundle.tensors import Images, Outputs
from export.graphs.served_network import Served
from export.measurement.comparison import Disagreement
from export.measurement.golden_images import BATCHES
from export.measurement.onnx_sessions import RunImages, onnxruntime_session


def pytorch_answers(served: Served) -> RunImages:
    """Runs images through `served` in PyTorch."""

    def run(images: Images) -> Outputs:
        with torch.inference_mode():
            outputs: Outputs = torch.stack(served(torch.from_numpy(images))).numpy()
        return outputs

    return run


def worst_differences(
    expected: Mapping[int, Golden], graph: Path, tolerance: float, say: Callable[[str], None]
) -> dict[int, float]:
    """For each resolution the largest difference of any logit.

    The graph runs in ONNX Runtime at batch 1 and 3. Logits are compared at their own scale: the difference may be
    `tolerance`, times the largest logit where that is over 1, since float32 has no more digits. Raises Disagreement
    beyond it.
    """
    run = onnxruntime_session(graph)
    worst = {}
    for resolution, reference in expected.items():
        differences = [np.abs(run(reference.images[:size]) - reference.logits[:, :size]).max() for size in BATCHES]
        worst[resolution] = float(max(differences))
        scale = max(1.0, float(np.abs(reference.logits).max()))
        say(
            f"  {resolution}: logits differ from PyTorch by at most {worst[resolution]:.1e}, the largest is {scale:.1f}"
        )
        if not worst[resolution] <= tolerance * scale:  # NaN fails too
            raise Disagreement(
                f"logits differ from PyTorch by {worst[resolution]:.1e} at resolution {resolution}, over "
                f"{tolerance:.0e} of their scale {scale:.1f}"
            )
    return worst
