"""Checks that onnxruntime-gpu can run here: it needs an NVIDIA GPU, and NVIDIA's libraries, which it does not bring.

They are checked beforehand, since ONNX Runtime's own answer is an error line and a session on the CPU.
"""

import contextlib
import ctypes
import importlib.util
import io
from collections.abc import Sequence
from pathlib import Path

import onnxruntime

from app.engines.interface import EngineRefused

_NO_GPU = {34, 100, 101}  # cuda.h: CUDA_ERROR_STUB_LIBRARY, _NO_DEVICE, _INVALID_DEVICE (not even a first one)
# Other major versions do not fit: ONNX Runtime loads these names.
_TENSORRT_LIBRARIES = ("libnvinfer.so.10", "libnvinfer_plugin.so.10", "libnvonnxparser.so.10")


def gpu_name() -> str | None:
    """The first GPU's name; None where there is no GPU, or no driver. EngineRefused if the driver does not start."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None
    device, name = ctypes.c_int(), ctypes.create_string_buffer(128)
    code = (
        driver.cuInit(0)
        or driver.cuDeviceGet(ctypes.byref(device), 0)
        or driver.cuDeviceGetName(name, len(name), device)
    )
    if code in _NO_GPU:
        return None
    if code:
        raise EngineRefused(f"NVIDIA's driver does not start (CUDA error {code}): see what nvidia-smi says")
    return name.value.decode(errors="replace")


def load_cuda() -> None:
    """Load the CUDA provider's libraries, from NVIDIA's Python packages or the system. EngineRefused if one is missing.

    It links all of them but cuDNN, which it opens itself for the first convolution.
    """
    with contextlib.redirect_stdout(io.StringIO()):  # it prints what it does not find
        onnxruntime.preload_dlls()
    major = _cuda_major()
    names = (f"libcudart.so.{major}", f"libcublasLt.so.{major}", f"libcublas.so.{major}", "libcurand.so.10")
    _load((*names, "libcudnn.so.9"), f"CUDA {major} and cuDNN 9", "pip install 'onnxruntime-gpu[cuda,cudnn]'")


def load_tensorrt() -> str:
    """Load the TensorRT provider's further libraries; TensorRT's version. EngineRefused if it is missing."""
    package = importlib.util.find_spec("tensorrt_libs")  # that of the package tensorrt-cu13
    folders = list(package.submodule_search_locations or ()) if package else []
    command = f"pip install 'tensorrt-cu{_cuda_major()}>=10,<11'"
    version: int = _load(_TENSORRT_LIBRARIES, "TensorRT 10", command, folders)[0].getInferLibVersion()
    return f"{version // 10000}.{version // 100 % 100}.{version % 100}"


def _cuda_major() -> str:
    return str(onnxruntime.cuda_version).partition(".")[0]


def _load(names: Sequence[str], what: str, command: str, folders: Sequence[str] = ()) -> list[ctypes.CDLL]:
    """Open libraries, so that code that links them finds them by name, wherever they came from."""
    try:
        return [_open(name, folders) for name in names]
    except OSError as err:
        needed = f"a GPU is here, but not {what}, which ONNX Runtime {onnxruntime.__version__} needs"
        raise EngineRefused(f"{needed} ({err}): {command}") from err


def _open(name: str, folders: Sequence[str]) -> ctypes.CDLL:
    for folder in folders:
        path = Path(folder, name)
        if path.exists():
            return ctypes.CDLL(str(path))
    return ctypes.CDLL(name)
