"""What is called of TensorRT and CUDA, held against their real Python bindings; neither can run here.

mypy holds every name, enum member, method and argument against stubs made from the bindings of three versions, of
which `make test` takes the newest; see tests/bindings. A caller must not hide anything from it, which is tested too.
"""

import ast
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path

import numpy as np
import pytest

from tests.bindings import tensorrt
from tests.bindings.check import ANY, ROOT, Findings, check
from tests.bindings.fetch import NotToBeHad, fetched

# Of CUDA, what goes with that TensorRT.
CUDA = {"10.13.0.35": "12.9.10", "10.16.1.11": "13.0.3", "11.4.0.106": "13.5.0"}
VERSIONS = list(CUDA)
OLDEST, _, NEWEST = VERSIONS

_IMPORT = re.compile(r"^\s*(import|from) (tensorrt|cuda)\b", re.MULTILINE)
CALLERS = {
    str(path.relative_to(ROOT)): path.read_text()
    for folder in ("app", "export", "benchmarks")
    for path in sorted((ROOT / folder).rglob("*.py"))
    if _IMPORT.search(path.read_text())
}


@dataclass
class Bindings:
    """Stubs of one version."""

    version: str
    stubs: Path
    mypy_cache: Path

    def check(self, *jobs: tuple[str, str]) -> list[Findings]:
        return check(self.stubs, self.mypy_cache, *jobs)

    def names(self) -> set[str]:
        """What things are called in TensorRT, and in CUDA's description of a GPU."""
        defined = re.compile(r"^ *(?:class |def )?(\w+)(?=[:(])", re.MULTILINE)
        cuda = (self.stubs / "cuda/bindings/runtime.pyi").read_text()
        description = cuda.partition("class cudaDeviceProp:")[2].partition("\nclass")[0]
        return {*defined.findall((self.stubs / "tensorrt/__init__.pyi").read_text()), *defined.findall(description)}


@pytest.fixture(
    scope="module",
    params=[*(pytest.param(older, marks=pytest.mark.exhaustive) for older in VERSIONS[:-1]), NEWEST],
)
def bindings(
    request: pytest.FixtureRequest, pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory
) -> Bindings:
    assert pytestconfig.cache is not None
    wheels, mypy_cache = (pytestconfig.cache.mkdir(name) for name in ("bindings-wheels", "bindings-mypy"))
    folder = tmp_path_factory.mktemp("bindings")
    version, stubs = request.param, folder / "stubs"
    stubs.mkdir()
    try:
        if sys.platform != "linux" or os.uname().machine != "x86_64":
            raise NotToBeHad("the libraries that stand in for TensorRT's are for Linux on x86-64")
        cuda = fetched(f"cuda-bindings=={CUDA[version]} cuda-pathfinder==1.9.0", wheels)
        tensorrt.write_stub(tensorrt.importable(version, wheels, folder), stubs)
    except NotToBeHad as err:
        # .ci/run sets it: what can be had there must not be skipped.
        (pytest.fail if os.environ.get("TESTS_COMPLETE") else pytest.skip)(str(err))
    command = [sys.executable, "-m", "tests.bindings.cuda", str(stubs)]
    subprocess.run(command, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(cuda)}, check=True)
    return Bindings(version, stubs, mypy_cache)


@pytest.fixture(scope="module")
def findings(bindings: Bindings) -> dict[str, Findings]:
    """Of the callers as they are."""
    return dict(zip(CALLERS, bindings.check(*CALLERS.items()), strict=True))


def test_every_file_that_calls_tensorrt_or_cuda_is_checked() -> None:
    assert {
        "export/plans/builder.py",
        "app/engines/gpu/cuda_device.py",
        "app/engines/gpu_jpeg/nvimagecodec.py",
    } <= CALLERS.keys()


def test_all_calls_fit(findings: dict[str, Findings]) -> None:
    assert [error for found in findings.values() for error in found.errors] == []


