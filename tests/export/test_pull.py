import json
import random
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from bundle.reader import open_bundle
from bundle.tensors import Images
from export import pull
from export.graphs.rule_made import rule_made_parameter
from export.graphs.shipped_templates import SHIPPED_TEMPLATES, BadTemplate
from export.making import added_graphs, bundle_maker, template_source
from export.measurement import openvino_precisions
from export.measurement.onnx_sessions import RunInspection, inspection_session
from model.parameter_shapes import parameter_shapes
from tests.support import reference_network
from tests.support.calibrations import calibrate_bundle, made_calibration
from tests.support.reference_network import TINY

SHIPPED = Path("model/shipped/crossvit_9_dagger.safetensors").resolve()
WITHOUT_PYTORCH = """
import sys
class Refuse:
    def find_spec(self, name, *_):
        if name.partition(".")[0] in ("torch", "onnxscript", "onnx_ir", "nncf"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Refuse())
from export.pull import main
sys.exit(main())
"""
QUICK = ("--bfloat16", "none")


def pulling(*options: str) -> list[str]:
    """A process that makes a bundle, in which PyTorch, onnxscript, onnx_ir and NNCF cannot be imported."""
    return [sys.executable, "-c", WITHOUT_PYTORCH, *options, *QUICK]


def pull_tiny(weights: Path, out: Path, *options: str) -> int:
    return pull.main([str(weights), "--out", str(out), *QUICK, *options])


