import logging
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import numpy as np
import pytest
from numpy.typing import NDArray

from app.bundle import open_bundle
from app.engines import choice
from app.engines.choice import choose
from app.engines.engine import Outputs, ReadGraph
from app.errors import NoEngine, WrongAnswers
from app.golden import Golden


def test_auto_takes_an_engine_that_is_here_and_loads_it(bundle: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    engine = choose((bundle / "model.onnx").read_bytes, open_bundle(bundle).golden(224))
    assert engine.run(np.zeros((1, 224, 224, 3), np.uint8)).shape == (3, 1, 1000)
    rates = {line.split(":")[0]: float(line.split()[2]) for line in caplog.messages if "images/s" in line}
    assert {"openvino f32", "onnxruntime f32"} <= rates.keys()
    assert rates[f"{engine.name} {engine.precision}"] == max(rates.values())


@pytest.mark.parametrize("name", ["openvino", "onnxruntime"])
def test_an_engine_can_be_asked_for(bundle: Path, name: str) -> None:
    engine = choose((bundle / "model.onnx").read_bytes, open_bundle(bundle).golden(224), name, "f32")
    assert (engine.name, engine.precision) == (name, "f32")


def test_a_precision_that_no_engine_has_is_refused(bundle: Path) -> None:
    with pytest.raises(NoEngine, match="no engine here for engine=onnxruntime, precision=bf16"):
        choose((bundle / "model.onnx").read_bytes, open_bundle(bundle).golden(224), "onnxruntime", "bf16")


NOTHING = Golden(np.zeros((1, 224, 224, 3), np.uint8), np.zeros((3, 1, 2), np.float32))


class Fake:
    """Takes as long as it is told; the real engines are in test_engines.py."""

    name = "fake"
    answer = 0.0
    seconds: ClassVar[dict[str, float]] = {"bf16": 0.03, "f32": 0.01}

    def __init__(self, _: ReadGraph, precision: str) -> None:
        self.precision = precision

    def load(self, side: int) -> None:
        if self.seconds[self.precision] == 0:
            raise RuntimeError(f"cannot run at {side}")

    def run(self, images: NDArray[np.uint8]) -> Outputs:
        time.sleep(self.seconds[self.precision])
        return np.full((3, len(images), 2), self.answer, np.float32)


@pytest.fixture
def fakes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fakes", SimpleNamespace(Fake=Fake, PRECISIONS=("bf16", "f32")))
    monkeypatch.setattr(choice, "ENGINES", {"fake": ("fakes", "Fake"), "absent": ("not_installed", "Engine")})


@pytest.mark.usefixtures("fakes")
def test_the_fastest_wins_whatever_the_cpu_promises() -> None:
    assert choose(bytes, NOTHING).precision == "f32"


@pytest.mark.usefixtures("fakes")
def test_an_engine_that_fails_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Fake, "seconds", {"bf16": 0.01, "f32": 0.0})
    assert choose(bytes, NOTHING).precision == "bf16"


@pytest.mark.usefixtures("fakes")
def test_where_all_fail_the_reason_is_in_the_log(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(Fake, "seconds", {"bf16": 0.0, "f32": 0.0})
    with pytest.raises(NoEngine, match="the log says why"):
        choose(bytes, NOTHING)
    assert "cannot run at 224" in caplog.text


@pytest.mark.usefixtures("fakes")
def test_an_engine_that_is_not_installed_is_refused_with_what_would_do() -> None:
    with pytest.raises(NoEngine, match=r"install one with pip install 'crossvit\[cpu\]'"):
        choose(bytes, NOTHING, "absent")


@pytest.mark.usefixtures("fakes")
def test_a_fast_engine_with_wrong_answers_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = Fake.run

    def wrong_in_bfloat16(self: Fake, images: NDArray[np.uint8]) -> Outputs:
        outputs = honest(self, images)
        return outputs + 1 if self.precision == "bf16" else outputs

    monkeypatch.setattr(Fake, "seconds", {"bf16": 0.001, "f32": 0.03})
    monkeypatch.setattr(Fake, "run", wrong_in_bfloat16)
    assert choose(bytes, NOTHING).precision == "f32"


@pytest.mark.usefixtures("fakes")
@pytest.mark.parametrize("answer", [1.0, float("nan")])
def test_wrong_answers_of_the_only_engine_are_refused(monkeypatch: pytest.MonkeyPatch, answer: float) -> None:
    monkeypatch.setattr(Fake, "answer", answer)
    with pytest.raises(WrongAnswers, match="fake f32 gives wrong answers: logits"):
        choose(bytes, NOTHING, "fake", "f32")
