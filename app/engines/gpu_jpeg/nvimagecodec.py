"""Every call of JPEG decoding into nvImageCodec, NVRTC and CUDA; `jpeg_device` documents each."""

import ctypes
import logging
import os
from collections.abc import Sequence
from importlib.resources import files
from typing import Any

import numpy as np
from cuda.bindings import driver, nvrtc, runtime
from numpy.typing import NDArray

from app.engines.gpu.cuda_runtime import done, has_gpu, open_gpu
from app.engines.gpu.device import Address, DeviceError
from app.engines.gpu_jpeg.jpeg_device import Bitmap

# nvImageCodec reads it when it is loaded: it would print a line for each damaged image.
os.environ.setdefault("PYNVIMGCODEC_VERBOSITY", "0")

from nvidia import nvimgcodec

log = logging.getLogger(__name__)

_LARGEST_KEPT_IMAGE = 16 << 20  # bytes; larger ones are rare, and would add up
_ARGUMENTS = (ctypes.c_void_p, ctypes.c_int, ctypes.c_int, *(ctypes.c_void_p,) * 4)


class Codec:
    """Decodes JPEGs into the memory of GPU 0, or with `gpu` False on the CPU into the host's."""

    def __init__(self, *, gpu: bool) -> None:
        kinds = nvimgcodec.BackendKind
        # Not HW_GPU_ONLY: the decoder engines that some GPUs have repeat chroma samples, and Pillow interpolates them.
        backends = [kinds.GPU_ONLY, kinds.HYBRID_CPU_GPU] if gpu else [kinds.CPU_ONLY]
        self._decoder = nvimgcodec.Decoder(
            device_id=0 if gpu else nvimgcodec.NVIMGCODEC_DEVICE_CPU_ONLY,
            backends=[nvimgcodec.Backend(kind) for kind in backends],
            options=":fancy_upsampling=1",
        )
        self._params = nvimgcodec.DecodeParams(
            apply_exif_orientation=False, color_spec=nvimgcodec.ColorSpec.SRGB, allow_any_depth=False
        )
        self._gpu = gpu
        self._decoded: list[Any] = []  # alive until the next call
        self._kept: list[Any] = []  # their memory is used again

    def decode(self, bodies: Sequence[bytes], stream: int = 0) -> list[Bitmap | None]:
        """See app.engines.gpu_jpeg.jpeg_device.JpegDevice; the pixels are there for later work on `stream`."""
        used = self._kept[: len(bodies)]
        try:
            again, new = bodies[: len(used)], bodies[len(used) :]
            self._decoded = self._decode(again, stream, used) + self._decode(new, stream)
        except Exception:  # of several libraries; the CPU decodes these images
            log.exception("nvImageCodec failed")
            self._kept, self._decoded = [], [None] * len(bodies)
        else:
            images = [*self._kept, *self._decoded[len(used) :]]
            self._kept = [image for image in images if image is not None and image.capacity <= _LARGEST_KEPT_IMAGE]
        return [self._bitmap(image) for image in self._decoded]

    def close(self) -> None:
        """Let the images go; the streams that they were decoded on must have come to their end, and still be there."""
        self._decoded, self._kept = [], []

    def _decode(self, bodies: Sequence[bytes], stream: int, images: list[Any] | None = None) -> list[Any]:
        if not bodies:
            return []
        streams = [nvimgcodec.CodeStream(body) for body in bodies]
        decoded: list[Any] = self._decoder.decode(streams, images=images, params=self._params, cuda_stream=stream)
        return decoded

    def _bitmap(self, image: Any) -> Bitmap | None:
        if image is None or image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
            return None
        array = image.__cuda_array_interface__ if self._gpu else image.__array_interface__
        height, width, _ = image.shape
        return Bitmap(Address(array["data"][0]), image.strides[0], width, height)


class NvidiaJpegDevice:
    """GPU 0, in the context that TensorRT and ONNX Runtime use too."""

    def __init__(self) -> None:
        properties = open_gpu()
        self._stream = done(runtime.cudaStreamCreateWithFlags(runtime.cudaStreamNonBlocking), "making a stream")
        code = compiled(f"sm_{properties.major}{properties.minor}")
        module = done(driver.cuModuleLoadData(code), "loading the kernels")
        names = ("weights", "first_pass", "second_pass")
        self._kernels = {
            name: done(driver.cuModuleGetFunction(module, name.encode()), "finding a kernel") for name in names
        }
        self._codec = Codec(gpu=True)

    def decode(self, bodies: Sequence[bytes]) -> list[Bitmap | None]:
        return self._codec.decode(bodies, int(self._stream))

    def take(self, size: int) -> Address:
        return Address(int(done(runtime.cudaMalloc(size), f"taking {size} bytes of GPU memory")))

    def give_back(self, address: Address) -> None:
        done(runtime.cudaFree(address), "giving GPU memory back")

    def copy_in(self, to: Address, array: NDArray[Any]) -> None:
        self._copy(to, array.ctypes.data, array.nbytes, runtime.cudaMemcpyKind.cudaMemcpyHostToDevice)

    def copy_out(self, to: NDArray[Any], address: Address) -> None:
        self._copy(to.ctypes.data, address, to.nbytes, runtime.cudaMemcpyKind.cudaMemcpyDeviceToHost)

    def launch(
        self, kernel: str, blocks: tuple[int, int, int], threads: tuple[int, int], arguments: Sequence[int]
    ) -> None:
        packed = (tuple(arguments), _ARGUMENTS)
        launched = driver.cuLaunchKernel(self._kernels[kernel], *blocks, *threads, 1, 0, int(self._stream), packed, 0)
        done(launched, f"launching {kernel}")

    def wait(self) -> None:
        done(runtime.cudaStreamSynchronize(self._stream), "decoding JPEGs")

    def close(self) -> None:
        try:
            self.wait()
        finally:
            self._codec.close()
            done(runtime.cudaStreamDestroy(self._stream), "ending a stream")

    def _copy(self, to: int, start: int, size: int, kind: runtime.cudaMemcpyKind) -> None:
        done(runtime.cudaMemcpyAsync(to, start, size, kind, self._stream), "copying")


def find_jpeg_device() -> NvidiaJpegDevice | None:
    """The first GPU; None if there is no driver or no GPU. DeviceError if it cannot be used."""
    return NvidiaJpegDevice() if has_gpu() else None


def compiled(architecture: str) -> bytes:
    """The machine code of resize.cu for an `architecture` such as "sm_90"; needs no GPU."""
    source = files("app.engines.gpu_jpeg").joinpath("resize.cu").read_bytes()
    program = done(nvrtc.nvrtcCreateProgram(source, b"resize.cu", 0, None, None), "starting the compiler")
    try:
        options = [f"--gpu-architecture={architecture}".encode(), b"--fmad=false"]
        (error,) = nvrtc.nvrtcCompileProgram(program, len(options), options)
        if error != nvrtc.nvrtcResult.NVRTC_SUCCESS:
            report = bytes(done(nvrtc.nvrtcGetProgramLogSize(program), "asking for the compiler's report"))
            done(nvrtc.nvrtcGetProgramLog(program, report), "reading the compiler's report")
            reason = report.rstrip(b"\0").decode().strip()
            raise DeviceError(f"{error.name} while compiling the kernels for {architecture}: {reason}")
        code = bytes(done(nvrtc.nvrtcGetCUBINSize(program), "asking for the kernels' size"))
        done(nvrtc.nvrtcGetCUBIN(program, code), "reading the kernels")
        return code
    finally:
        done(nvrtc.nvrtcDestroyProgram(program), "ending the compiler")
