"""The real TensorRT, where there is a GPU."""

import json
from pathlib import Path

import numpy as np
import pytest

from bundle.atomic_files import file_sha256
from bundle.plans import open_plans
from export import to_trt
from export.plans.build_spec import BuildSpec
from tests.support.reference_network import TINY


@pytest.mark.gpu
def test_tensorrt_builds_engines_that_agree_with_the_graph(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()  # all views, as users have it
    timings = copy.parent / "timings"
    options = ["--variant", TINY.name, "--bundle", str(copy), "--resolutions", "224", "--batch-sizes", "1", "4"]
    assert to_trt.main([*options, "--timing-cache", str(timings)]) == 0
    assert timings.stat().st_size > 0
    plans = open_plans(copy, file_sha256(copy / "model.onnx"), {224: 224, 384: 384, 480: 480})
    assert not plans.unfit
    (plan,) = plans.fit[224]
    plans.close()
    assert plan.manifest.batch_sizes == (1, 4)
    gpu = to_trt.tensorrt()
    assert plan.manifest.gpu == gpu.device().gpu
    (engine,) = (copy / "engines").iterdir()
    proof = json.loads((engine / "passport.json").read_text())["proof"]
    assert [profile["images"] for profile in proof] == [to_trt.PROOF_VIEWS] * 2
    golden = np.load(copy / "golden.npz")
    spec = BuildSpec(precision="fp16", side=224, batch_sizes=(1, 4))
    for answers in gpu.run((engine / "plan").read_bytes(), spec, golden["images_224"]):
        distance = np.linalg.norm(answers - golden["logits_224"]) / np.linalg.norm(golden["logits_224"])
        assert distance < 0.05
