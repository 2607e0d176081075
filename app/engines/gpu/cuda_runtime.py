"""What every user of CUDA's Python bindings here does: find the GPU, open it, and check what a call returned."""

from typing import Any

from cuda.bindings import runtime as cuda

from app.engines.gpu.device import DeviceError

_OUT_OF_MEMORY = ("cudaErrorMemoryAllocation", "CUDA_ERROR_OUT_OF_MEMORY")


def has_gpu() -> bool:
    """Whether CUDA shows a GPU (CUDA_VISIBLE_DEVICES says which); False too where there is no driver.

    DeviceError where the driver is too old for these bindings, or does not answer.
    """
    error, count = cuda.cudaGetDeviceCount()
    driver: int = done(cuda.cudaDriverGetVersion(), "asking for the driver's version")
    if not driver or error == cuda.cudaError_t.cudaErrorNoDevice:  # the version is 0 where there is no driver
        return False
    if error == cuda.cudaError_t.cudaErrorInsufficientDriver:
        built: int = done(cuda.cudaRuntimeGetVersion(), "asking for the runtime's version")
        raise DeviceError(
            f"the driver is for CUDA {_version(driver)}, and cuda-bindings for {_version(built)}: "
            f"update the driver, or pip install 'cuda-bindings=={driver // 1000}.*'"
        )
    done((error,), "looking for a GPU")
    return bool(count)


def open_gpu() -> cuda.cudaDeviceProp:
    """What the first GPU is, which is now this thread's."""
    done(cuda.cudaSetDevice(0), "opening the GPU")
    properties: cuda.cudaDeviceProp = done(cuda.cudaGetDeviceProperties(0), "asking the GPU what it is")
    return properties


def done(result: tuple[Any, ...], doing: str) -> Any:
    """The first value that a call returned beside its error code; DeviceError if that is an error.

    The codes are those of the CUDA runtime, its driver and its compiler, each 0 for success.
    """
    error, *values = result
    if error:
        advice = ": end what else uses it, or build with smaller --batch-sizes" if error.name in _OUT_OF_MEMORY else ""
        raise DeviceError(f"{error.name} while {doing}{advice}")
    return values[0] if values else None


def _version(number: int) -> str:
    return f"{number // 1000}.{number % 1000 // 10}"