@pytest.mark.parametrize(
    ("path", "owner", "name"),
    [
        ("export/plans/builder.py", "tensorrt.Builder", "build_serialized_network"),
        ("export/plans/builder.py", "tensorrt.OnnxParser", "parse"),
        ("export/plans/builder.py", "tensorrt.IBuilderConfig", "progress_monitor"),
        ("export/plans/builder.py", "tensorrt.IExecutionContext", "execute_async_v3"),
        ("app/engines/gpu/cuda_device.py", "tensorrt.Runtime", "deserialize_cuda_engine"),
        ("app/engines/gpu/cuda_device.py", "tensorrt.ICudaEngine", "get_tensor_profile_shape"),
        ("app/engines/gpu/cuda_device.py", "tensorrt.IExecutionContext", "execute_async_v3"),
        ("app/engines/gpu/cuda_device.py", "cuda.bindings.runtime", "cudaGraphInstantiate"),
        ("app/engines/gpu_jpeg/nvimagecodec.py", "cuda.bindings.driver", "cuLaunchKernel"),
        ("app/engines/gpu_jpeg/nvimagecodec.py", "cuda.bindings.nvrtc", "nvrtcCompileProgram"),
    ],
)
def test_mypy_knows_the_types_of_all_calls(findings: dict[str, Findings], path: str, owner: str, name: str) -> None:
    assert (owner, name) in {(access.owner, access.name) for access in findings[path].accesses}


class OrdinaryEnum(IntEnum):
    MEMBER = 0


def test_nothing_of_tensorrt_is_hidden_behind_any(bindings: Bindings, findings: dict[str, Findings]) -> None:
    # Names that arrays and enums have too say nothing of what Any may be.
    telling = bindings.names() - {*dir(np.ndarray), *dir(OrdinaryEnum.MEMBER)}
    assert {"get_tensor_profile_shape", "totalGlobalMem"} <= telling
    hidden = [
        f"{path}:{access.line}: {access.owner}.{access.name}"
        for path, found in findings.items()
        for access in found.accesses
        if (access.owner == ANY and access.name in telling)
        or (access.owner.startswith("tensorrt.") and access.found == ANY)
    ]
    assert hidden == []


# The classes that TensorRT calls back derive from Any where it is not installed.
_CALLED_BACK = re.compile(r"class \w+\(trt\.\w+\):  # type: ignore\[misc(, unused-ignore)?\]")


@pytest.mark.parametrize("path", CALLERS)
def test_no_attribute_is_looked_up_by_a_string(path: str) -> None:
    names = {node.id for node in ast.walk(ast.parse(CALLERS[path])) if isinstance(node, ast.Name)}
    assert not names & {"getattr", "setattr", "hasattr", "delattr", "cast", "vars", "import_module"}
    ignored = [line for line in CALLERS[path].splitlines() if "type: ignore" in line]
    assert [line for line in ignored if not _CALLED_BACK.match(line)] == []


def test_the_stub_is_whole(bindings: Bindings) -> None:
    stub = (bindings.stubs / "tensorrt/__init__.pyi").read_text()
    assert f"__version__: str = '{bindings.version}'" in stub
    assert len(re.findall(r"^class ", stub, re.MULTILINE)) > 150
    command = [sys.executable, "-m", "mypy", "--cache-dir", str(bindings.mypy_cache / "stub"), "--strict", "tensorrt"]
    done = subprocess.run(command, cwd=bindings.stubs, capture_output=True, text=True)
    assert re.search(r"^Found \d+ errors|^Success", done.stdout, re.MULTILINE), done.stdout + done.stderr
    # A type that is not known is Any to mypy. Other complaints are about what is the bindings' own way.
    assert re.findall(r".*\[(?:name-defined|valid-type|attr-defined|import-not-found|syntax)\]", done.stdout) == []


@dataclass(frozen=True)
class Mistake:
    path: str
    right: str
    wrong: str
    error: str
    only_since: str = OLDEST  # before, it is none


