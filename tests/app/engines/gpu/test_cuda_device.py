"""NvidiaDevice as written, and the engine on it: real bindings of CUDA, and bytes that move. See on_stub_cuda."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.stub_cuda import compiled_runtime

ROOT = Path(__file__).parents[4]
SCRIPT = Path(__file__).with_name("on_stub_cuda.py")
CHECKS = [
    node.name
    for node in ast.parse(SCRIPT.read_text()).body
    if isinstance(node, ast.FunctionDef) and node.name.startswith("check_")
]


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip(
        "cuda.bindings._internal.runtime", reason="needs cuda-bindings 13; 12 has its runtime elsewhere"
    )
    compiled = compiled_runtime(tmp_path_factory.mktemp("cuda"))
    if compiled is None:
        pytest.skip("needs g++, which compiles the stub of CUDA's runtime")
    return compiled


@pytest.mark.parametrize("check", CHECKS)
def test_over_the_real_bindings(check: str, library: Path) -> None:
    command = [sys.executable, "-m", "tests.app.engines.gpu.on_stub_cuda", str(library), check]
    done = subprocess.run(command, cwd=ROOT, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
