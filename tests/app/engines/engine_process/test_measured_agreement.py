from types import SimpleNamespace
from typing import cast

import pytest

from app.engines.engine_process.measured_agreement import measured_agreement
from bundle.agreement import Agreement
from bundle.manifest import HalfPrecision
from bundle.plan_manifest import PlanManifest
from bundle.plans import OpenPlan, Plans
from bundle.reader import Bundle
from tests.support.agreements import agreement
from tests.support.plans import passport

ON_CPU, ON_GPU = agreement(distance=0.01), agreement(distance=0.02)
NEAR, FAR = agreement(distance=0.03), agreement(distance=0.04)


@pytest.fixture
def bundle() -> Bundle:
    """A bundle of which only what is read here is there: bf16 and one plan in fp16 with two profiles, at 224."""
    proof = [profile.model_dump() for profile in (NEAR, FAR)]
    plan = PlanManifest.model_validate({**passport(b"graph", proof=proof), "batch_sizes": (1, 8)})
    manifest = SimpleNamespace(
        agreement={"bf16": {224: ON_CPU}},
        precisions={"bf16": HalfPrecision(engine="onnxruntime", agreement={224: ON_GPU})},
    )
    return cast(Bundle, SimpleNamespace(manifest=manifest, plans=Plans(fit={224: [OpenPlan(plan, -1)]})))


@pytest.mark.parametrize(
    ("engine", "precision", "expected"),
    [
        ("openvino", "bf16", ON_CPU),
        ("onnxruntime-cuda", "bf16", ON_GPU),
        ("onnxruntime-tensorrt", "bf16", ON_GPU),
        ("tensorrt", "fp16", FAR),
        ("tensorrt", "bf16", None),
        ("openvino", "int8", None),
        ("onnxruntime-cuda", "fp16", None),
        ("openvino", "f32", None),
    ],
)
def test_each_engine_has_what_was_measured_of_what_it_runs(
    bundle: Bundle, engine: str, precision: str, expected: Agreement | None
) -> None:
    assert measured_agreement(bundle, 224, engine, precision) == expected
    assert measured_agreement(bundle, 384, engine, precision) is None
