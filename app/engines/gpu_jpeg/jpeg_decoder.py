"""JPEGs to what the network sees, on a GPU: decode, resize and crop.

The pixels are those of the CPU's decoders, up to the difference between decoders: a level or two. JPEGs that are not
plain, and those that the GPU does not decode, are left to the CPU.
"""

import logging
import math
from collections.abc import Callable, Iterator, Sequence
from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from app.decoding.image_decoding import decode
from app.engines.gpu.device import Address, DeviceError
from app.engines.gpu_jpeg.jpeg_device import Bitmap, JpegDevice
from app.engines.gpu_jpeg.jpeg_header import PlainJpeg, plain
from app.engines.interface import EngineRefused
from bundle.installation import install_command
from bundle.tensors import Images
from model.crop_windows import Window, windows
from model.spec import Preprocessing

log = logging.getLogger(__name__)

NAME = "jpeg-gpu"  # in /models and metrics, where JPEGs are not decoded on the GPU
TOLERANCE = 1.0  # levels: the largest mean difference from app.decoding.image_decoding in the self-test

_MOST_PIXELS_AT_A_TIME = 64_000_000  # bounds the memory for decoded JPEGs: 192 MB
_THREADS_OF_A_BLOCK = (32, 8)
_PICTURE = np.dtype(  # Picture in resize.cu
    [
        ("pixels", np.uint64),
        ("step", np.int64, 2),
        ("between", np.int64),
        ("out", np.int32, 2),
        ("length", np.int32, 2),
        ("start", np.float32, 2),
        ("end", np.float32, 2),
    ],
    align=True,
)


class _Buffer:
    """Memory of the GPU that grows when more is needed; its content is lost then."""

    def __init__(self, gpu: JpegDevice) -> None:
        self._gpu = gpu
        self._size = 0
        self.address = Address(0)

    def at_least(self, size: int) -> Address:
        if size > self._size:
            self.give_back()
            self.address = self._gpu.take(size)
            self._size = size
        return self.address

    def give_back(self) -> None:
        if self._size:
            self._size = 0
            self._gpu.give_back(self.address)


