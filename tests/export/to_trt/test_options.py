import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from bundle.atomic_files import file_sha256
from export import to_trt
from export.plans.build_spec import Unable
from tests.export.to_trt.fake_builder import FOLDER, FakeGpu, no_tensorrt, run
from tests.support.folders import tree
from tests.support.reference_network import TINY


def test_a_dry_run_says_what_would_be_built_and_writes_nothing(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = tree(copy.parent)
    gpu = FakeGpu()
    assert run(copy, "--dry-run", "--batch-sizes", "1", "16", gpu=gpu) == 0
    out = capsys.readouterr().out
    assert file_sha256(copy / "model.onnx") in out
    assert "384: images of side 384, branches of 408 and 384; fp16, " in out
    assert "profiles: [1, 384, 384, 3], [16, 384, 384, 3]" in out
    assert str(copy / "engines" / FOLDER.format(384)) in out
    assert "TensorRT 10.16.1.11" in out
    assert "NVIDIA H100 80GB HBM3 (9.0), driver 580.95.05" in out
    assert not gpu.specs
    assert tree(copy.parent) == before


def test_a_dry_run_needs_neither_gpu_nor_tensorrt_nor_a_bundle(
    copy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--variant", TINY.name, "--dry-run", "--bundle"]
    assert to_trt.main([*arguments, str(copy)], no_tensorrt) == 0
    out = capsys.readouterr().out
    assert "nothing can be built here: TensorRT is not installed: do this" in out
    assert "480: images of side 480" in out
    assert to_trt.main([*arguments, str(tmp_path / "nowhere")], no_tensorrt) == 0
    assert "crossvit pull crossvit_tiny would make it first" in capsys.readouterr().out
    assert not (tmp_path / "nowhere").exists()


def test_default_is_the_resolution_that_the_bundle_serves_by_default(
    copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(copy, "--dry-run", "--resolutions", "default", "224", "480") == 0
    assert re.findall(r"^(\d+): ", capsys.readouterr().out, re.MULTILINE) == ["224", "480"]
    manifest = copy / "manifest.json"
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"default_resolution": 384}))
    assert run(copy, "--dry-run", "--resolutions", "default") == 0
    assert re.findall(r"^(\d+): ", capsys.readouterr().out, re.MULTILINE) == ["384"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--batch-sizes", "0"], "'--batch-sizes': it must be greater than or equal to 1"),
        (["--batch-sizes", "1", "many"], "'--batch-sizes': it must be a valid integer"),
        (["--batch-sizes", "1", "2000"], "'--batch-sizes': it must be less than or equal to 1024"),
        (["--workspace", "lots"], "'lots' is not a size, such as 4 (GiB), 4GiB or 512MiB"),
        (["--workspace", "0"], "'0' is not a size"),
        (["--precision", "int8"], "invalid choice: 'int8'"),
        (["--resolutions", "300"], "invalid choice: 300"),
        (["--optimization-level", "6"], "'--optimization-level': it must be less than or equal to 5"),
    ],
)
def test_invalid_arguments_are_refused(capsys: pytest.CaptureFixture[str], options: list[str], message: str) -> None:
    assert to_trt.main(["--variant", TINY.name, *options]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "size"), [("4", 4 << 30), ("0.5", 1 << 29), ("512MiB", 512 << 20), ("512m", 512 << 20), ("2 GB", 2 << 30)]
)
def test_the_workspace_is_in_gib_or_has_a_unit(copy: Path, text: str, size: int) -> None:
    gpu = FakeGpu(unfit={224: Unable("enough seen")})
    assert run(copy, "--resolutions", "224", "--workspace", text, gpu=gpu) == 1
    assert gpu.specs[0].workspace_bytes == size


def test_a_workspace_that_the_gpu_does_not_have(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(copy, "--workspace", "81") == 1
    assert "--workspace is more than the 80.0 GiB of the NVIDIA H100 80GB HBM3" in capsys.readouterr().err


def test_help_and_a_dry_run_load_neither_pytorch_nor_tensorrt() -> None:
    script = (
        "import sys\n"
        "from export import to_trt\n"
        "sys.exit(' '.join({'torch', 'tensorrt', 'cuda'} & {name.partition('.')[0] for name in sys.modules}))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], check=False, capture_output=True, text=True)
    assert done.stderr.strip() == ""
