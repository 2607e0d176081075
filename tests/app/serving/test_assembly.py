"""What the settings say reaches the model."""

from pathlib import Path
from typing import Any, cast

import pytest

from app.configuration.settings import Settings
from app.decoding.pool import DecoderPool
from app.serving import assembly
from app.telemetry.metrics import Metrics
from bundle.reader import open_bundle


def test_a_model_is_made_as_the_settings_say(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, Any] = {}
    monkeypatch.setattr(assembly, "ServedModel", lambda *_, **options: given.update(options))
    settings = Settings(
        bundle=bundle,
        engine="openvino",
        precision="bf16",
        least_agreement=0.97,
        null_rate=500,
        max_batch=3,
        max_queue=70,
        max_queue_bytes=10**8,
        max_queue_seconds=9,
        engine_seconds=11,
        load_seconds=12,
    )
    opened = open_bundle(bundle)
    assembly.make_model(settings, opened, cast(DecoderPool, None), Metrics(list).model("b"))
    make_engine = given.pop("make_engine")
    make_inspector = given.pop("make_inspector")
    assert given == {"max_batch": 3, "max_queue": 70, "max_queue_bytes": 10**8, "max_queue_seconds": 9}
    given.clear()
    monkeypatch.setattr(assembly, "EngineSupervisor", lambda *_, **options: given.update(options))
    make_engine(opened, 224, memories=(7,))
    of_engine = dict(given)
    given.clear()
    monkeypatch.setattr(assembly, "Inspector", lambda *_, **options: given.update(options))
    make_inspector(opened, (7,))
    opened.close()
    assert given == {"run_seconds": 11, "load_seconds": 12}
    assert of_engine == {
        "engine": "openvino",
        "precision": "bf16",
        "least_agreement": 0.97,
        "null_rate": 500,
        "background": False,
        "run_seconds": 11,
        "load_seconds": 12,
        "memories": (7,),
    }