TRT, NVIDIA, NVIMAGE = (
    "export/plans/builder.py",
    "app/engines/gpu/cuda_device.py",
    "app/engines/gpu_jpeg/nvimagecodec.py",
)
MISTAKES = [
    Mistake(TRT, "builder.create_builder_config()", "builder.create_config()", 'has no attribute "create_config"'),
    Mistake(TRT, "MemoryPoolType.WORKSPACE", "MemoryPoolType.WORK_SPACE", 'has no attribute "WORK_SPACE"'),
    Mistake(TRT, "trt.OnnxParser(network, self._log)", "trt.OnnxParser(network)", "Missing positional argument"),
    Mistake(TRT, "config.progress_monitor =", "config.progress =", 'has no attribute "progress"'),
    Mistake(TRT, "set_timing_cache(timings, False)", "set_timing_cache(timings)", "Missing positional argument"),
    Mistake(TRT, "step_complete(self, phase_name: str, step: int)", "step_complete(self, step: int)", "override"),
    Mistake(TRT, "parser.num_errors", "parser.error_count", 'has no attribute "error_count"'),
    Mistake(TRT, "trt.BuilderFlag.VERSION_COMPATIBLE", "trt.BuilderFlag.FP16", 'no attribute "FP16"', NEWEST),
    Mistake(NVIDIA, "TensorIOMode.INPUT", "TensorIOMode.IN", 'has no attribute "IN"'),
    Mistake(NVIDIA, ".execute_async_v3(stream)", ".execute_async_v2(stream)", 'has no attribute "execute_async_v2"'),
    Mistake(NVIDIA, ".execute_async_v3(stream)", ".execute_async_v3()", "Missing positional argument"),
    Mistake(NVIDIA, ".execute_async_v3(stream)", ".execute_async_v3(stream=stream)", "Unexpected keyword argument"),
    Mistake(NVIDIA, "set_device_memory(scratch, ", "set_device_memory(scratch, 0, ", "Too many arguments"),
    Mistake(NVIDIA, "create_execution_context(strategy)", "create_execution_context(1)", "No overload variant"),
    Mistake(
        NVIDIA,
        "create_execution_context(strategy)",
        "create_execution_context_without_device_memory()",
        'has no attribute "create_execution_context_without_device_memory"',
        NEWEST,
    ),
    Mistake(NVIDIA, "cudaGraphLaunch(graph, stream)", "cudaGraphLaunch(graph)", "Missing positional argument"),
    Mistake(NVIDIA, "cuda.cudaGraphInstantiate(", "cuda.cudaGraphInstantiat(", 'no attribute "cudaGraphInstantiat"'),
    Mistake(NVIDIA, "cudaStreamCaptureModeThreadLocal", "cudaStreamCaptureModeLocal", "has no attribute"),
    Mistake(NVIMAGE, "packed, 0)", "packed)", "Missing positional argument"),
]


def test_mistakes_are_found_where_they_are_mistakes(bindings: Bindings) -> None:
    for mistake in MISTAKES:
        assert mistake.right in CALLERS[mistake.path], f"{mistake.path} has no {mistake.right!r} any more; take another"
    # One that is a mistake with all versions is tried with one of them, for time's sake.
    turn = VERSIONS.index(bindings.version)
    tried = [
        mistake
        for number, mistake in enumerate(MISTAKES)
        if number % len(VERSIONS) == turn or (mistake.only_since != OLDEST and bindings.version in (OLDEST, NEWEST))
    ]
    jobs = [(mistake.path, CALLERS[mistake.path].replace(mistake.right, mistake.wrong, 1)) for mistake in tried]
    for mistake, found in zip(tried, bindings.check(*jobs), strict=True):
        if turn >= VERSIONS.index(mistake.only_since):
            assert [error for error in found.errors if mistake.error in error], (mistake, found.errors)
        else:
            assert found.errors == [], mistake
