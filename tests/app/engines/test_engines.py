"""The real engines on the real graph; float32 against the reference logits is in tests/export/test_to_onnx.py."""

from pathlib import Path

import numpy as np
import pytest

from app.engines import ov
from app.engines.ort import OnnxRuntime
from app.engines.ov import OpenVino
from tests import rule

GOLDEN = np.load(rule.GOLDEN / "crossvit_tiny.npz")


@pytest.mark.parametrize("engine", [OnnxRuntime, OpenVino])
@pytest.mark.parametrize("side", [224, 384, 480])
def test_a_specialised_engine_gives_the_reference_logits(
    bundle: Path, engine: type[OnnxRuntime | OpenVino], side: int
) -> None:
    loaded = engine((bundle / "model.onnx").read_bytes, "f32")
    loaded.load(side)
    for batch in (3, 1, 2):
        outputs = loaded.run(rule.images(side)[:batch])
        assert outputs.dtype == np.float32
        for logits, name in zip(outputs, ("logits", "small", "large"), strict=True):
            np.testing.assert_allclose(logits, GOLDEN[f"{name}_{side}"][:batch], atol=1e-5, rtol=0)


@pytest.mark.parametrize("engine", [OnnxRuntime, OpenVino])
def test_answers_stay_when_the_next_call_comes(bundle: Path, engine: type[OnnxRuntime | OpenVino]) -> None:
    loaded = engine((bundle / "model.onnx").read_bytes, "f32")
    loaded.load(224)
    first = loaded.run(rule.images(224)[:1])
    kept = first.copy()
    loaded.run(rule.images(224)[1:2])
    assert np.array_equal(first, kept)


@pytest.mark.skipif("bf16" not in ov.PRECISIONS, reason="this CPU has no bfloat16 instructions")
def test_bfloat16_stays_near_the_reference_logits(bundle: Path) -> None:
    engine = OpenVino((bundle / "model.onnx").read_bytes, "bf16")
    engine.load(224)
    logits = engine.run(rule.images(224))[0]
    assert 1e-5 < np.abs(logits - GOLDEN["logits_224"]).max() < 0.15  # not float32 in disguise, and not wrong
