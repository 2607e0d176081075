"""What only OpenVINO does; that its logits are the reference's is in test_engines."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import openvino
import pytest

from app.engines.compiled_cache import CompiledCache
from app.engines.cpu import openvino_engine
from app.engines.cpu.openvino_engine import OpenVinoEngine, offer_openvino
from app.engines.cpu.openvino_graph import without_identities
from app.engines.interface import EngineFiles
from tests.support import reference_network

GOLDEN = np.load(reference_network.GOLDEN / "crossvit_tiny.npz")


FIRST_USE = """
import os, sys, threading, time
import app.engines.cpu.openvino_engine, openvino

def both_threads():
    ready = threading.Barrier(2)
    def use():
        ready.wait()
        openvino.Type.u8.to_dtype()
    threads = [threading.Thread(target=use) for _ in range(2)]
    for thread in threads: thread.start()
    for thread in threads: thread.join()
    os._exit(0)

sys.setswitchinterval(1e-6)
for _ in range(20):  # without the engine's care a third of them hang
    child = os.fork() or both_threads()
    for _ in range(500):
        if os.waitpid(child, os.WNOHANG)[0]: break
        time.sleep(0.01)
    else:
        os.kill(child, 9)
        sys.exit("two threads wait for each other")
"""


def test_two_threads_that_use_openvino_first_do_not_wait_for_each_other() -> None:
    done = subprocess.run([sys.executable, "-c", FIRST_USE], capture_output=True, text=True, check=False, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")


def gone() -> bytes:
    raise AssertionError("the graph was read")


def test_a_later_start_compiles_nothing_and_answers_the_same(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    first = OpenVinoEngine((bundle / "model.onnx").read_bytes, "f32", CompiledCache({}))
    first.load(224)
    again = OpenVinoEngine(gone, "f32", CompiledCache({}))
    again.load(224)
    assert again.batch == first.batch
    for count in (1, 3):
        outputs = again.run(reference_network.images(224)[:count])
        np.testing.assert_allclose(outputs[0], GOLDEN["logits_224"][:count], atol=1e-5, rtol=0)  # not bfloat16, say


@pytest.mark.parametrize("alone", [0.1, 10.0])
def test_any_number_of_images_is_answered_in_order_whichever_way_is_quicker(
    bundle: Path, alone: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(openvino_engine, "usable_cpus", lambda: 2)
    monkeypatch.setattr(openvino_engine, "known_seconds", lambda *_: {1: alone, 4: 1.0})
    engine = OpenVinoEngine((bundle / "model.onnx").read_bytes, "f32")
    engine.load(224)
    assert engine.batch == (1 if alone < 1 else 4)
    images, logits = (np.concatenate([part] * 4)[:10] for part in (reference_network.images(224), GOLDEN["logits_224"]))
    for count in (0, 1, 2, 3, 4, 5, 10):
        outputs = engine.run(images[:count])
        assert outputs.shape == (3, count, 1000)
        np.testing.assert_allclose(outputs[0], logits[:count], atol=1e-5, rtol=0)


def test_on_many_cpus_the_two_compiled_models_are_kept_apart(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(openvino_engine, "usable_cpus", lambda: 8)
    OpenVinoEngine((bundle / "model.onnx").read_bytes, "f32", CompiledCache({})).load(224)
    kept = [file.name for file in tmp_path.glob("crossvit/compiled/*/*-compiled-*")]
    assert sorted(name.rpartition("-")[2] for name in kept) == ["LATENCY", "THROUGHPUT"]
    again = OpenVinoEngine(gone, "f32", CompiledCache({}))
    again.load(224)
    np.testing.assert_allclose(again.run(reference_network.images(224))[0], GOLDEN["logits_224"], atol=1e-5, rtol=0)


def test_on_one_cpu_there_is_one_compiled_model(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openvino_engine, "usable_cpus", lambda: 1)
    engine = OpenVinoEngine((bundle / "model.onnx").read_bytes, "f32")
    engine.load(224)
    assert engine._sides[224].bucket == 1
    np.testing.assert_allclose(engine.run(reference_network.images(224))[0], GOLDEN["logits_224"], atol=1e-5, rtol=0)


@pytest.mark.parametrize(("side", "left_out"), [(224, 6), (240, 6), (384, 2)])  # of images, of position embeddings
def test_products_with_identities_are_left_out(bundle: Path, side: int, left_out: int) -> None:
    model = openvino.Core().read_model(bundle / "model.onnx")
    model.reshape({"image": [1, side, side, 3]})
    before = products(model)
    without_identities(model)
    assert before - products(model) == left_out
    found = openvino.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})(
        [reference_network.images(side)[:1]]
    )
    plain = openvino.Core().read_model(bundle / "model.onnx")
    expected = openvino.compile_model(plain, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})(
        [reference_network.images(side)[:1]]
    )
    np.testing.assert_allclose(found[0], expected[0], atol=1e-5, rtol=0)


def products(model: openvino.Model) -> int:
    return sum(node.get_type_name() == "MatMul" for node in model.get_ops())


def test_eight_bits_are_offered_where_the_bundle_has_them() -> None:
    files = EngineFiles({"f32": gone, "int8": gone})
    assert [engine.precision for engine in offer_openvino(files, 224)] == list(openvino_engine.PRECISIONS)
    assert "int8" in openvino_engine.PRECISIONS
    assert not any("int8" in engine.precision for engine in offer_openvino(EngineFiles({"f32": gone}), 224))
