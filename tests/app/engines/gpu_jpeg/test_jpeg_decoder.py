"""JPEGs on the GPU. Where there is none, the kernels run on the CPU: see tests.support.kernel_on_cpu."""

import ctypes
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from io import BytesIO
from unittest.mock import MagicMock, patch

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from app.decoding.image_decoding import decode
from app.engines.gpu.device import Address, DeviceError
from app.engines.gpu_jpeg import jpeg_decoder
from app.engines.gpu_jpeg.jpeg_decoder import JpegDecoder, open_jpeg_decoder, self_test
from app.engines.gpu_jpeg.jpeg_device import Bitmap
from app.engines.interface import EngineRefused
from model.spec import PREPROCESSING, Preprocessing
from tests.support.kernel_on_cpu import KernelOnCpu, by_pillow, compiled
from tests.support.modules import loaded_anew
from tests.support.pictures import encoded, scene

STEPS = Preprocessing(36, 32)
LIMIT = 50_000_000
SUBSAMPLINGS = ("4:4:4", "4:2:2", "4:2:0", "grey")
# PyTorch for CUDA has packages named nvidia.…, and not this one.
NVIMAGECODEC = find_spec("nvidia") is not None and find_spec("nvidia.nvimgcodec") is not None
needs_nvimagecodec = pytest.mark.skipif(not NVIMAGECODEC, reason="needs nvImageCodec")


