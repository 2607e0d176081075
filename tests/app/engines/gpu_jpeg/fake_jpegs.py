"""JPEGs on a GPU that is not there, in workers: see kernel_on_cpu. What it does stands in a file that a test changes.

`FAKE_JPEGS` in the environment names the folder of that file and of the kernels. The words are those in `_Fake`.
"""

import ctypes
import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from app.engines.gpu.device import DeviceError
from app.engines.gpu_jpeg import jpeg_decoder
from app.engines.gpu_jpeg.jpeg_device import Bitmap
from tests.support.kernel_on_cpu import KernelOnCpu, compiled

FOLDER = "FAKE_JPEGS"
_CUSTOMIZE = "from tests.app.engines.gpu_jpeg import fake_jpegs\nfake_jpegs.register()\n"


class Jpegs:
    def __init__(self, file: Path) -> None:
        self._file = file

    def do(self, word: str) -> None:
        """What decoding does from now on; at a start too."""
        self._file.write_text(word)


def in_workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Jpegs:
    """A fake GPU for the workers that this process starts from now on, which "works"."""
    if compiled(tmp_path) is None:
        pytest.skip("needs g++, which compiles the GPU's kernels for the CPU")
    (tmp_path / "sitecustomize.py").write_text(_CUSTOMIZE)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{Path(__file__).parents[4]}")
    monkeypatch.setenv(FOLDER, str(tmp_path))
    jpegs = Jpegs(tmp_path / "word")
    jpegs.do("works")
    return jpegs


def register() -> None:
    jpeg_decoder._find = _find


def _find() -> "_Fake | None":
    folder = Path(os.environ[FOLDER])
    return None if _word() == "gone" else _Fake(ctypes.CDLL(str(folder / "kernels.so")))


class _Fake(KernelOnCpu):
    def decode(self, bodies: Sequence[bytes]) -> list[Bitmap | None]:
        bitmaps = super().decode(bodies)
        match _word():
            case "crashes":
                os.kill(os.getpid(), signal.SIGSEGV)
            case "hangs":
                time.sleep(1000)
            case "fails":
                raise DeviceError("cudaErrorIllegalAddress while decoding JPEGs")
            case "skips":
                return [None if index % 2 else bitmap for index, bitmap in enumerate(bitmaps)]
            case "skips all":
                return [None] * len(bodies)
        return bitmaps


def _word() -> str:
    return (Path(os.environ[FOLDER]) / "word").read_text()
