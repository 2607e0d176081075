"""How the GPU is found, and what is said of calls that fail: with the real CUDA runtime, whose answers are replaced."""

import sys
from typing import Any
from unittest.mock import MagicMock

import pytest

cuda: Any = pytest.importorskip("cuda.bindings.runtime")
driver: Any = pytest.importorskip("cuda.bindings.driver")
nvrtc: Any = pytest.importorskip("cuda.bindings.nvrtc")

from app.engines.gpu.cuda_runtime import done, has_gpu  # noqa: E402
from app.engines.gpu.device import DeviceError  # noqa: E402
from app.engines.gpu_jpeg.jpeg_decoder import open_jpeg_decoder  # noqa: E402
from app.engines.interface import EngineRefused  # noqa: E402
from model.spec import PREPROCESSING  # noqa: E402
from tests.support.modules import loaded_anew  # noqa: E402

OK = cuda.cudaError_t.cudaSuccess
TOO_OLD = (
    "the driver is for CUDA 12.4, and cuda-bindings for 13.0: update the driver, or pip install 'cuda-bindings==12.*'"
)


def answers(monkeypatch: pytest.MonkeyPatch, error: str, count: int | None, version: int) -> None:
    """What the runtime says when it is asked for GPUs, and the version of CUDA that the driver is for."""
    monkeypatch.setattr(cuda, "cudaGetDeviceCount", lambda: (getattr(cuda.cudaError_t, error), count))
    monkeypatch.setattr(cuda, "cudaDriverGetVersion", lambda: (OK, version))
    monkeypatch.setattr(cuda, "cudaRuntimeGetVersion", lambda: (OK, 13000))


@pytest.mark.parametrize(
    ("error", "count", "version", "found"),
    [
        ("cudaSuccess", 2, 13000, True),
        ("cudaSuccess", 0, 13000, False),
        ("cudaErrorNoDevice", None, 13000, False),
        ("cudaErrorInsufficientDriver", None, 0, False),  # this is how the runtime says that there is no driver
    ],
)
def test_without_a_driver_or_a_gpu_there_is_none(
    error: str, count: int | None, version: int, found: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers(monkeypatch, error, count, version)
    assert has_gpu() is found


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        ("cudaErrorInsufficientDriver", TOO_OLD),
        ("cudaErrorDevicesUnavailable", "cudaErrorDevicesUnavailable while looking for a GPU"),
    ],
)
def test_a_gpu_that_cannot_be_used_says_why_to_tensorrt_and_to_jpegs(
    error: str, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers(monkeypatch, error, None, 12040)
    with pytest.raises(DeviceError) as raised:
        has_gpu()
    assert str(raised.value) == reason
    monkeypatch.setitem(sys.modules, "nvidia", MagicMock())  # nvImageCodec is not asked before there is a GPU
    find = loaded_anew("app.engines.gpu_jpeg.nvimagecodec").find_jpeg_device
    with pytest.raises(EngineRefused) as refused:
        open_jpeg_decoder(PREPROCESSING[224], 10**6, find)
    assert str(refused.value) == f"the GPU cannot be used: {reason}"


def test_codes_of_all_three_libraries_are_checked() -> None:
    assert done((OK,), "x") is None
    assert done((nvrtc.nvrtcResult.NVRTC_SUCCESS, 3), "x") == 3
    memory = ": end what else uses it, or build with smaller --batch-sizes"
    for error, message in (
        (cuda.cudaError_t.cudaErrorMemoryAllocation, f"cudaErrorMemoryAllocation while x{memory}"),
        (driver.CUresult.CUDA_ERROR_OUT_OF_MEMORY, f"CUDA_ERROR_OUT_OF_MEMORY while x{memory}"),
        (nvrtc.nvrtcResult.NVRTC_ERROR_PROGRAM_CREATION_FAILURE, "NVRTC_ERROR_PROGRAM_CREATION_FAILURE while x"),
        (cuda.cudaError_t.cudaErrorInvalidValue, "cudaErrorInvalidValue while x"),
    ):
        with pytest.raises(DeviceError) as raised:
            done((error, None), "x")
        assert str(raised.value) == message