@pytest.fixture(scope="session")
def kernels(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    library = compiled(tmp_path_factory.mktemp("kernels"))
    if library is None:
        pytest.skip("needs g++, which compiles the GPU's kernels for the CPU")
    return library


@contextmanager
def decoding(gpu: KernelOnCpu, steps: Preprocessing = STEPS, max_pixels: int = LIMIT) -> Iterator[JpegDecoder]:
    decoder = JpegDecoder(gpu, steps, max_pixels)
    yield decoder
    decoder.close()
    assert gpu.memory == {}
    assert gpu.closed


def photograph(width: int, height: int, subsampling: str = "4:2:0", seed: int = 0, quality: int = 90) -> bytes:
    """The JPEG of smooth noise in colours, with structure at every size, as photographs have it."""
    rng = np.random.default_rng(seed)
    pixels = np.full((height, width, 3), 128.0)
    for size in (3, 7, 17, 60):
        noise = Image.fromarray(rng.integers(0, 256, (size, size, 3), np.uint8))
        pixels += 0.4 * (np.asarray(noise.resize((width, height), Image.Resampling.BICUBIC), float) - 128)
    image = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
    if subsampling == "grey":
        return encoded(image.convert("L"), "JPEG", quality=quality)
    return encoded(image, "JPEG", quality=quality, subsampling=subsampling)


def expected(bodies: Sequence[bytes], steps: Preprocessing = STEPS) -> NDArray[np.uint8]:
    return np.stack([decode(body, steps, LIMIT) for body in bodies])


class Uncompressed(KernelOnCpu):
    """Stands in for a decoder too: gives `pixels`, whatever it is asked to decode."""

    def __init__(self, kernels: ctypes.CDLL, pixels: Sequence[NDArray[np.uint8]]) -> None:
        super().__init__(kernels, lambda _: pixels)


lengths = st.one_of(st.integers(1, 40), st.integers(1, 400))


@settings(max_examples=150, deadline=None, derandomize=True, database=None)
@given(width=lengths, height=lengths, crop=st.integers(1, 70), margin=st.integers(0, 20), seed=st.integers(0, 9))
def test_the_kernels_resize_as_pillow_to_the_bit(
    kernels: ctypes.CDLL, width: int, height: int, crop: int, margin: int, seed: int
) -> None:
    steps = Preprocessing(crop + margin, crop)
    noise = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    header = encoded(Image.new("RGB", (width, height)), "JPEG")
    with decoding(Uncompressed(kernels, [noise]), steps) as decoder:
        assert decoder.decode([header]) == [0]
        assert np.array_equal(decoder.pixels(1)[0], decode(encoded(Image.fromarray(noise)), steps, LIMIT))


@pytest.mark.parametrize("steps", [*PREPROCESSING.values(), Preprocessing(274, 240)], ids=str)
def test_a_batch_of_all_kinds_and_sizes_has_the_pixels_of_the_cpu(kernels: ctypes.CDLL, steps: Preprocessing) -> None:
    sizes = [(500, 375), (333, 500), (1, 1), (2, 900), (1600, 3), (17, 15), (1201, 800), (224, 224)]
    bodies = [photograph(*size, kind) for size, kind in zip(sizes, SUBSAMPLINGS * 2, strict=True)]
    with decoding(KernelOnCpu(kernels), steps) as decoder:
        assert decoder.decode(bodies) == list(range(len(bodies)))
        assert np.array_equal(decoder.pixels(len(bodies)), expected(bodies, steps))


def test_rows_may_be_padded(kernels: ctypes.CDLL) -> None:
    body = photograph(101, 67)
    padded = np.zeros((67, 128, 3), np.uint8)[:, :101]
    padded[:] = np.asarray(Image.open(BytesIO(body)))
    with decoding(Uncompressed(kernels, [padded])) as decoder:
        assert decoder.decode([body]) == [0]
        assert np.array_equal(decoder.pixels(1), expected([body]))


def test_what_is_not_plain_or_fails_costs_itself_and_no_other(kernels: ctypes.CDLL) -> None:
    good = [photograph(60 + seed, 50, seed=seed) for seed in range(4)]
    png, progressive = encoded(scene(60, 50)), encoded(scene(60, 50), "JPEG", progressive=True)
    damaged = good[0].replace(b"\x01\x22\0\x02", b"\x01\x22\3\x02")  # a table that is not there
    too_large = photograph(300, 200)
    bodies = [png, good[0], b"", damaged, good[1], progressive, good[2], too_large, good[3], good[0][:900]]
    with decoding(KernelOnCpu(kernels), max_pixels=5000) as decoder:
        assert decoder.decode(bodies) == [1, 4, 6, 8]
        assert np.array_equal(decoder.pixels(4), expected(good))


def test_a_batch_without_a_jpeg(kernels: ctypes.CDLL) -> None:
    gpu = KernelOnCpu(kernels)
    with decoding(gpu) as decoder:
        assert decoder.decode([]) == []
        assert decoder.decode([b"x"]) == []
        assert gpu.calls == []


def test_a_size_other_than_the_headers_is_not_believed(kernels: ctypes.CDLL) -> None:
    turned = np.zeros((60, 50, 3), np.uint8)
    with decoding(Uncompressed(kernels, [turned])) as decoder:
        assert decoder.decode([photograph(60, 50)]) == []


def test_a_bound_on_the_pixels_that_are_decoded_at_a_time(
    kernels: ctypes.CDLL, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jpeg_decoder, "_MOST_PIXELS_AT_A_TIME", 10_000)
    sizes = [(50, 100), (50, 100), (10, 10), (200, 100), (60, 60), (50, 50)]
    bodies = [photograph(*size) for size in sizes]
    gpu = KernelOnCpu(kernels)
    with decoding(gpu) as decoder:
        assert decoder.decode(bodies) == list(range(6))
        assert gpu.calls == [2, 1, 1, 2]
        assert np.array_equal(decoder.pixels(6), expected(bodies))


def test_memory_is_used_again(kernels: ctypes.CDLL) -> None:
    gpu = KernelOnCpu(kernels)
    with decoding(gpu) as decoder:
        for count in (3, 8, 1, 8):
            bodies = [photograph(90, 60, seed=seed) for seed in range(count)]
            decoder.decode(bodies)
            assert np.array_equal(decoder.pixels(count), expected(bodies))
        taken = set(gpu.memory)
        decoder.decode([photograph(80, 60) for _ in range(8)])
        assert set(gpu.memory) == taken


def mutated(body: bytes, seed: int) -> bytes:
    """`body` with one to three bytes changed."""
    rng = np.random.default_rng(seed)
    changed = bytearray(body)
    for place in rng.integers(0, len(body), rng.integers(1, 4)):
        changed[place] = rng.integers(0, 256)
    return bytes(changed)


def test_bytes_mutated_at_random_never_fail_a_batch(kernels: ctypes.CDLL) -> None:
    body = photograph(40, 30)
    damaged = [mutated(body, seed) for seed in range(300)]
    with decoding(KernelOnCpu(kernels)) as decoder:
        done = decoder.decode([body, *damaged, *(body[:length] for length in range(0, len(body), 20))])
        assert 0 in done
        assert 20 < len(done) < 300
        assert np.array_equal(decoder.pixels(1), expected([body]))


def test_the_decoder_is_compared_with_the_cpu_before_it_is_believed(kernels: ctypes.CDLL) -> None:
    with decoding(KernelOnCpu(kernels), PREPROCESSING[224]) as decoder:
        assert self_test(decoder, PREPROCESSING[224]) is None


def with_repeated_chroma(bodies: Sequence[bytes]) -> list[NDArray[np.uint8] | None]:
    """What a decoder gives that does not interpolate chroma: each sample for two by two pixels."""
    results: list[NDArray[np.uint8] | None] = []
    for pixels in by_pillow(bodies):
        assert pixels is not None
        ycc = np.asarray(Image.fromarray(pixels).convert("YCbCr")).copy()
        chroma = ycc[::2, ::2, 1:].repeat(2, 0).repeat(2, 1)
        ycc[..., 1:] = chroma[: ycc.shape[0], : ycc.shape[1]]
        results.append(
            np.asarray(Image.merge("YCbCr", [Image.fromarray(band) for band in ycc.transpose(2, 0, 1)]).convert("RGB"))
        )
    return results


def test_a_decoder_that_shifts_colours_or_loses_images_is_found(kernels: ctypes.CDLL) -> None:
    def brighter(bodies: Sequence[bytes]) -> list[NDArray[np.uint8] | None]:
        return [None if pixels is None else np.minimum(pixels, 250) + 2 for pixels in by_pillow(bodies)]

    for decode_wrongly, words in (
        (brighter, r"its pixels differ by [12]\.\d\d levels"),
        (with_repeated_chroma, r"its pixels differ by [1-9]\.\d\d levels"),
        (lambda bodies: [None, *by_pillow(bodies)[1:]], "it decodes 3 of 4 JPEGs"),
    ):
        with decoding(KernelOnCpu(kernels, decode_wrongly), PREPROCESSING[224]) as decoder:
            found = self_test(decoder, PREPROCESSING[224])
            assert found is not None
            assert re.fullmatch(words, found)


def test_a_decoder_is_refused_without_a_gpu_or_with_wrong_pixels(kernels: ctypes.CDLL) -> None:
    def no_driver() -> KernelOnCpu:
        raise DeviceError("cudaErrorInsufficientDriver while opening the GPU")

    open_jpeg_decoder(PREPROCESSING[224], LIMIT, lambda: KernelOnCpu(kernels)).close()
    with pytest.raises(EngineRefused, match="there is no GPU here that CUDA can use"):
        open_jpeg_decoder(PREPROCESSING[224], LIMIT, lambda: None)
    with pytest.raises(
        EngineRefused, match="the GPU cannot be used: cudaErrorInsufficientDriver while opening the GPU"
    ):
        open_jpeg_decoder(PREPROCESSING[224], LIMIT, no_driver)
    wrong = KernelOnCpu(kernels, with_repeated_chroma)
    with pytest.raises(EngineRefused, match=r"it is not as good as the CPU: its pixels differ by \d"):
        open_jpeg_decoder(PREPROCESSING[224], LIMIT, lambda: wrong)
    assert wrong.closed
    assert wrong.memory == {}


def test_a_decoder_that_fails_its_trial_is_closed(kernels: ctypes.CDLL) -> None:
    class Broken(KernelOnCpu):
        def wait(self) -> None:
            raise DeviceError("cudaErrorIllegalAddress while decoding JPEGs")

        def give_back(self, address: Address) -> None:
            super().give_back(address)
            raise DeviceError("cudaErrorIllegalAddress while giving GPU memory back")

    gpu = Broken(kernels)
    with pytest.raises(EngineRefused, match=r"it failed when it was tried: .* while decoding JPEGs"):
        open_jpeg_decoder(PREPROCESSING[224], LIMIT, lambda: gpu)
    assert gpu.closed


def test_closing_waits_and_lets_the_images_go_before_their_stream_ends() -> None:
    """With fakes of the libraries, none of which need be here."""
    done: list[str] = []

    class Decoded:
        def __del__(self) -> None:
            done.append("image")

    def told(name: str) -> Callable[[object], tuple[int]]:
        def call(_: object) -> tuple[int]:
            done.append(name)
            return (0,)

        return call

    runtime = MagicMock(cudaStreamSynchronize=told("wait"), cudaStreamDestroy=told("stream"))
    runtime.cudaError_t.cudaSuccess = 0
    bindings = MagicMock(runtime=runtime)
    with patch.dict(sys.modules, {"cuda": MagicMock(), "cuda.bindings": bindings, "nvidia": MagicMock()}):
        nvimage = loaded_anew("app.engines.gpu_jpeg.nvimagecodec")
    gpu = nvimage.NvidiaJpegDevice.__new__(nvimage.NvidiaJpegDevice)
    gpu._stream, gpu._codec = 1, nvimage.Codec(gpu=True)
    gpu._codec._decoded = gpu._codec._kept = [Decoded()]
    gpu.close()
    assert done == ["wait", "image", "stream"]


@pytest.mark.skipif(NVIMAGECODEC, reason="nvImageCodec is installed")
def test_without_nvimagecodec_it_says_what_to_install() -> None:
    with pytest.raises(EngineRefused, match=r"nvImageCodec is not installed .*: pip install .*\[nvimgcodec\]'"):
        open_jpeg_decoder(PREPROCESSING[224], LIMIT)


def test_a_device_error_is_not_hidden(kernels: ctypes.CDLL) -> None:
    class Broken(KernelOnCpu):
        def wait(self) -> None:
            raise DeviceError("cudaErrorIllegalAddress while decoding JPEGs")

    decoder = JpegDecoder(Broken(kernels), STEPS, LIMIT)
    with pytest.raises(DeviceError, match="cudaErrorIllegalAddress"):
        decoder.decode([photograph(60, 50)])


# nvImageCodec itself, and the compiler that comes with CUDA, where they are installed


@needs_nvimagecodec
def test_nvimagecodec_on_the_cpu_decodes_as_pillow_does() -> None:
    from app.engines.gpu_jpeg import nvimagecodec

    codec = nvimagecodec.Codec(gpu=False)
    for start in (0, 3, 1):
        bodies = [photograph(70 + 30 * start, 50, kind, seed=start) for kind in SUBSAMPLINGS]
        bodies[1:1] = [b"", bodies[0][:400]]
        bitmaps = codec.decode(bodies)
        assert [bitmap is None for bitmap in bitmaps] == [False, True, True, False, False, False]
        for bitmap, pixels in zip(bitmaps, by_pillow(bodies), strict=True):
            if bitmap is not None and pixels is not None:
                assert np.array_equal(host(bitmap), pixels)


def host(bitmap: Bitmap) -> NDArray[np.uint8]:
    raw = (ctypes.c_uint8 * (bitmap.pitch * bitmap.height)).from_address(bitmap.address)
    return (
        np.ctypeslib.as_array(raw)
        .reshape(bitmap.height, bitmap.pitch)[:, : 3 * bitmap.width]
        .reshape(bitmap.height, bitmap.width, 3)
    )


@needs_nvimagecodec
def test_the_kernels_compile_for_every_gpu_that_the_compiler_knows() -> None:
    from app.engines.gpu_jpeg import nvimagecodec

    pathfinder = pytest.importorskip("cuda.pathfinder")
    try:
        pathfinder.load_nvidia_dynamic_lib("nvrtc")
    except pathfinder.DynamicLibNotFoundError:
        pytest.skip("needs NVRTC")
    from cuda.bindings import nvrtc

    _, architectures = nvrtc.nvrtcGetSupportedArchs()
    assert {80, 89, 90, 100, 120} <= set(architectures)  # A100, L4, H100 and H200, B200, RTX PRO 6000
    for architecture in architectures:
        assert nvimagecodec.compiled(f"sm_{architecture}").startswith(b"\x7fELF"), architecture


# On a GPU


@pytest.mark.gpu
@needs_nvimagecodec
@pytest.mark.parametrize("steps", [*PREPROCESSING.values(), Preprocessing(274, 240)], ids=str)
def test_on_a_gpu_pixels_are_those_of_the_cpu(steps: Preprocessing) -> None:
    from app.engines.gpu_jpeg import nvimagecodec

    gpu = nvimagecodec.find_jpeg_device()
    assert gpu is not None
    decoder = JpegDecoder(gpu, steps, LIMIT)
    assert self_test(decoder, steps) is None
    sizes = [(500, 375), (333, 501), (1, 1), (2, 900), (1600, 3), (17, 15), (4001, 3000), (8, 8)]
    for kind in SUBSAMPLINGS:
        bodies = [photograph(*size, kind) for size in sizes]
        done = decoder.decode(bodies)
        assert {0, 1, 6} <= set(done)  # it may leave the tiny ones to the CPU
        difference = np.abs(decoder.pixels(len(done)) - expected([bodies[index] for index in done]).astype(np.int16))
        assert difference.mean() <= 0.5
        assert difference.max() <= 12
    decoder.close()


@pytest.mark.gpu
@needs_nvimagecodec
def test_on_a_gpu_the_kernels_resize_as_pillow_to_the_bit() -> None:
    from app.engines.gpu_jpeg import nvimagecodec

    gpu = nvimagecodec.find_jpeg_device()
    assert gpu is not None
    steps = PREPROCESSING[224]
    noise = np.random.default_rng(0).integers(0, 256, (375, 500, 3), np.uint8)
    address: Address = gpu.take(noise.nbytes)
    gpu.copy_in(address, noise)
    gpu.decode = lambda bodies: [Bitmap(address, 1500, 500, 375)] * len(bodies)  # type: ignore[method-assign]
    decoder = JpegDecoder(gpu, steps, LIMIT)
    assert decoder.decode([photograph(500, 375)] * 3) == [0, 1, 2]
    assert np.array_equal(decoder.pixels(3)[2], decode(encoded(Image.fromarray(noise)), steps, LIMIT))
    gpu.give_back(address)
    decoder.close()


@pytest.mark.gpu
@needs_nvimagecodec
def test_on_a_gpu_damaged_ones_cost_themselves_and_no_other() -> None:
    from app.engines.gpu_jpeg import nvimagecodec

    gpu = nvimagecodec.find_jpeg_device()
    assert gpu is not None
    decoder = JpegDecoder(gpu, STEPS, LIMIT)
    good = photograph(300, 200)
    for start in range(0, 800, 16):
        bodies = [good, *(mutated(good, seed) for seed in range(start, start + 16))]
        done = decoder.decode(bodies)
        assert done[0] == 0
        assert np.abs(decoder.pixels(1) - expected([good]).astype(np.int16)).mean() <= 0.5
    decoder.close()