class JpegDecoder:
    """Decodes batches of plain JPEGs, see `jpeg_header`, and resizes and crops them.

    Args:
        gpu: decodes and runs the kernels.
        steps: resizing and cropping.
        max_pixels: of a JPEG.
    """

    def __init__(self, gpu: JpegDevice, steps: Preprocessing, max_pixels: int) -> None:
        self._gpu = gpu
        self._steps = steps
        self._max_pixels = max_pixels
        self._buffers = [_Buffer(gpu) for _ in range(5)]
        self._pictures, self._weights, self._spans, self._between, self._images = self._buffers

    def decode(self, bodies: Sequence[bytes]) -> list[int]:
        """Decode, resize and crop; the indices of `bodies` that are images now, see `pixels`.

        The others are not plain, or damaged: app.decoding.image_decoding has an error for them.
        """
        image_bytes = 3 * self._steps.crop**2
        self._images.at_least(len(bodies) * image_bytes)
        done: list[int] = []
        for jobs in self._passes(bodies):
            bitmaps = self._gpu.decode([body for _, _, body in jobs])
            decoded = [
                (index, bitmap)
                for (index, jpeg, _), bitmap in zip(jobs, bitmaps, strict=True)
                if bitmap is not None and (bitmap.width, bitmap.height) == (jpeg.width, jpeg.height)
            ]
            if decoded:
                self._resize([bitmap for _, bitmap in decoded], Address(self._images.address + len(done) * image_bytes))
                done += [index for index, _ in decoded]
        return done

    def pixels(self, count: int) -> Images:
        """The first `count` images of the last `decode`, copied to the host."""
        images = np.empty((count, self._steps.crop, self._steps.crop, 3), np.uint8)
        self._gpu.copy_out(images, self._images.address)
        self._gpu.wait()
        return images

    def close(self) -> None:
        """Give the memory back, and the GPU."""
        try:
            for buffer in self._buffers:
                buffer.give_back()
        finally:
            self._gpu.close()

    def _passes(self, bodies: Sequence[bytes]) -> Iterator[list[tuple[int, PlainJpeg, bytes]]]:
        """The plain ones with their indices, as many at a time as fit. What follows an image in its file is cut off."""
        jobs: list[tuple[int, PlainJpeg, bytes]] = []
        pixels = 0
        for index, body in enumerate(bodies):
            jpeg = plain(body, self._max_pixels)
            if jpeg is None:
                continue
            pixels += jpeg.width * jpeg.height
            if jobs and pixels > _MOST_PIXELS_AT_A_TIME:
                yield jobs
                jobs, pixels = [], jpeg.width * jpeg.height
            jobs.append((index, jpeg, body[: jpeg.length]))
        if jobs:
            yield jobs

    def _resize(self, bitmaps: Sequence[Bitmap], images: Address) -> None:
        side = self._steps.crop
        pictures = np.array([_picture(bitmap, self._steps) for bitmap in bitmaps], _PICTURE)
        sizes = pictures["length"][:, 1].astype(np.int64) * side * 3
        pictures["between"] = np.cumsum(sizes) - sizes
        taps = _taps(pictures, side)
        arguments = [
            self._pictures.at_least(pictures.nbytes),
            side,
            taps,
            self._weights.at_least(len(pictures) * 2 * side * taps * 4),
            self._spans.at_least(len(pictures) * 2 * side * 2 * 4),
            self._between.at_least(int(sizes.sum())),
            images,
        ]
        self._gpu.copy_in(self._pictures.address, pictures)
        heights = {"weights": 2, "first_pass": int(pictures["length"][:, 1].max()), "second_pass": side}
        for kernel, height in heights.items():
            blocks = (-(-side // _THREADS_OF_A_BLOCK[0]), -(-height // _THREADS_OF_A_BLOCK[1]), len(pictures))
            self._gpu.launch(kernel, blocks, _THREADS_OF_A_BLOCK, arguments)
        self._gpu.wait()  # the next pass writes where this one reads


def open_jpeg_decoder(
    steps: Preprocessing, max_pixels: int, find: Callable[[], JpegDevice | None] | None = None
) -> JpegDecoder:
    """A decoder on this machine's GPU that gives the pixels of the CPU's decoders; EngineRefused if there is none."""
    try:
        try:
            gpu = (find or _find)()
        except DeviceError as err:
            raise EngineRefused(f"the GPU cannot be used: {err}") from err
        if gpu is None:
            raise EngineRefused("there is no GPU here that CUDA can use")
        decoder = JpegDecoder(gpu, steps, max_pixels)
        try:
            wrong = self_test(decoder, steps)
            if wrong:
                raise EngineRefused(f"it is not as good as the CPU: {wrong}")
        except Exception:
            _let_go(decoder)
            raise
    except EngineRefused:
        raise
    except Exception as err:  # of several libraries; the CPU decodes instead
        log.exception("the GPU cannot decode JPEGs")
        raise EngineRefused(f"it failed when it was tried: {type(err).__name__}: {err}") from err
    return decoder


def _let_go(decoder: JpegDecoder) -> None:
    try:
        decoder.close()
    except Exception:  # the error before says more
        log.exception("the GPU's JPEG decoder cannot be closed")


def _find() -> JpegDevice | None:
    try:
        from app.engines.gpu_jpeg import nvimagecodec
    except (ImportError, OSError) as err:  # OSError is how a library is missed that Python loads by hand
        raise EngineRefused(f"nvImageCodec is not installed ({err}): {install_command('nvimgcodec')}") from err
    return nvimagecodec.find_jpeg_device()


def self_test(decoder: JpegDecoder, steps: Preprocessing) -> str | None:
    """Why the decoder is not used: it fails, or its pixels are not those of the CPU's decoders. None if it passes."""
    bodies = [_sample(sampling) for sampling in ("4:4:4", "4:2:2", "4:2:0", None)]
    done = decoder.decode(bodies)
    if done != list(range(len(bodies))):
        return f"it decodes {len(done)} of {len(bodies)} JPEGs"
    expected = np.stack([decode(body, steps, max_pixels=1 << 20) for body in bodies]).astype(np.int16)
    worst = float(np.abs(decoder.pixels(len(bodies)) - expected).mean(axis=(1, 2, 3)).max())
    return f"its pixels differ by {worst:.2f} levels" if worst > TOLERANCE else None


def _sample(subsampling: str | None) -> bytes:
    """A JPEG of soft coloured blotches, grey for None: where chroma is interpolated differently, it shows."""
    blotches = np.random.default_rng(0).integers(0, 256, (24, 32, 3), np.uint8)
    image = Image.fromarray(blotches).resize((333, 251), Image.Resampling.BICUBIC)
    file = BytesIO()
    if subsampling is None:
        image.convert("L").save(file, "JPEG", quality=90)
    else:
        image.save(file, "JPEG", quality=90, subsampling=subsampling)
    return file.getvalue()


def _picture(bitmap: Bitmap, steps: Preprocessing) -> tuple[Any, ...]:
    """A record of _PICTURE, of which `between` is still open."""
    side = steps.crop
    x, y = windows((bitmap.width, bitmap.height), steps)
    pixels = bitmap.address + x.first * 3 + y.first * bitmap.pitch
    axes: list[tuple[Window, int, int]] = [(x, 3, 3), (y, bitmap.pitch, 3 * side)]  # with its step, and in the image
    if _rows_first(x, y, side):
        axes.reverse()
    seen, step, out = zip(*axes, strict=True)
    lengths = [window.last - window.first for window in seen]
    return pixels, step, 0, out, lengths, [window.start for window in seen], [window.end for window in seen]


def _rows_first(x: Window, y: Window, side: int) -> bool:
    """Whether Pillow 13 would shrink the height before the width; eight bits between them, so it shows."""
    fewer_rows, fewer_columns = y.last - y.first - side, x.last - x.first - side
    return fewer_rows > 0 and fewer_rows > 2 * fewer_columns


def _taps(pictures: NDArray[Any], side: int) -> int:
    """The most pixels that the filter covers in any of the pictures."""
    scale = float((pictures["end"] - pictures["start"]).max()) / side
    return 2 * math.ceil(2 * max(scale, 1)) + 1
