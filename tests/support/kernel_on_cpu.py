"""Stands in for the GPU of jpeg_decoder where there is none: the same kernels, compiled for the CPU.

resize.cu is C++ once the few words are defined that CUDA adds; blocks and threads become loops. What it cannot show is
what only a GPU does: the real compiler's arithmetic, memory of its own, streams.
"""

import ctypes
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from app.engines.gpu.device import Address
from app.engines.gpu_jpeg import jpeg_decoder
from app.engines.gpu_jpeg.jpeg_device import Bitmap

_SOURCE = Path(jpeg_decoder.__file__).with_name("resize.cu")
_HARNESS = """
#define __device__
#define __global__
struct Index { unsigned x, y, z; };
static Index blockIdx, blockDim, threadIdx;
#include "%s"

typedef void (*Kernel)(const Picture *, int, int, int *, int *, unsigned char *, unsigned char *);

extern "C" void launch(Kernel kernel, Index blocks, Index threads, const Picture *pictures, int side, int taps,
                       int *weights, int *spans, unsigned char *between, unsigned char *images) {
    blockDim = threads;
    for (blockIdx.z = 0; blockIdx.z < blocks.z; blockIdx.z++)
        for (blockIdx.y = 0; blockIdx.y < blocks.y; blockIdx.y++)
            for (blockIdx.x = 0; blockIdx.x < blocks.x; blockIdx.x++)
                for (threadIdx.y = 0; threadIdx.y < threads.y; threadIdx.y++)
                    for (threadIdx.x = 0; threadIdx.x < threads.x; threadIdx.x++)
                        kernel(pictures, side, taps, weights, spans, between, images);
}
"""


class _Index(ctypes.Structure):
    _fields_ = [("x", ctypes.c_uint), ("y", ctypes.c_uint), ("z", ctypes.c_uint)]


def compiled(folder: Path) -> ctypes.CDLL | None:
    """The kernels as the library kernels.so in `folder`; None without g++."""
    library = _library()
    if library is None:
        return None
    (folder / "kernels.so").write_bytes(library)
    return ctypes.CDLL(str(folder / "kernels.so"))


@cache
def _library() -> bytes | None:
    compiler = shutil.which("g++")
    if compiler is None:
        return None
    # Fused products round once where Pillow rounds twice.
    options = ["-O2", "-Wall", "-Werror", "-ffp-contract=off", "-shared", "-fPIC"]
    with tempfile.TemporaryDirectory() as folder:
        source, library = Path(folder, "kernels.cpp"), Path(folder, "kernels.so")
        source.write_text(_HARNESS % _SOURCE)
        subprocess.run([compiler, *options, "-o", library, source], check=True)
        return library.read_bytes()


def by_pillow(bodies: Sequence[bytes]) -> list[NDArray[np.uint8] | None]:
    """Stands in for nvImageCodec where it is not installed: the same pixels as its own CPU decoder gives."""
    return [_by_pillow(body) for body in bodies]


def _by_pillow(body: bytes) -> NDArray[np.uint8] | None:
    try:
        return np.asarray(Image.open(BytesIO(body)).convert("RGB"))
    except OSError:
        return None


class KernelOnCpu:
    """A JpegDevice in the host's memory. It knows what is taken, so that leaks are found."""

    def __init__(
        self, kernels: ctypes.CDLL, decode: Callable[[Sequence[bytes]], Sequence[NDArray[np.uint8] | None]] = by_pillow
    ) -> None:
        self._kernels = kernels
        self._decode = decode
        self._decoded: Sequence[NDArray[np.uint8] | None] = []
        self.memory: dict[int, NDArray[np.uint8]] = {}
        self.calls: list[int] = []  # how many images each call of decode had
        self.closed = False

    def decode(self, bodies: Sequence[bytes]) -> list[Bitmap | None]:
        self.calls.append(len(bodies))
        self._decoded = self._decode(bodies)
        return [pixels if pixels is None else _bitmap(pixels) for pixels in self._decoded]

    def take(self, size: int) -> Address:
        memory = np.full(size, 0xAA, np.uint8)
        self.memory[memory.ctypes.data] = memory
        return Address(memory.ctypes.data)

    def give_back(self, address: Address) -> None:
        del self.memory[address]

    def copy_in(self, to: Address, array: NDArray[Any]) -> None:
        self.memory[to][: array.nbytes] = array.view(np.uint8).reshape(-1)

    def copy_out(self, to: NDArray[Any], address: Address) -> None:
        to.reshape(-1).view(np.uint8)[:] = self.memory[address][: to.nbytes]

    def launch(
        self, kernel: str, blocks: tuple[int, int, int], threads: tuple[int, int], arguments: Sequence[int]
    ) -> None:
        assert max(blocks[1:]) <= 65535, "more blocks than a GPU takes"
        pictures, side, taps, *pointers = arguments
        self._kernels.launch(
            getattr(self._kernels, kernel),
            _Index(*blocks),
            _Index(*threads, 1),
            ctypes.c_void_p(pictures),
            side,
            taps,
            *map(ctypes.c_void_p, pointers),
        )

    def wait(self) -> None:
        pass

    def close(self) -> None:
        self.closed = True


def _bitmap(pixels: NDArray[np.uint8]) -> Bitmap:
    height, width, _ = pixels.shape
    return Bitmap(Address(pixels.ctypes.data), pixels.strides[0], width, height)