@pytest.fixture(scope="module")
def pulled(tiny_weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle of `tiny_weights`, made without PyTorch; tests may not change it."""
    out = tmp_path_factory.mktemp("pulled") / TINY.name
    done = subprocess.run(pulling(str(tiny_weights), "--out", str(out)), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert {len(line) < 80 for line in done.stdout.splitlines()} == {True}
    return out


def test_a_process_without_pytorch_makes_a_whole_bundle_of_the_weights_that_ship(tmp_path: Path) -> None:
    out = tmp_path / "crossvit_9_dagger"
    done = subprocess.run(pulling(str(SHIPPED), "--out", str(out)), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    opened = open_bundle(out)
    opened.close()
    assert (opened.manifest.variant, opened.manifest.classes) == ("crossvit_9_dagger", 200)
    assert opened.manifest.weights.caution is not None
    assert sorted(opened.manifest.preprocessing) == [224, 384, 480]


def test_the_bundle_is_the_one_that_pytorch_gives_but_for_what_says_how(bundle: Path, pulled: Path) -> None:
    manifests = [json.loads((folder / "manifest.json").read_text()) for folder in (bundle, pulled)]
    for manifest in manifests:
        del manifest["built_with"], manifest["parity"], manifest["inspection"], manifest["files"]["golden.npz"]
    assert manifests[0] == manifests[1]  # with the sha256 of the graphs and of the labels
    with np.load(bundle / "golden.npz") as of_pytorch, np.load(pulled / "golden.npz") as of_onnxruntime:
        for name in of_pytorch.files:
            np.testing.assert_allclose(of_onnxruntime[name], of_pytorch[name], atol=1e-5, rtol=0)


def test_the_manifest_does_not_claim_that_the_weights_were_run_in_pytorch(pulled: Path) -> None:
    manifest = json.loads((pulled / "manifest.json").read_text())
    assert "when the graph template was made" in manifest["parity"]["reference"]
    assert "these weights were not run in PyTorch" in manifest["parity"]["reference"]
    for compared in ("parity", "inspection"):
        assert 0 < max(manifest[compared]["worst"].values()) < 1e-5
    assert manifest["inspection"]["reference"] == manifest["parity"]["reference"]
    assert "torch" not in manifest["built_with"]
    for template in ("graph_template", "inspection_template"):
        assert manifest["built_with"][template].startswith("sha256:")


@pytest.mark.parametrize("side", reference_network.SIDES)
def test_a_filled_template_gives_the_reference_logits(pulled: Path, side: int) -> None:
    golden = np.load(reference_network.GOLDEN / f"{TINY.name}.npz")
    session = onnxruntime.InferenceSession(pulled / "model.onnx", providers=["CPUExecutionProvider"])
    logits, *_ = session.run(["logits"], {"image": reference_network.images(side)})
    np.testing.assert_allclose(logits, golden[f"logits_{side}"], atol=1e-5, rtol=0)


def test_if_changed_keeps_what_was_made_of_the_same(
    pulled: Path,
    tiny_weights: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out = Path(shutil.copytree(pulled, tmp_path / "b"))
    assert pull_tiny(tiny_weights, out, "--if-changed") == 0
    assert "is up to date" in " ".join(capsys.readouterr().out.split())

    monkeypatch.setattr(bundle_maker, "replacing_bundle", made_anew)
    for options in (["--normalize", "inception"], ["--activation", "sigmoid"], ["--bfloat16", "default"]):
        with pytest.raises(MadeAnew):
            pull_tiny(tiny_weights, out, "--if-changed", *options)
    monkeypatch.setattr(template_source.TemplateSource, "built_with", lambda *_: {})
    with pytest.raises(MadeAnew):
        pull_tiny(tiny_weights, out, "--if-changed")


def test_if_changed_makes_a_bundle_anew_that_has_no_inspection_graph(
    pulled: Path, tiny_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = Path(shutil.copytree(pulled, tmp_path / "b"))
    manifest = json.loads((out / "manifest.json").read_text())
    del manifest["files"]["inspection.onnx"]
    (out / "manifest.json").write_text(json.dumps(manifest))
    monkeypatch.setattr(bundle_maker, "replacing_bundle", made_anew)
    with pytest.raises(MadeAnew):
        pull_tiny(tiny_weights, out, "--if-changed")


class MadeAnew(Exception):
    """A bundle that does not stay as it is."""


def made_anew(_: object) -> None:
    raise MadeAnew


def test_a_bundle_that_is_made_again_keeps_its_calibration(tiny_weights: Path, pulled: Path, tmp_path: Path) -> None:
    out = Path(shutil.copytree(pulled, tmp_path / TINY.name))
    calibrate_bundle(out, made_calibration(out), made_calibration(out, resolution=384))
    assert pull_tiny(tiny_weights, out, "--resolutions", "224") == 0
    opened = open_bundle(out)
    opened.close()
    assert list(opened.calibration.scores) == [("f32", 224)]
    assert opened.calibration.remarks == ()


def test_bfloat16_is_measured_at_the_default_resolution_where_the_cpu_is_faster_with_it(
    tiny_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(added_graphs, "QUICK_VIEWS", 9)
    for module in (added_graphs, openvino_precisions):
        monkeypatch.setattr(module, "has_bfloat16", lambda: True)  # OpenVINO takes float32 where there is none
    monkeypatch.setattr(openvino_precisions, "_is_faster_in_bfloat16", lambda *_: True)
    assert pull_tiny(tiny_weights, tmp_path / "b", "--bfloat16", "default") == 0
    manifest = json.loads((tmp_path / "b" / "manifest.json").read_text())
    assert {precision: list(found) for precision, found in manifest["agreement"].items()} == {"bf16": ["224"]}
    assert manifest["agreement"]["bf16"]["224"]["images"] == 9
    assert manifest["measured_on"]["source"] == "shipped"


def test_bfloat16_is_left_out_where_the_cpu_has_none(
    tiny_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(added_graphs, "has_bfloat16", lambda: False)
    assert pull_tiny(tiny_weights, tmp_path / "b", "--bfloat16", "default") == 0
    assert json.loads((tmp_path / "b" / "manifest.json").read_text())["agreement"] == {}


@pytest.mark.parametrize(
    "damage",
    ["cut", "of another network", "overflowing", "other weights", "no template", "another inspection", "no NNCF"],
)
def test_a_failure_is_a_sentence_and_leaves_the_bundle_as_it_was(
    pulled: Path,
    tiny_weights: Path,
    tmp_path: Path,
    damage: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out = Path(shutil.copytree(pulled, tmp_path / "out" / "b"))
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    weights, options = Path(shutil.copy(tiny_weights, tmp_path)), ["--variant", TINY.name]
    match damage:
        case "cut":
            weights.write_bytes(weights.read_bytes()[:-1000])
            message = "error: "
        case "of another network":
            options = ["--variant", "crossvit_9"]
            message = "it fits --variant crossvit_tiny"
        case "overflowing":
            largest = {f"head.{branch}.bias": np.full(1000, 3e38, np.float32) for branch in (0, 1)}
            save_file(load_file(weights) | largest, weights)
            message = "are NaN or infinite"
        case "other weights":
            options += ["--only-weights", f"sha256:{64 * '0'}"]
            message = "the weights have changed since the service loaded them: serve them anew for 8 bits"
        case "no template":
            monkeypatch.setattr(template_source, "templates_of", no_template)
            message = "install the package again"
        case "another inspection":
            monkeypatch.setattr(template_source, "inspection_session", other_inspection)
            message = "error: the inspection graph gives other logits than the served one, by 1.0e-03"
        case _:
            monkeypatch.setattr("bundle.installation.find_spec", lambda name: None if name == "nncf" else object())
            options += ["--quantize", "int8"]
            message = "error: int8 needs nncf, not installed here"
    assert pull_tiny(weights, out, *options) == 1
    assert message in " ".join(capsys.readouterr().err.split())
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    assert list(out.parent.iterdir()) == [out]


def other_inspection(graph: Path) -> RunInspection:
    def run(images: Images, classes: NDArray[np.int64]) -> list[NDArray[np.float32]]:
        logits, *others = inspection_session(graph)(images, classes)
        return [logits + np.float32(1e-3), *others]

    return run


def no_template(network: str) -> None:
    raise BadTemplate(f"{SHIPPED_TEMPLATES / network} cannot be used; install the package again")


def test_a_full_disk_leaves_no_bundle(tiny_weights: Path, tmp_path: Path) -> None:
    out = tmp_path / "out" / "b"
    done = subprocess.run(
        pulling(str(tiny_weights), "--out", str(out)),
        capture_output=True,
        text=True,
        check=False,
        # A limit on files' sizes stands for the disk: the graph has 28 MB.
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (5 << 20, 5 << 20)),
    )
    assert done.returncode == 1
    assert f"error: {out} cannot be written: File too large; make room and give rights there" in done.stderr
    assert list(out.parent.iterdir()) == []


@pytest.mark.parametrize("runs", [3, pytest.param(30, marks=pytest.mark.exhaustive)])
def test_a_process_that_is_killed_leaves_no_half_made_bundle(tiny_weights: Path, tmp_path: Path, runs: int) -> None:
    out = tmp_path / "out" / "b"
    started = time.monotonic()
    command = pulling(str(tiny_weights), "--out", str(out), "--resolutions", "224")
    subprocess.run(command, check=True, capture_output=True)
    whole = time.monotonic() - started
    shutil.rmtree(out)
    rng = random.Random(0)  # noqa: S311
    for _ in range(runs):
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
            time.sleep(rng.uniform(0.2, 1) * whole)
            process.kill()
        if out.exists():
            open_bundle(out).close()
    subprocess.run(command, check=True, capture_output=True)
    open_bundle(out).close()
    assert list(out.parent.iterdir()) == [out]  # the next run removes what a killed one left


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (["no-such-file.pth"], 1, "there is no no-such-file.pth: give a checkpoint"),
        (["crossvit_9_dager"], 1, "the nearest: crossvit_9_dagger"),
        ([], 2, "Missing argument 'SOURCE'"),
        (["crossvit_9", "--variant", "crossvit_15"], 1, "crossvit_9 is not crossvit_15: --variant is for a checkpoint"),
        ([str(SHIPPED), "--calibration", "photos"], 2, "--calibration is for --quantize int8"),
        ([str(SHIPPED), "--mean", "0.5", "0.5", "0.5"], 2, "--mean and --std belong together"),
    ],
)
def test_invalid_arguments_are_refused(
    capsys: pytest.CaptureFixture[str], options: list[str], code: int, message: str
) -> None:
    assert pull.main(options) == code
    assert message in " ".join(capsys.readouterr().err.split())


def test_sides_that_follow_from_no_image_side_are_referred_to_pytorch(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shapes = parameter_shapes(TINY, 1000, (30, 21))
    weights = tmp_path / "w.safetensors"
    save_file({name: rule_made_parameter(name, shape) for name, shape in shapes.items()}, weights)
    assert pull_tiny(weights, tmp_path / "b") == 1
    told = " ".join(capsys.readouterr().err.split())
    assert "sides of 360 and 336, which follow from no image side: their graph needs PyTorch: python export/" in told
    assert f"to_onnx.py --variant {TINY.name} --weights {weights}" in told
    assert not (tmp_path / "b").exists()
